// Command fanout executes a step for each of 1,000 items, fifty at a time, and
// adds up what they return. Each result is recorded; results that are there
// together share a commit.
//
//	go run ./examples/fanout
package main

import (
	"context"
	"fmt"

	"github.com/stepward/stepward/examples/internal/app"
	"github.com/stepward/stepward/workflow"
)

// Sum is the workflow: it adds up the squares of the numbers below its input.
var Sum = workflow.DurableWorkflow[int, int]{Name: "sum-of-squares"}

var square = workflow.NewStep("square", func(_ context.Context, n int) (int, error) {
	return n * n, nil
}, workflow.StepOptions{})

var sumV1 = workflow.Define(Sum, func(ctx workflow.Context, n int) (int, error) {
	numbers := make([]int, n)
	for i := range numbers {
		numbers[i] = i
	}
	squares, err := workflow.Map(ctx, numbers, square, workflow.MapOptions{Limit: 50})
	if err != nil {
		return 0, err
	}
	sum := 0
	for _, s := range squares { // in the order of the numbers
		sum += s
	}
	return sum, nil
}, workflow.Options{Steps: []workflow.Declared{square}})

func main() { app.Main(example) }

func example(ctx context.Context, a *app.App) error {
	defer a.Work(ctx, sumV1)()
	run, err := Sum.Enqueue(ctx, a.Client, 1000, workflow.EnqueueOptions{})
	if err != nil {
		return err
	}
	sum, err := run.Result(ctx)
	if err != nil {
		return err
	}
	recorded, last := 0, ""
	for after := 0; ; {
		steps, err := a.Client.Steps(ctx, run.ID, after)
		if err != nil {
			return err
		}
		if len(steps) == 0 {
			break
		}
		recorded += len(steps)
		after, last = steps[len(steps)-1].Seq, steps[len(steps)-1].Step
	}
	fmt.Printf("sum %d, %d steps recorded, the last is %s\n", sum, recorded, last)
	return nil
}
