//go:build unix

package worker_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stepward/stepward/internal/engine"
	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

// progress is what a step in these tests reports.
type progress struct{ Done int }

// What an attempt reported last, the next one reads, although only the first of
// it was due to be written. It shows in Steps.
func TestHeartbeat(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	long := workflow.NewStep("long", func(ctx context.Context, n int) (int, error) {
		info, _ := workflow.StepInfoFrom(ctx)
		var p progress
		if ok, err := info.Details(&p); err != nil || ok != (info.Attempt > 1) {
			return 0, workflow.Permanent(errors.Join(err, errors.New("details of the wrong attempt")))
		}
		if info.Attempt == 3 { // one that reported nothing lies between
			return p.Done, nil
		}
		for i := range n {
			if err := workflow.Heartbeat(ctx, progress{p.Done + i + 1}); err != nil || info.Attempt == 2 {
				return 0, errors.Join(err, errors.New("attempt 2 has nothing to say"))
			}
		}
		return 0, errors.New("not done")
	}, workflow.StepOptions{HeartbeatTimeout: time.Minute, Retry: workflow.Retry{Backoff: time.Millisecond}})
	f.start(worker.Config{Workflows: []*workflow.Definition{defines(passes(long), long)}})
	run := f.enqueue(100)
	ends(t, f.client, run, 101)
	steps, err := f.client.Steps(t.Context(), run.ID, 0)
	if err != nil || len(steps) != 3 || string(steps[0].Details) != `{"Done":100}` || steps[0].Heartbeat.IsZero() || steps[2].Details != nil {
		t.Errorf("steps: %+v, %v", steps, err)
	}
	if err := workflow.Heartbeat(t.Context(), 1); err == nil {
		t.Error("a heartbeat outside of a step")
	}
}

// A heartbeat that is refused says what is wrong, and changes nothing.
func TestHeartbeatBadInput(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	errs := make(chan error, 2)
	odd := workflow.NewStep("odd", func(ctx context.Context, n int) (int, error) {
		errs <- workflow.Heartbeat(ctx, func() {})
		errs <- workflow.Heartbeat(ctx, strings.Repeat("x", 1<<17))
		return n, nil
	}, workflow.StepOptions{})
	f.start(worker.Config{Workflows: []*workflow.Definition{defines(passes(odd), odd)}})
	ends(t, f.client, f.enqueue(42), 42)
	var bad *workflow.ValueError
	if err := arrives(t, errs); !errors.As(err, &bad) || bad.Kind != "encode" {
		t.Errorf("a function: %v", err)
	}
	if err := arrives(t, errs); !errors.As(err, &bad) || bad.Kind != "size" {
		t.Errorf("too much: %v", err)
	}
	if n := f.count("SELECT count(*) FROM stepward.attempt"); n != 0 {
		t.Errorf("%d attempts are on record", n)
	}
}

// An attempt that is silent for too long has timed out; one that reports goes on.
func TestHeartbeatTimeout(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	silent := workflow.NewStep("silent", func(ctx context.Context, n int) (int, error) {
		if info, _ := workflow.StepInfoFrom(ctx); info.Attempt == 1 {
			<-ctx.Done()
			return 0, ctx.Err()
		}
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for start := time.Now(); time.Since(start) < 3*time.Second; <-tick.C {
			if err := workflow.Heartbeat(ctx, nil); err != nil {
				return 0, err
			}
		}
		return n, nil
	}, workflow.StepOptions{HeartbeatTimeout: 2 * time.Second, Retry: workflow.Retry{MaxAttempts: 2, Backoff: time.Millisecond}})
	f.start(worker.Config{Workflows: []*workflow.Definition{defines(passes(silent), silent)}})
	run := f.enqueue(42)
	ends(t, f.client, run, 42)
	steps, err := f.client.Steps(t.Context(), run.ID, 0)
	if err != nil || len(steps) != 2 || !errors.Is(steps[0].Err, workflow.ErrTimeout) || !strings.Contains(steps[0].Err.Message, "no heartbeat for 2s") {
		t.Errorf("steps: %+v, %v", steps, err)
	}
}

// What an interrupted attempt reported last is not lost, although it was not due
// to be written.
func TestHeartbeatOfDrained(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	began := make(chan struct{})
	var once sync.Once
	long := workflow.NewStep("long", func(ctx context.Context, n int) (int, error) {
		info, _ := workflow.StepInfoFrom(ctx)
		var p progress
		if ok, err := info.Details(&p); ok || err != nil {
			return p.Done, err
		}
		for i := 1; i <= n; i++ {
			if err := workflow.Heartbeat(ctx, progress{i}); err != nil {
				return 0, err
			}
		}
		once.Do(func() { close(began) })
		<-ctx.Done()
		return 0, ctx.Err()
	}, workflow.StepOptions{})
	def := defines(passes(long), long)
	ctx, drain := context.WithCancel(context.Background())
	done := f.run(ctx, worker.Config{LeaseTTL: time.Hour, DrainTimeout: time.Millisecond, Workflows: []*workflow.Definition{def}})
	run := f.enqueue(42)
	arrives(t, began)
	drain()
	if err := arrives(t, done); err != nil {
		t.Fatal(err)
	}
	f.start(worker.Config{Workflows: []*workflow.Definition{def}})
	ends(t, f.client, run, 42)
}

// A heartbeat of a run that somebody else holds by now changes nothing, and ends
// the attempt.
func TestHeartbeatIsFenced(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	began, taken, over := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	zombie := workflow.NewStep("zombie", func(ctx context.Context, n int) (int, error) {
		close(began)
		<-taken
		if err := workflow.Heartbeat(ctx, progress{1}); err != nil {
			return 0, err
		}
		<-ctx.Done()
		over <- context.Cause(ctx)
		return 0, ctx.Err()
	}, workflow.StepOptions{})
	stop := f.start(worker.Config{Workflows: []*workflow.Definition{defines(passes(zombie), zombie)}})
	run := f.enqueue(42)
	arrives(t, began)
	f.exec("UPDATE stepward.run SET epoch = epoch + 1 WHERE id = $1", run.ID)
	close(taken)
	if err := arrives(t, over); !errors.Is(err, engine.ErrLeaseLost) {
		t.Errorf("it ended with %v", err)
	}
	stop()
	if n := f.count("SELECT count(*) FROM stepward.attempt"); n != 0 {
		t.Errorf("%d attempts are on record", n)
	}
}
