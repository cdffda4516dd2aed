package workflow_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/stepward/stepward/workflow"
	"github.com/stepward/stepward/workflow/workflowtest"
)

// A run shows how far it has got: the latest value counts, be it of the body or of
// a step that executes. Progress.Get reads it.
func ExampleProgress() {
	type copied struct{ Done, Of int }
	progress := workflow.Progress[copied]{Name: "copied"}
	files := workflow.NewStep("files", func(ctx context.Context, n int) (int, error) {
		for i := range n {
			if err := progress.SetInStep(ctx, copied{i + 1, n}); err != nil {
				return 0, err
			}
		}
		return n, nil
	}, workflow.StepOptions{})
	backup := workflow.DurableWorkflow[int, int]{Name: "backup"}
	definition := workflow.Define(backup, func(ctx workflow.Context, n int) (int, error) {
		if err := progress.Set(ctx, copied{0, n}); err != nil {
			return 0, err
		}
		return files.Run(ctx, n)
	}, workflow.Options{Steps: []workflow.Declared{files}})

	e := workflowtest.New(nil, definition)
	fmt.Println(workflowtest.Execute(e, backup, 3))
	shown, _, err := workflowtest.Progress(e, progress)
	fmt.Printf("%+v %v\n", shown, err)
	// Output:
	// 3 <nil>
	// {Done:3 Of:3} <nil>
}

// An attribute is a tag by which [Client.Runs] finds runs, as [RunFilter] says. The
// body changes those that the run was enqueued with.
func ExampleContext_SetAttribute() {
	order := workflow.DurableWorkflow[int, int]{Name: "order"}
	definition := workflow.Define(order, func(ctx workflow.Context, cents int) (int, error) {
		return cents, errors.Join(ctx.SetAttribute("state", "paid"), ctx.SetAttribute("cents", cents))
	}, workflow.Options{})

	e := workflowtest.New(nil, definition)
	fmt.Println(workflowtest.Execute(e, order, 995))
	fmt.Println(e.Runs()[0].Attributes)
	// Output:
	// 995 <nil>
	// map[cents:995 state:paid]
}
