package worker_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

// Workflows that start each other in a cycle come to an end, which says why; what
// a body makes of it is the same on a replay. Runs that nobody waits for have no
// depth, and beginning anew adds none.
func TestChildrenInACycle(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ping, pong := workflow.DurableWorkflow[int, int]{Name: "ping"}, workflow.DurableWorkflow[int, int]{Name: "pong"}
	chain := workflow.DurableWorkflow[int, int]{Name: "starts"}
	deep := workflow.DurableWorkflow[int, int]{Name: "deep"}
	pingV1 := workflow.Define(ping, pong.Run, workflow.Options{})
	deepV1 := workflow.Define(deep, func(ctx workflow.Context, n int) (int, error) {
		if n > 0 { // at each level once
			return 0, deep.ContinueAsNew(-n)
		}
		below, err := deep.Run(ctx, 1)
		if failed, ok := errors.AsType[*workflow.RecordedError](err); ok && failed.Kind == "depth" {
			return double.Run(ctx, 0)
		}
		return below + 1, err
	}, workflow.Options{Steps: []workflow.Declared{double}})
	f.start(worker.Config{Logger: slog.New(slog.DiscardHandler), Workflows: []*workflow.Definition{
		pingV1, workflow.Define(pong, ping.Run, workflow.Options{}), deepV1,
		workflow.Define(chain, func(ctx workflow.Context, n int) (int, error) {
			if n == 0 {
				return ping.Run(ctx, 0)
			}
			_, err := chain.Start(ctx, n-1)
			return n, err
		}, workflow.Options{}),
	}})
	enqueue := func(w workflow.DurableWorkflow[int, int], n int) workflow.Run[int] {
		run, err := w.Enqueue(t.Context(), f.client, n, workflow.EnqueueOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return run
	}
	run := enqueue(ping, 0)
	_, err := outcome(t, f.client, run)
	if failed, ok := errors.AsType[*workflow.RecordedError](err); !ok || failed.Kind != "depth" || failed.Step != "child:pong" ||
		!strings.HasPrefix(failed.Message, "workflow: ping cannot start pong: children nest 100 deep at most") {
		t.Errorf("got %v", err)
	}
	if n := f.count("SELECT count(*) FROM stepward.run WHERE state = 'failed'"); n != 101 {
		t.Errorf("%d runs", n)
	}
	if err := f.client.Replay(t.Context(), run.ID, pingV1); err != nil {
		t.Error(err)
	}
	run = enqueue(deep, 1)
	ends(t, f.client, run, 100)
	var last workflow.RunID
	for s, err := range f.client.Runs(t.Context(), workflow.RunFilter{Workflow: "deep", Limit: 1}) {
		if err != nil {
			t.Fatal(err)
		}
		last = s.ID
	}
	if err := f.client.Replay(t.Context(), last, deepV1); err != nil {
		t.Error(err)
	}
	enqueue(chain, 120)
	eventually(t, "the last run that was started fails", func() bool {
		return f.count("SELECT count(*) FROM stepward.run WHERE workflow = 'starts' AND state = 'failed'") == 1
	})
	if n := f.count("SELECT count(*) FROM stepward.run WHERE workflow IN ('ping', 'pong')"); n != 201 {
		t.Errorf("%d runs", n)
	}
	f.nothingLeft()
}

// A child that nothing can execute parks the run that starts it.
func TestChildThatNothingExecutes(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	secret := workflow.NewStep("secret", func(context.Context, int) (int, error) { return 0, nil }, workflow.StepOptions{Mode: workflow.Agent})
	w := workflow.DurableWorkflow[int, int]{Name: "secretive"}
	f.start(worker.Config{Workflows: []*workflow.Definition{
		workflow.Define(w, secret.Run, workflow.Options{Steps: []workflow.Declared{secret}}), defines(w.Run),
	}})
	run := f.enqueue(1)
	if s := f.parksAs(run.ID, "mode"); !strings.Contains(s.Err.Message, "secretive") {
		t.Errorf("got %v", s.Err)
	}
}

// A run whose child was canceled, and not itself, has failed: its body can tell, and so
// can who waits for it.
func TestChildCanceledAlone(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	outer, inner := workflow.DurableWorkflow[int, int]{Name: "outer"}, workflow.DurableWorkflow[int, int]{Name: "inner"}
	f.start(worker.Config{Logger: slog.New(slog.DiscardHandler), Workflows: []*workflow.Definition{
		workflow.Define(outer, func(ctx workflow.Context, n int) (int, error) {
			out, err := inner.Run(ctx, n)
			if step, ok := errors.AsType[*workflow.StepError](err); !ok || step.Step != "child:inner" || !errors.Is(err, workflow.ErrCanceled) {
				return 0, workflow.Permanent(errors.New("not told that the child was canceled"))
			}
			return out, err
		}, workflow.Options{}),
		workflow.Define(inner, func(ctx workflow.Context, n int) (int, error) { return n, workflow.Sleep(ctx, 24*time.Hour) }, workflow.Options{}),
	}})
	run, err := outer.Enqueue(t.Context(), f.client, 1, workflow.EnqueueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var child int64
	eventually(t, "the child is there", func() bool {
		return f.pool.QueryRow(t.Context(), f.sql("SELECT id FROM stepward.run WHERE parent_id = $1"), int64(run.ID)).Scan(&child) == nil
	})
	if err := f.client.Cancel(t.Context(), workflow.RunID(child)); err != nil {
		t.Fatal(err)
	}
	_, err = outcome(t, f.client, run)
	if failed, ok := errors.AsType[*workflow.RecordedError](err); !ok || errors.Is(err, workflow.ErrCanceled) || failed.Step != "child:inner" {
		t.Errorf("got %v", err)
	}
	if s := f.state(run.ID).State; s != workflow.StateFailed {
		t.Errorf("the run is %s", s)
	}
}

// The spans of a child are in the trace of its parent, and of what enqueued that.
func TestChildIsTraced(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	outer, inner := workflow.DurableWorkflow[int, int]{Name: "outer"}, workflow.DurableWorkflow[int, int]{Name: "inner"}
	f.start(worker.Config{Workflows: []*workflow.Definition{
		workflow.Define(outer, inner.Run, workflow.Options{}),
		workflow.Define(inner, passes(double, double), workflow.Options{Steps: []workflow.Declared{double}}),
	}})
	caller := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1, 2, 3}, SpanID: trace.SpanID{4}, TraceFlags: trace.FlagsSampled})
	run, err := outer.Enqueue(trace.ContextWithSpanContext(t.Context(), caller), f.client, 1, workflow.EnqueueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := outcome(t, f.client, run); err != nil {
		t.Fatal(err)
	}
	if n := f.count("SELECT count(*) FROM stepward.run WHERE traceparent LIKE '00-' || $1 || '-%-01'", caller.TraceID().String()); n != 2 {
		t.Errorf("%d of 2 runs are in the trace", n)
	}
}
