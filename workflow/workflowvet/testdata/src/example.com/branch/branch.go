// Package branch has functions of a body, each with a workflow.Context of its own.
package branch

import (
	"context"
	"time"

	"github.com/stepward/stepward/workflow"
)

// contexts: each function uses the one that it is given.
func contexts(ctx workflow.Context, n int) (int, error) {
	short, stop := ctx.WithTimeout(time.Hour)
	defer stop()
	workflow.Go(short, "mine", func(own workflow.Context) (int, error) {
		ctx.Logger().Info("same for all")
		if err := workflow.Sleep(ctx, time.Hour); err != nil { // want `ctx is the workflow.Context of another function`
			return 0, err
		}
		inner := func() error { return workflow.Sleep(short, time.Hour) } // want `short is the workflow.Context of another function`
		if err := inner(); err != nil {
			return 0, err
		}
		return n, workflow.Sleep(own, time.Hour)
	})
	workflow.MapFunc(ctx, "each", []int{1}, func(_ workflow.Context, n int) (int, error) {
		_ = ctx.Now() // want `ctx is the workflow.Context of another function`
		return n, nil
	}, workflow.MapOptions{})
	ctx.Finally(func(ctx workflow.Context) error { return workflow.Sleep(ctx, time.Hour) })
	later := func() error { return workflow.Sleep(ctx, time.Hour) }
	workflow.NewStep("step", func(context.Context, int) (int, error) {
		return 0, workflow.Sleep(ctx, time.Hour) // want `the function of a step uses the body's workflow.Context`
	}, workflow.StepOptions{})
	return n, later()
}
