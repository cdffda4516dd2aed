package workflowtest_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/stepward/stepward/workflow"
	"github.com/stepward/stepward/workflow/workflowtest"
)

// What a run shows is kept: of the body once, of a step for each attempt.
func TestShown(t *testing.T) {
	lines, share := workflow.Stream[string]{Name: "lines"}, workflow.Progress[int]{Name: "share"}
	var stale context.Context
	e := workflowtest.New(t, body(func(ctx workflow.Context, in string) (string, error) {
		if err := errors.Join(lines.Append(ctx, "begin"), share.Set(ctx, 1)); err != nil {
			return "", err
		}
		if err := workflow.Sleep(ctx, time.Hour); err != nil {
			return "", err
		}
		out, err := slow.Run(ctx, in)
		return out, errors.Join(err, lines.Append(ctx, "end"))
	}))
	n := 0
	workflowtest.Fake(e, slow, func(ctx context.Context, s string) (string, error) {
		n++
		err := errors.Join(lines.AppendInStep(ctx, fmt.Sprint("try ", n)), share.SetInStep(ctx, 50*n))
		if stale = ctx; n == 1 {
			return "", errors.Join(err, errors.New("again"))
		}
		return s, err
	})
	if _, at, err := workflowtest.Progress(e, share); err != nil || !at.IsZero() {
		t.Errorf("before the run: %v, %v", at, err)
	}
	e.After("slow", e.Crash)
	began := e.Now()
	wants(t, e, "in")
	got, err := workflowtest.Entries(e, lines)
	var text string
	for _, x := range got {
		text += fmt.Sprintf("%s %s %d, ", x.Value, x.Step, x.Attempt)
	}
	if want := "begin  0, try 1 slow 1, try 2 slow 2, end  0, "; err != nil || text != want || !got[0].At.Equal(began) || got[1].At.Sub(began) != time.Hour || got[0].Offset >= got[1].Offset {
		t.Errorf("got %q, %v; want %q; %+v", text, err, want, got)
	}
	if v, at, err := workflowtest.Progress(e, share); err != nil || v != 100 || at.Before(began.Add(time.Hour)) {
		t.Errorf("progress %d at %v, %v", v, at, err)
	}
	if err := lines.AppendInStep(stale, "late"); err == nil {
		t.Error("an attempt that has ended appends")
	}
	var undecodable *workflow.ValueError
	if _, _, err := workflowtest.Progress(e, workflow.Progress[string]{Name: "share"}); !errors.As(err, &undecodable) {
		t.Errorf("of another type: %v", err)
	}
	if _, err := workflowtest.Entries(e, workflow.Stream[int]{Name: "lines"}); !errors.As(err, &undecodable) {
		t.Errorf("of another type: %v", err)
	}
}

// A run's deadline ends what it waits for, and it cleans up and fails.
func TestTimeout(t *testing.T) {
	cleaned := 0
	e := workflowtest.New(t, body(func(ctx workflow.Context, in string) (string, error) {
		ctx.Finally(func(ctx workflow.Context) error { cleaned++; _, err := echo.Run(ctx, "mop"); return err })
		if in, err := hello.Receive(ctx, 0); err == nil {
			return in, nil
		} else if !errors.Is(err, workflow.ErrCanceled) || errors.Is(err, workflow.ErrTimeout) {
			return "", errors.New("not the deadline")
		}
		return "", errors.New("nobody came")
	}))
	began := e.Now()
	e.Timeout(36 * time.Hour)
	_, err := workflowtest.Execute(e, double, "in")
	if !errors.Is(err, workflow.ErrTimeout) || errors.Is(err, workflow.ErrCanceled) || e.Now().Sub(began) != 36*time.Hour || cleaned == 0 {
		t.Errorf("after %v: %v; cleaned up %d times; on record:\n%s", e.Now().Sub(began), err, cleaned, e.Record())
	}
	if err := workflowtest.Send(e, hello, "ada"); err != nil {
		t.Fatal(err)
	}
	wants(t, e, "ada") // in time
	e.Timeout(0)
	if _, err := workflowtest.Execute(e, double, "in"); !errors.Is(err, workflowtest.ErrStuck) {
		t.Errorf("without a deadline: %v", err)
	}
}

// What was asked for of a run, and what it has become, can be read.
func TestRuns(t *testing.T) {
	late := workflow.DurableWorkflow[string, string]{Name: "late"}
	inner1 := workflow.Define(inner, func(ctx workflow.Context, s string) (string, error) {
		if err := ctx.SetAttribute("stage", "asleep"); err != nil {
			return "", err
		}
		return s, workflow.Sleep(ctx, time.Hour)
	}, workflow.Options{Version: "v7"})
	e := workflowtest.New(t, inner1, body(func(ctx workflow.Context, s string) (string, error) {
		asked := inner.With(workflow.EnqueueOptions{
			Priority: 3, Timeout: time.Minute, Limit: workflow.Limit{Key: "bank", Concurrency: 1}, Attributes: map[string]any{"n": 1, "stage": "new"},
		})
		if _, err := asked.Run(ctx, s); !errors.Is(err, workflow.ErrTimeout) {
			return "", err
		}
		_, err := late.Start(ctx, s)
		return s, errors.Join(err, ctx.SetAttribute("done", true))
	}))
	workflowtest.FakeRun(e, late, func(string) (string, error) { return "", errors.New("no") })
	if got := e.Runs(); got != nil {
		t.Errorf("before: %+v", got)
	}
	began := e.Now()
	e.Before("sleep:", func() {
		if s := e.Runs()[1]; s.State != workflow.StateRunning || !s.Deadline.Equal(began.Add(time.Minute)) {
			t.Errorf("on its way: %+v", s)
		}
	})
	wants(t, e, "in")
	runs := e.Runs()
	if len(runs) != 3 {
		t.Fatalf("%+v", runs)
	}
	root, child, started := runs[0], runs[1], runs[2]
	if root.State != workflow.StateCompleted || root.Parent != 0 || root.Err != nil || !reflect.DeepEqual(root.Attributes, map[string]any{"done": true}) {
		t.Errorf("the run: %+v", root)
	}
	want := workflow.RunStatus{
		ID: child.ID, Parent: root.ID, Workflow: inner.Name, Version: "v7", State: workflow.StateFailed, Priority: 3, Limit: "bank", Turns: child.Turns,
		Enqueued: began, Finished: began.Add(time.Minute), Err: child.Err, Attributes: map[string]any{"n": int64(1), "stage": "asleep"},
	}
	if !reflect.DeepEqual(child, want) || child.Err == nil {
		t.Errorf("the child is %+v, want %+v", child, want)
	}
	if started.Workflow != late.Name || started.Parent != 0 || started.State != workflow.StateFailed || started.Err.Message != "no" {
		t.Errorf("what was started: %+v", started)
	}
}
