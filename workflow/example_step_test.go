package workflow_test

import (
	"context"
	"fmt"

	"github.com/stepward/stepward/workflow"
	"github.com/stepward/stepward/workflow/workflowtest"
)

func ExampleNewStep() {
	compose := workflow.NewStep("compose", func(ctx context.Context, name string) (string, error) {
		return "hello, " + name, nil
	}, workflow.StepOptions{})
	greeting := workflow.DurableWorkflow[string, string]{Name: "greeting"}
	definition := workflow.Define(greeting, func(ctx workflow.Context, name string) (string, error) {
		return compose.Run(ctx, name)
	}, workflow.Options{Steps: []workflow.Declared{compose}})

	out, err := workflowtest.Run(greeting, definition, "ada")
	fmt.Println(out, err)
	// Output: hello, ada <nil>
}

func ExampleStep_Go() {
	square := workflow.NewStep("square", func(ctx context.Context, n int) (int, error) {
		return n * n, nil
	}, workflow.StepOptions{})
	sum := workflow.DurableWorkflow[int, int]{Name: "sum"}
	definition := workflow.Define(sum, func(ctx workflow.Context, n int) (int, error) {
		a, b := square.Go(ctx, n), square.Go(ctx, n+1) // both run now
		x, err := a.Get(ctx)
		if err != nil {
			return 0, err
		}
		y, err := b.Get(ctx)
		return x + y, err
	}, workflow.Options{Steps: []workflow.Declared{square}})

	fmt.Println(workflowtest.Run(sum, definition, 3))
	// Output: 25 <nil>
}

func ExampleStepInfoFrom() {
	charge := workflow.NewStep("charge", func(ctx context.Context, cents int) (string, error) {
		info, _ := workflow.StepInfoFrom(ctx)
		return info.IdempotencyKey, nil // what a payment service would get
	}, workflow.StepOptions{})
	pay := workflow.DurableWorkflow[int, string]{Name: "pay"}
	definition := workflow.Define(pay, func(ctx workflow.Context, cents int) (string, error) {
		return charge.Run(ctx, cents)
	}, workflow.Options{Steps: []workflow.Declared{charge}})

	fmt.Println(workflowtest.Run(pay, definition, 100))
	// Output: run_0000000000002/charge <nil>
}
