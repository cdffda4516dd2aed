package workflow_test

import (
	"context"
	"fmt"

	"github.com/stepward/stepward/workflow"
	"github.com/stepward/stepward/workflow/workflowtest"
)

// A step that must not begin twice when nobody knows how far it came: it fails, and the
// body decides. In workflowtest no sandbox is ever lost.
func ExampleStepOptions_onSandboxLost() {
	pay := workflow.NewStep("pay", func(ctx context.Context, invoice string) (string, error) {
		return "paid " + invoice, nil
	}, workflow.StepOptions{Mode: workflow.Sandboxed, OnSandboxLost: workflow.Permanent})
	settle := workflow.DurableWorkflow[string, string]{Name: "settle"}
	definition := workflow.Define(settle, func(ctx workflow.Context, invoice string) (string, error) {
		return pay.Run(ctx, invoice)
	}, workflow.Options{Steps: []workflow.Declared{pay}})

	fmt.Println(workflowtest.Run(settle, definition, "invoice 7"))
	// Output: paid invoice 7 <nil>
}
