package workflow_test

import (
	"context"
	"fmt"

	"github.com/stepward/stepward/workflow"
)

// Of the runs that wait for a place, the urgent one is first, and what is done at
// night is last.
func ExampleEnqueueOptions_priority() {
	ctx := context.Background()
	began := make(chan string, 4)
	note := workflow.NewStep("note", func(_ context.Context, name string) (string, error) {
		began <- name
		return name, nil
	}, workflow.StepOptions{})
	render := workflow.DurableWorkflow[string, string]{Name: "render"}
	client, _, stop := serve(ctx, workflow.Define(render, func(ctx workflow.Context, name string) (string, error) {
		return note.Run(ctx, name)
	}, workflow.Options{Steps: []workflow.Declared{note}}))
	defer stop()
	var runs []workflow.Run[string]
	for run, err := range render.EnqueueMany(ctx, client, func(yield func(string, workflow.EnqueueOptions) bool) {
		for _, x := range []struct {
			name     string
			priority int
		}{{"report", -60}, {"page", 0}, {"preview", 10}, {"another page", 0}} {
			if !yield(x.name, workflow.EnqueueOptions{Priority: x.priority, Limit: workflow.Limit{Key: "render", Concurrency: 1}}) {
				return
			}
		}
	}) {
		if err != nil {
			fmt.Println(err)
			return
		}
		runs = append(runs, run)
	}
	for _, run := range runs {
		if _, err := run.Result(ctx); err != nil {
			fmt.Println(err)
		}
	}
	for range runs {
		fmt.Println(<-began)
	}
	// Output:
	// preview
	// page
	// another page
	// report
}
