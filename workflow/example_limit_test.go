package workflow_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/stepward/stepward/workflow"
)

// At most two pages of a tenant are rendered at once, on all workers together, and
// 1,000 begin in a minute.
func ExampleLimit() {
	ctx := context.Background()
	var rendering atomic.Int32
	page := workflow.NewStep("page", func(ctx context.Context, page int) (int, error) {
		defer rendering.Add(-1)
		if n := rendering.Add(1); n > 2 {
			return 0, workflow.Permanent(fmt.Errorf("%d at once", n))
		}
		return page, nil
	}, workflow.StepOptions{})
	render := workflow.DurableWorkflow[int, int]{Name: "render"}
	client, _, stop := serve(ctx, workflow.Define(render, func(ctx workflow.Context, n int) (int, error) {
		return page.Run(ctx, n)
	}, workflow.Options{Steps: []workflow.Declared{page}}))
	defer stop()
	var runs []workflow.Run[int]
	for n := range 10 {
		run, err := render.Enqueue(ctx, client, n, workflow.EnqueueOptions{
			Tenant: "acme",
			Limit:  workflow.Limit{Key: "render/acme", Concurrency: 2, Rate: 1000, Per: time.Minute},
		})
		if err != nil {
			fmt.Println(err)
			return
		}
		runs = append(runs, run)
	}
	sum := 0
	for _, run := range runs {
		n, err := run.Result(ctx)
		if err != nil {
			fmt.Println(err)
		}
		sum += n
	}
	fmt.Println(sum)
	// Output: 45
}
