//go:build unix

package worker_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

// A long backoff is spent in timer: the run holds no place on the worker, and
// goes on when it is due, on whatever worker there is.
func TestLongBackoffWaitsInTimer(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	slow := workflow.NewStep("slow", func(ctx context.Context, n int) (int, error) {
		if info, _ := workflow.StepInfoFrom(ctx); info.Attempt == 1 {
			return 0, errors.New("not yet")
		}
		return n, nil
	}, workflow.StepOptions{Retry: workflow.Retry{Backoff: time.Hour, MaxBackoff: time.Hour}})
	def := defines(passes(double, slow), double, slow)
	var health worker.Health
	stop := f.start(worker.Config{Name: "first", Health: &health, MaxRuns: 1, Workflows: []*workflow.Definition{def, chainV1}})
	run, err := changing.Enqueue(t.Context(), f.client, 21, workflow.EnqueueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the run waits", func() bool { return f.state(run.ID).State == workflow.StateWaiting })
	if s := f.state(run.ID); time.Until(s.Since) < 10*time.Minute {
		t.Errorf("waits until %v", s.Since)
	}
	other, err := chain.Enqueue(t.Context(), f.client, 3, workflow.EnqueueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := outcome(t, f.client, other); err != nil { // the only place is free
		t.Fatal(err)
	}
	stop()
	f.start(worker.Config{Name: "second", Workflows: []*workflow.Definition{def}})
	f.exec("UPDATE stepward.attempt SET retry_at = clock_timestamp()")
	f.exec("UPDATE stepward.timer SET wake_at = clock_timestamp()")
	if out, err := outcome(t, f.client, run); err != nil || out != 42 {
		t.Fatalf("got %d, %v", out, err)
	}
	steps, err := f.client.Steps(t.Context(), run.ID, 0)
	if err != nil || len(steps) != 3 || steps[0].Worker != "first" || steps[2].Worker != "second" || steps[2].Attempt != 2 {
		t.Errorf("steps: %+v, %v", steps, err)
	}
}

// The attempt of a bare step that ignores its context fails in time. Its
// goroutine keeps its place, and is counted, until it returns.
func TestDeafStep(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	release := make(chan struct{})
	deaf := workflow.NewStep("deaf", func(context.Context, int) (int, error) { <-release; return 0, nil },
		workflow.StepOptions{Timeout: 10 * time.Millisecond, Retry: workflow.Retry{MaxAttempts: 1}})
	var health worker.Health
	f.start(worker.Config{Health: &health, MaxSteps: 2, Workflows: []*workflow.Definition{defines(passes(deaf), deaf), chainV1}})
	run, err := changing.Enqueue(t.Context(), f.client, 1, workflow.EnqueueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := outcome(t, f.client, run); !errors.Is(err, workflow.ErrTimeout) {
		t.Errorf("got %v", err)
	}
	if r, _ := health.Report(); r.Stuck != 1 || r.Steps != 1 {
		t.Errorf("stuck and keeping its place: %+v", r)
	}
	other, err := chain.Enqueue(t.Context(), f.client, 3, workflow.EnqueueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := outcome(t, f.client, other); err != nil { // the other place is free
		t.Fatal(err)
	}
	close(release)
	eventually(t, "the function has returned", func() bool { r, _ := health.Report(); return r.Stuck == 0 && r.Steps == 0 })
}

// A body that waits for what is not durable is counted, until it goes on.
func TestBlockedBody(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	release := make(chan struct{})
	var health worker.Health
	f.start(worker.Config{Health: &health, Logger: slog.New(slog.DiscardHandler), Workflows: []*workflow.Definition{defines(func(ctx workflow.Context, n int) (int, error) {
		<-release
		return n, nil
	})}})
	run := f.enqueue(1)
	eventually(t, "the body is counted", func() bool { r, _ := health.Report(); return r.Blocked == 1 && r.Runs == 1 })
	close(release)
	if _, err := outcome(t, f.client, run); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it has gone on", func() bool { r, _ := health.Report(); return r.Blocked == 0 })
}

// A worker that is told to stop lets a step end, and starts no other: what is
// left goes on elsewhere, at once.
func TestDrain(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	began, release := make(chan struct{}), make(chan struct{})
	hold := workflow.NewStep("hold", func(ctx context.Context, n int) (int, error) {
		close(began)
		<-release
		return n, ctx.Err()
	}, workflow.StepOptions{})
	def := defines(passes(hold, double), hold, double)
	ctx, drain := context.WithCancel(context.Background())
	done := f.run(ctx, worker.Config{Name: "first", LeaseTTL: time.Hour, DrainTimeout: time.Hour, Workflows: []*workflow.Definition{def}})
	run, err := changing.Enqueue(t.Context(), f.client, 21, workflow.EnqueueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	arrives(t, began)
	drain()
	eventually(t, "it drains", func() bool { return f.count("SELECT count(*) FROM stepward.worker WHERE state = 'draining'") == 1 })
	close(release)
	if err := arrives(t, done); err != nil {
		t.Fatal(err)
	}
	if s := f.state(run.ID); s.State != workflow.StateReady {
		t.Errorf("the run is %s", s.State)
	}
	f.start(worker.Config{Name: "second", Workflows: []*workflow.Definition{def}})
	if out, err := outcome(t, f.client, run); err != nil || out != 42 {
		t.Fatalf("got %d, %v", out, err)
	}
	steps, err := f.client.Steps(t.Context(), run.ID, 0)
	if err != nil || len(steps) != 2 || steps[0].Worker != "first" || steps[0].Attempt != 1 || steps[1].Worker != "second" {
		t.Errorf("steps: %+v, %v", steps, err)
	}
}

// After DrainTimeout a step is interrupted. That is no failure of it.
func TestDrainTimeout(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	began := make(chan struct{}, 2)
	var interrupted atomic.Bool
	hold := workflow.NewStep("hold", func(ctx context.Context, n int) (int, error) {
		began <- struct{}{}
		if interrupted.Load() {
			return n, nil
		}
		<-ctx.Done()
		interrupted.Store(true)
		return 0, ctx.Err()
	}, workflow.StepOptions{Retry: workflow.Retry{MaxAttempts: 1}})
	def := defines(passes(hold), hold)
	ctx, drain := context.WithCancel(context.Background())
	done := f.run(ctx, worker.Config{LeaseTTL: time.Hour, DrainTimeout: time.Millisecond, Workflows: []*workflow.Definition{def}})
	run, err := changing.Enqueue(t.Context(), f.client, 42, workflow.EnqueueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	arrives(t, began)
	drain()
	if err := arrives(t, done); err != nil {
		t.Fatal(err)
	}
	f.start(worker.Config{Workflows: []*workflow.Definition{def}})
	if out, err := outcome(t, f.client, run); err != nil || out != 42 {
		t.Fatalf("got %d, %v", out, err)
	}
}

// Once an item of a Map has failed no further one starts; those that run are
// waited for; the error is that of the lowest index. A replay sees the same.
func TestMapFails(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	var both sync.WaitGroup
	both.Add(2)
	started := make(chan int, 10)
	item := workflow.NewStep("item", func(_ context.Context, n int) (int, error) {
		started <- n
		if n > 2 {
			return 0, fmt.Errorf("item %d must not start", n)
		}
		if n > 0 { // 1 and 2 run at once, and both fail
			both.Done()
			both.Wait()
			return 0, fmt.Errorf("item %d fails", n)
		}
		return 10, nil
	}, workflow.StepOptions{Retry: workflow.Retry{MaxAttempts: 1}})
	seen := make(chan []any, 2)
	body := func(ctx workflow.Context, n int) (int, error) {
		outs, err := workflow.Map(ctx, []int{0, 1, 2, 3, 4, 5}, item, workflow.MapOptions{Limit: 2})
		seen <- []any{slices.Clone(outs), fmt.Sprint(err)}
		return gate.Run(ctx, n)
	}
	stop := f.start(worker.Config{Workflows: []*workflow.Definition{defines(body, item)}})
	run, err := changing.Enqueue(t.Context(), f.client, 42, workflow.EnqueueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	f.parksAs(run.ID, "undeclared_step")
	stop()
	f.start(worker.Config{Workflows: []*workflow.Definition{defines(body, item, gate)}})
	if out, err := outcome(t, f.client, run); err != nil || out != 42 {
		t.Fatalf("got %d, %v", out, err)
	}
	first, second := fmt.Sprint(<-seen), fmt.Sprint(<-seen)
	if want := "[[10 0 0 0 0 0] step item[1], attempt 1: item 1 fails]"; first != want || second != want {
		t.Errorf("at first %s\nreplayed %s\nwant     %s", first, second, want)
	}
	if len(started) != 3 {
		t.Errorf("%d items were executed", len(started))
	}
}
