package workflow_test

import (
	"fmt"

	"github.com/stepward/stepward/workflow"
	"github.com/stepward/stepward/workflow/workflowtest"
)

// Orders that began before the change go on as they began; new ones are checked
// for fraud first.
func ExampleContext_Patched() {
	order := workflow.DurableWorkflow[string, string]{Name: "order"}
	check := workflow.NewStep("check", mail[string], workflow.StepOptions{})
	charge := workflow.NewStep("charge", mail[string], workflow.StepOptions{})
	steps := workflow.Options{Steps: []workflow.Declared{check, charge}}
	was := workflow.Define(order, func(ctx workflow.Context, customer string) (string, error) {
		return charge.Run(ctx, customer)
	}, steps)
	is := workflow.Define(order, func(ctx workflow.Context, customer string) (string, error) {
		if ctx.Patched("fraud-check") {
			if _, err := check.Run(ctx, customer); err != nil {
				return "", err
			}
		}
		return charge.Run(ctx, customer)
	}, steps)

	e := workflowtest.New(nil, was)
	_, err := workflowtest.Execute(e, order, "ada")
	history, herr := e.History()
	fmt.Println("begun before:", err, herr, workflowtest.Replay(is, history))

	e = workflowtest.New(nil, is)
	_, err = workflowtest.Execute(e, order, "grace")
	fmt.Println("begun after:", err)
	fmt.Print(e.Record())
	// Output:
	// begun before: <nil> <nil> <nil>
	// begun after: <nil>
	// patched:fraud-check = true
	// check = "a mail to grace"
	// charge = "a mail to grace"
}
