package workflowtest_test

import (
	"context"
	"errors"
	"testing"

	"github.com/stepward/stepward/workflow"
	"github.com/stepward/stepward/workflow/workflowtest"
)

// A body that loops without anything to wait for is parked with the reason.
func TestSpinningBodyParks(t *testing.T) {
	for name, call := range map[string]func(workflow.Context) error{
		"now":   func(ctx workflow.Context) error { ctx.Now(); return nil },
		"input": func(ctx workflow.Context) error { _, err := illegibly.Run(ctx, illegible{}); return err },
		"branch": func(ctx workflow.Context) error {
			_, err := workflow.Go(ctx, "b", func(workflow.Context) (int, error) { return 0, nil }).Get(ctx)
			return err
		},
		"canceled scope": func(ctx workflow.Context) error {
			ctx, cancel := ctx.WithCancel()
			cancel()
			_, err := hello.Receive(ctx, 0)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := workflowtest.New(t, workflow.Define(double, func(ctx workflow.Context, _ string) (string, error) {
				for {
					_ = call(ctx) // and try again
				}
			}, workflow.Options{Steps: []workflow.Declared{echo, illegibly}}))
			wants(t, e, "100000 durable calls in a row")
		})
	}
}

// What starts something is not counted, and neither is a long run.
func TestManyCallsDoNotSpin(t *testing.T) {
	items := make([]string, 1000)
	e := workflowtest.New(t, body(func(ctx workflow.Context, _ string) (string, error) {
		for range 101 {
			for range items {
				ctx.Now()
			}
			if _, err := echo.Run(ctx, "x"); err != nil {
				return "", err
			}
		}
		return "done", nil
	}))
	wants(t, e, "done")
}

// A body that starts more than a worker can hold is parked with the limit.
func TestTooMany(t *testing.T) {
	const million = 1_000_000
	items := make([]string, million)
	for name, test := range map[string]struct {
		body func(workflow.Context) error
		want string
	}{
		"steps":    {func(ctx workflow.Context) error { return each(million, func() { echo.Go(ctx, "") }) }, "10000 calls or branches under way"},
		"children": {func(ctx workflow.Context) error { return each(million, func() { inner.Go(ctx, "") }) }, "10000 calls or branches under way"},
		"waits":    {func(ctx workflow.Context) error { return each(million, func() { hello.Go(ctx, 0) }) }, "10000 calls or branches under way"},
		"branches": {func(ctx workflow.Context) error {
			return each(million, func() {
				workflow.Go(ctx, "b", func(ctx workflow.Context) (int, error) { return 0, workflow.Sleep(ctx, 1) })
			})
		}, "10000 calls or branches under way"},
		"map at once": {func(ctx workflow.Context) error {
			_, err := workflow.Map(ctx, items[:20_000], echo, workflow.MapOptions{Limit: million})
			return err
		}, "10000 calls or branches under way"},
		"functions at once": {func(ctx workflow.Context) error {
			_, err := workflow.MapFunc(ctx, "f", items, func(ctx workflow.Context, s string) (string, error) { return echo.Run(ctx, s) }, workflow.MapOptions{Limit: million})
			return err
		}, "10000 calls or branches under way"},
		"map": {func(ctx workflow.Context) error {
			_, err := workflow.Map(ctx, items, echo, workflow.MapOptions{})
			return err
		}, "200000 calls since it began"},
	} {
		t.Run(name, func(t *testing.T) {
			e := workflowtest.New(t, body(func(ctx workflow.Context, _ string) (string, error) { return "", test.body(ctx) }))
			wants(t, e, test.want)
		})
	}
}

func each(n int, f func()) error {
	for range n {
		f()
	}
	return nil
}

type illegible struct{ N int }

func (illegible) MarshalJSON() ([]byte, error) { return nil, errors.New("never") }

var illegibly = workflow.NewStep("illegibly", func(context.Context, illegible) (int, error) { return 0, nil }, workflow.StepOptions{})
