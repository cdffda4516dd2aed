package worker_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

// logged keeps what workers and bodies log.
type logged struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logged) count(what string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.b.String(), what)
}

// A body's logger names the run, and is silent while steps are replayed.
func TestBodyLogger(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	var l logged
	body := func(ctx workflow.Context, n int) (_ int, err error) {
		ctx.Logger().Info("it begins")
		if n, err = double.Run(ctx, n); err != nil {
			return 0, err
		}
		ctx.Logger().With("n", n).WithGroup("g").Info("it goes on", "half", n/2)
		if n, err = keep.Run(ctx, n); err != nil {
			return 0, err
		}
		return gate.Run(ctx, n)
	}
	cfg := worker.Config{Name: "w", Logger: slog.New(slog.NewTextHandler(&l, nil)), Workflows: []*workflow.Definition{defines(body, double, keep)}}
	stop := f.start(cfg)
	run := f.enqueue(21)
	f.parksAs(run.ID, "undeclared_step")
	stop()
	cfg.Workflows = []*workflow.Definition{defines(body, double, keep, gate)}
	f.start(cfg)
	ends(t, f.client, run, 42)
	for _, line := range []string{`msg="it begins" worker=w run=` + run.ID.String(), `msg="it goes on" worker=w run=` + run.ID.String() + " n=42 g.half=21"} {
		if n := l.count(line); n != 1 {
			t.Errorf("%d times: %s", n, line)
		}
	}
}

// The idempotency key of a step is the same for all its attempts, on every worker,
// and another one for each call.
func TestStepIdempotencyKey(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	keys := make(chan string, 10)
	pay := workflow.NewStep("pay", func(ctx context.Context, n int) (int, error) {
		info, _ := workflow.StepInfoFrom(ctx)
		keys <- info.IdempotencyKey
		if info.Attempt == 1 {
			return 0, workflow.RetryAfter(errors.New("not yet"), time.Hour)
		}
		return n, nil
	}, workflow.StepOptions{})
	def := defines(passes(pay, pay), pay)
	run := f.enqueue(42)
	for n := range 2 { // each call is tried by one worker, and again by the next
		stop := f.start(worker.Config{Workflows: []*workflow.Definition{def}})
		eventually(t, "the next call has failed", func() bool { return f.count("SELECT count(*) FROM stepward.attempt") == n+1 })
		f.waits(run.ID)
		stop()
		f.exec("UPDATE stepward.attempt SET retry_at = clock_timestamp()")
		f.exec("UPDATE stepward.timer SET wake_at = clock_timestamp()")
	}
	f.start(worker.Config{Workflows: []*workflow.Definition{def}})
	ends(t, f.client, run, 42)
	id := run.ID.String()
	for _, want := range []string{id + "/pay", id + "/pay", id + "/pay#2", id + "/pay#2"} {
		if got := arrives(t, keys); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

// A run that begins anew has other chance and other idempotency keys, which are
// the same again on a replay.
func TestContinueAsNewIsAnother(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	keys, chances := make(chan string, 10), make(chan uint64, 10)
	charge := workflow.NewStep("charge", func(ctx context.Context, n int) (int, error) {
		info, _ := workflow.StepInfoFrom(ctx)
		keys <- info.IdempotencyKey
		if info.Attempt == 1 {
			return 0, workflow.RetryAfter(errors.New("not yet"), time.Hour)
		}
		return n, nil
	}, workflow.StepOptions{})
	def := defines(func(ctx workflow.Context, n int) (int, error) {
		chances <- ctx.Random().Uint64()
		if _, err := charge.Run(ctx, n); err != nil || n == 3 {
			return n, err
		}
		return 0, changing.ContinueAsNew(n + 1)
	}, charge)
	run := f.enqueue(1)
	f.start(worker.Config{Workflows: []*workflow.Definition{def}})
	seen := make(map[string]bool)
	drawn := make(map[uint64]bool)
	for range 3 {
		key, chance := arrives(t, keys), arrives(t, chances)
		if seen[key] || drawn[chance] {
			t.Errorf("again: key %s, chance %d", key, chance)
		}
		seen[key], drawn[chance] = true, true
		f.waits(run.ID)
		f.exec("UPDATE stepward.attempt SET retry_at = clock_timestamp()")
		f.exec("UPDATE stepward.timer SET wake_at = clock_timestamp()")
		if k, c := arrives(t, keys), arrives(t, chances); k != key || c != chance {
			t.Errorf("the next attempt has key %s, not %s, and chance %d, not %d", k, key, c, chance)
		}
	}
	ends(t, f.client, run, 3)
}

// An endless run does not keep what it has received, and loses nothing that it has not.
func TestContinueAsNewForgetsReceived(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	run := f.enqueue(1)
	other := workflow.NewSignal[string]("other")
	for _, s := range []string{"a", "b", "c", "d"} {
		if err := errors.Join(note.Send(t.Context(), f.client, run.ID, s), other.Send(t.Context(), f.client, run.ID, s)); err != nil {
			t.Fatal(err)
		}
	}
	f.start(worker.Config{Workflows: []*workflow.Definition{defines(func(ctx workflow.Context, n int) (int, error) {
		if got, err := note.Receive(ctx, 0); err != nil || got != string(rune('a'+n-1)) {
			return 0, errors.Join(errors.New("got "+got), err)
		}
		if n == 3 {
			return n, nil
		}
		return 0, changing.ContinueAsNew(n + 1)
	})}})
	ends(t, f.client, run, 3)
	if got := f.count("SELECT count(*) FROM stepward.signal WHERE received"); got != 1 { // by the last
		t.Errorf("%d signals are kept that were received", got)
	}
	if got := f.count("SELECT count(*) FROM stepward.signal WHERE NOT received"); got != 5 {
		t.Errorf("%d signals are left, not 5", got)
	}
}
