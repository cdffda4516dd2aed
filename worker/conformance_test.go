package worker_test

import (
	"context"
	"errors"
	"regexp"
	"testing"
	"time"

	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
	"github.com/stepward/stepward/workflow/workflowtest"
)

var twice = workflow.NewStep("twice", func(ctx context.Context, n int) (int, error) {
	if info, _ := workflow.StepInfoFrom(ctx); info.Attempt == 1 {
		return 0, errors.New("not at first")
	}
	return n, nil
}, workflow.StepOptions{Retry: workflow.Retry{MaxAttempts: 2, Backoff: time.Millisecond}})

var broken = workflow.NewStep("broken", func(context.Context, int) (int, error) { return 0, errors.New("broken") },
	workflow.StepOptions{Retry: workflow.Retry{MaxAttempts: 2, Backoff: time.Millisecond}})

// What differs between two runs of the same: ids and times.
var individual = regexp.MustCompile(`run_[0-9a-z]{13}|\d{4}-\d\d-\d\dT[0-9:.]+Z`)

// What workflowtest records is what a worker records.
func TestConformance(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	kid := workflow.DurableWorkflow[int, int]{Name: "kid"}
	kidV1 := workflow.Define(kid, func(ctx workflow.Context, n int) (int, error) { return double.Run(ctx, n) }, workflow.Options{Steps: []workflow.Declared{double}})
	for name, body := range map[string]bodyOf{
		"steps":   passes(double, keep, double),
		"retries": passes(twice, double),
		"fails":   passes(double, broken),
		"map": func(ctx workflow.Context, n int) (int, error) {
			outs, err := workflow.Map(ctx, []int{n, 2, 3}, double, workflow.MapOptions{Limit: 1})
			return sum(outs), err
		},
		"branches": func(ctx workflow.Context, n int) (int, error) {
			outs, err := workflow.MapFunc(ctx, "each", []int{n, 2, 3}, func(ctx workflow.Context, n int) (int, error) {
				return passes(keep, double)(ctx, n)
			}, workflow.MapOptions{Limit: 1})
			return sum(outs), err
		},
		"time": func(ctx workflow.Context, n int) (int, error) {
			ctx.Now()
			limited, cancel := ctx.WithTimeout(time.Millisecond)
			defer cancel()
			if _, err := note.Receive(limited, 0); !errors.Is(err, workflow.ErrTimeout) {
				return 0, err
			}
			if _, err := note.Receive(ctx, time.Millisecond); !errors.Is(err, workflow.ErrTimeout) {
				return 0, err
			}
			return n, workflow.Sleep(ctx, time.Millisecond)
		},
		"child": func(ctx workflow.Context, n int) (int, error) {
			n, err := kid.Run(ctx, n)
			if err != nil {
				return 0, err
			}
			return keep.Run(ctx, n)
		},
		"patched": func(ctx workflow.Context, n int) (int, error) {
			if ctx.Patched("it") {
				n++
			}
			return keep.Run(ctx, n)
		},
		"finally": func(ctx workflow.Context, n int) (int, error) {
			ctx.Finally(func(ctx workflow.Context) error { _, err := keep.Run(ctx, 1); return err })
			return passes(double, broken)(ctx, n)
		},
		"anew": func(ctx workflow.Context, n int) (int, error) {
			if n, err := keep.Run(ctx, n); err != nil || n == 5 {
				return n, err
			}
			return 0, changing.ContinueAsNew(5)
		},
	} {
		d := defines(body, double, keep, twice, broken)
		stop := f.start(worker.Config{Workflows: []*workflow.Definition{d, kidV1}})
		run := f.enqueue(21)
		_, err := outcome(t, f.client, run)
		stop()
		var failed *workflow.RecordedError
		if err != nil && !errors.As(err, &failed) {
			t.Fatalf("%s: %v", name, err)
		}
		produced, err := f.client.Export(t.Context(), run.ID)
		if err != nil {
			t.Fatal(err)
		}
		e := workflowtest.New(t, d, kidV1)
		if _, err := workflowtest.Execute(e, changing, 21); err != nil && !errors.As(err, &failed) {
			t.Errorf("%s: %v", name, err)
		}
		test, err := e.History()
		if err != nil {
			t.Fatal(err)
		}
		common := func(history []byte) string {
			return regexp.MustCompile(`(?m)^  "tenant".*\n`).ReplaceAllString(individual.ReplaceAllString(string(history), "*"), "")
		}
		if common(produced) != common(test) {
			t.Errorf("%s: a worker records\n%s\nworkflowtest\n%s", name, produced, test)
		}
	}
}
