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

type illegible struct{ N int }

func (illegible) MarshalJSON() ([]byte, error) { return nil, errors.New("never") }

var illegibly = workflow.NewStep("illegibly", func(context.Context, illegible) (int, error) { return 0, nil }, workflow.StepOptions{})
