package worker_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stepward/stepward/audit"
	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

// held is a step that begins, and ends when it is told to or its context is done.
type held struct {
	*workflow.Step[int, int]
	began   chan int
	release chan struct{} // closed: none is held
	ended   chan error    // receives the cause of a context that was done
}

func newHeld(name string) *held {
	h := &held{began: make(chan int, 100), release: make(chan struct{}, 100), ended: make(chan error, 100)}
	h.Step = workflow.NewStep(name, func(ctx context.Context, n int) (int, error) {
		h.began <- n
		select {
		case <-h.release:
			return n, nil
		case <-ctx.Done():
			h.ended <- context.Cause(ctx)
			return 0, context.Cause(ctx)
		}
	}, workflow.StepOptions{})
	return h
}

// kinds returns the kinds of a run's events, in their order.
func (f *fixture) kinds(id workflow.RunID) (kinds []string) {
	f.t.Helper()
	events, err := audit.Events(f.t.Context(), f.pool, audit.Filter{Schema: f.schema, Run: id})
	if err != nil {
		f.t.Fatal(err)
	}
	for _, e := range events {
		kinds = append(kinds, e.Kind)
	}
	return kinds
}

// nothingLeft waits until no table makes a run live, or waits for one.
func (f *fixture) nothingLeft() {
	f.t.Helper()
	for _, table := range []string{"ready", "turn", "timer", "parked", "wait", "notice"} {
		eventually(f.t, "nothing is left in "+table, func() bool { return f.count("SELECT count(*) FROM stepward."+table) == 0 })
	}
}

func terminated(t *testing.T, c *workflow.Client, run workflow.Run[int]) {
	t.Helper()
	_, err := outcome(t, c, run)
	var failed *workflow.RecordedError
	if !errors.As(err, &failed) || failed.Kind != "terminated" || !errors.Is(err, workflow.ErrCanceled) {
		t.Errorf("got %v", err)
	}
}

// A run that is terminated ends there and then: its steps are interrupted, its
// children end with it, and nothing that it does later counts.
func TestTerminate(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	kid := workflow.DurableWorkflow[int, int]{Name: "kid"}
	hold := newHeld("hold")
	kidV1 := workflow.Define(kid, func(ctx workflow.Context, n int) (int, error) {
		if n > 0 { // three deep
			return kid.Run(ctx, n-1)
		}
		return hold.Run(ctx, 100)
	}, workflow.Options{Steps: []workflow.Declared{hold}})
	deaf := make(chan struct{})
	late := workflow.NewStep("late", func(_ context.Context, n int) (int, error) { <-deaf; return n, nil }, workflow.StepOptions{})
	parent := defines(func(ctx workflow.Context, n int) (int, error) {
		ctx.Finally(func(ctx workflow.Context) error { _, err := double.Run(ctx, 1); return err })
		a, b, c := kid.Go(ctx, 2), hold.Go(ctx, n), late.Go(ctx, n)
		_, err := a.Get(ctx)
		_, err2 := b.Get(ctx)
		_, err3 := c.Get(ctx)
		return n, errors.Join(err, err2, err3)
	}, hold, late, double)
	var health worker.Health
	f.start(worker.Config{Health: &health, Workflows: []*workflow.Definition{parent, kidV1}})
	run := f.enqueue(1)
	begun := []int{arrives(t, hold.began), arrives(t, hold.began)}
	slices.Sort(begun)
	if !slices.Equal(begun, []int{1, 100}) {
		t.Fatalf("began %v", begun)
	}
	if err := f.client.Terminate(t.Context(), run.ID); err != nil {
		t.Fatal(err)
	}
	if s := f.state(run.ID); s.State != workflow.StateCanceled || s.CancelRequested || s.Err == nil {
		t.Errorf("the run is %+v", s)
	}
	terminated(t, f.client, run)
	arrives(t, hold.ended) // of the run, and of the last of its children
	arrives(t, hold.ended)
	if n := f.count("SELECT count(*) FROM stepward.run WHERE workflow = 'kid' AND state = 'canceled'"); n != 3 {
		t.Errorf("%d children ended", n)
	}
	close(deaf)
	eventually(t, "the turns end", func() bool { r, _ := health.Report(); return r.Runs == 0 })
	f.nothingLeft()
	if n := f.count("SELECT count(*) FROM stepward.step"); n != 0 {
		t.Errorf("%d steps are recorded after the end", n)
	}
	if got := f.kinds(run.ID); !slices.Equal(got, []string{"run.enqueued", "run.claimed", "run.terminate", "run.canceled"}) && !slices.Equal(got, []string{"run.enqueued", "run.claimed", "run.canceled", "run.terminate"}) {
		t.Errorf("events: %v", got)
	}
	if err := f.client.Terminate(t.Context(), run.ID); !finished(err) {
		t.Errorf("again: %v", err)
	}

	// Wherever else it is.
	waiting := workflow.DurableWorkflow[int, int]{Name: "waiting"}
	f.start(worker.Config{Workflows: []*workflow.Definition{workflow.Define(waiting, func(ctx workflow.Context, n int) (int, error) {
		if n == 1 {
			return gate.Run(ctx, n) // parks
		}
		_, err := note.Receive(ctx, 0)
		return n, err
	}, workflow.Options{})}})
	for n, state := range []workflow.State{workflow.StateWaiting, workflow.StateParked} {
		run, err := waiting.Enqueue(t.Context(), f.client, n, workflow.EnqueueOptions{})
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, "the run is "+string(state), func() bool { return f.state(run.ID).State == state })
		if err := f.client.Terminate(t.Context(), run.ID); err != nil {
			t.Fatal(err)
		}
		terminated(t, f.client, run)
	}
	ready, err := workflow.DurableWorkflow[int, int]{Name: "unknown"}.Enqueue(t.Context(), f.client, 1, workflow.EnqueueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.client.Terminate(t.Context(), ready.ID); err != nil {
		t.Fatal(err)
	}
	terminated(t, f.client, ready)
	f.nothingLeft()
}

// A run that is paused starts nothing more; what executes ends and is recorded.
func TestPause(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	a, b, other := newHeld("a"), newHeld("b"), newHeld("other")
	var tries atomic.Int32
	flaky := workflow.NewStep("flaky", func(context.Context, int) (int, error) { tries.Add(1); return 0, errors.New("no") },
		workflow.StepOptions{Retry: workflow.Retry{MaxAttempts: 1 << 20, Backoff: time.Millisecond, MaxBackoff: time.Millisecond}})
	def := defines(func(ctx workflow.Context, n int) (int, error) {
		if n == 0 {
			return other.Run(ctx, n)
		}
		inner, cancel := ctx.WithCancel()
		fl := flaky.Go(inner, 1)
		if _, err := a.Run(ctx, n); err != nil {
			return 0, err
		}
		n, err := b.Run(ctx, n)
		cancel()
		_, _ = fl.Get(ctx)
		return n, err
	}, a, b, other, flaky)
	f.start(worker.Config{Workflows: []*workflow.Definition{def}})
	run, marker := f.enqueue(7), f.enqueue(0)
	arrives(t, a.began)
	arrives(t, other.began)
	for range 2 { // twice is no error
		if err := f.client.Pause(t.Context(), run.ID); err != nil {
			t.Fatal(err)
		}
	}
	if s := f.state(run.ID); s.State != workflow.StateRunning || !s.PauseRequested {
		t.Fatalf("the run is %+v", s)
	}
	if w := f.why(run.ID); !strings.Contains(w.String(), "it is paused, once") {
		t.Errorf("why: %v", w)
	}
	if err := f.client.Cancel(t.Context(), marker.ID); err != nil {
		t.Fatal(err)
	}
	arrives(t, other.ended) // so the worker has looked, and knows of the pause
	if _, err := outcome(t, f.client, marker); !errors.Is(err, workflow.ErrCanceled) {
		t.Errorf("the other run: %v", err)
	}
	last := int32(-1)
	eventually(t, "no attempt starts any more", func() bool {
		n := tries.Load()
		same := n == last
		last = n
		return same
	})
	a.release <- struct{}{}
	s := f.parksAs(run.ID, "paused")
	if s.PauseRequested || s.Err == nil {
		t.Errorf("the run is %+v", s)
	}
	if n := f.count("SELECT count(*) FROM stepward.step WHERE key = 'a'"); n != 1 {
		t.Error("what was under way is not recorded")
	}
	f.because(run.ID, "parked", "paused", "Client.Resume")
	if err := f.client.Pause(t.Context(), run.ID); err != nil {
		t.Errorf("of a paused run: %v", err)
	}
	stop := f.start(worker.Config{Name: "two", Workflows: []*workflow.Definition{def}}) // a deploy resumes nothing that was paused
	if s := f.state(run.ID); s.Reason != "paused" || len(b.began) != 0 {
		t.Errorf("the run is %+v", s)
	}
	stop()
	if err := f.client.Resume(t.Context(), run.ID); err != nil {
		t.Fatal(err)
	}
	arrives(t, b.began)

	// A pause is taken back before it has taken effect.
	if err := f.client.Pause(t.Context(), run.ID); err != nil {
		t.Fatal(err)
	}
	if err := f.client.Resume(t.Context(), run.ID); err != nil {
		t.Fatal(err)
	}
	b.release <- struct{}{}
	ends(t, f.client, run, 7)
	f.nothingLeft()
	if got := f.kinds(run.ID); !containsInOrder(got, "run.pause", "run.parked", "run.resume", "run.pause", "run.resume", "run.completed") {
		t.Errorf("events: %v", got)
	}
	for _, verb := range []func(context.Context, workflow.RunID) error{f.client.Pause, f.client.Resume} {
		if err := verb(t.Context(), run.ID); !finished(err) {
			t.Errorf("of a finished run: %v", err)
		}
	}
}

func containsInOrder(s []string, want ...string) bool {
	for _, x := range s {
		if len(want) > 0 && x == want[0] {
			want = want[1:]
		}
	}
	return len(want) == 0
}

// A run that no worker holds is parked at once; what arrives meanwhile is kept,
// and canceling it lets it clean up.
func TestPauseWaiting(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ready := f.enqueue(1)
	if err := f.client.Pause(t.Context(), ready.ID); err != nil {
		t.Fatal(err)
	}
	if s := f.state(ready.ID); s.State != workflow.StateParked || s.Reason != "paused" {
		t.Fatalf("the run is %+v", s)
	}
	f.start(worker.Config{Workflows: []*workflow.Definition{defines(func(ctx workflow.Context, n int) (int, error) {
		ctx.Finally(func(ctx workflow.Context) error { _, err := double.Run(ctx, n); return err })
		_, err := note.Receive(ctx, 0)
		return n, err
	}, double)}})
	run, canceled := f.enqueue(2), f.enqueue(3)
	for _, r := range []workflow.Run[int]{run, canceled} {
		f.waits(r.ID)
		if err := f.client.Pause(t.Context(), r.ID); err != nil {
			t.Fatal(err)
		}
		if s := f.state(r.ID); s.State != workflow.StateParked || s.Reason != "paused" {
			t.Fatalf("the run is %+v", s)
		}
	}
	if err := note.Send(t.Context(), f.client, run.ID, "x"); err != nil {
		t.Fatal(err)
	}
	if s := f.state(run.ID); s.State != workflow.StateParked {
		t.Errorf("a signal made it %v", s.State)
	}
	for _, r := range []workflow.Run[int]{ready, run} {
		if err := f.client.Resume(t.Context(), r.ID); err != nil {
			t.Fatal(err)
		}
	}
	ends(t, f.client, run, 2)
	if err := canceled.Cancel(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := outcome(t, f.client, canceled); !errors.Is(err, workflow.ErrCanceled) {
		t.Errorf("got %v", err)
	}
	if n := f.count("SELECT count(*) FROM stepward.step WHERE run_id = $1 AND key = 'double'", canceled.ID); n != 1 {
		t.Error("a paused run that is canceled does not clean up")
	}
	f.waits(ready.ID)
	if err := ready.Cancel(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := outcome(t, f.client, ready); !errors.Is(err, workflow.ErrCanceled) {
		t.Errorf("got %v", err)
	}
	f.nothingLeft()
}

// A pause outlives the worker that was asked for it.
func TestPauseOutlivesWorker(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"drain", "death"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			hold := newHeld("hold")
			def := defines(passes(hold.Step), hold)
			stop := f.start(worker.Config{Name: "one", LeaseTTL: time.Hour, DrainTimeout: time.Millisecond, Workflows: []*workflow.Definition{def}})
			run := f.enqueue(7)
			arrives(t, hold.began)
			if err := f.client.Pause(t.Context(), run.ID); err != nil {
				t.Fatal(err)
			}
			if how == "drain" {
				stop()
			} else {
				f.expire("one")
			}
			stop2 := f.start(worker.Config{Name: "two", Workflows: []*workflow.Definition{def}})
			f.parksAs(run.ID, "paused")
			stop2()
			close(hold.release)
			f.start(worker.Config{Workflows: []*workflow.Definition{def}})
			if err := f.client.Resume(t.Context(), run.ID); err != nil {
				t.Fatal(err)
			}
			ends(t, f.client, run, 7)
		})
	}
}

// A run that is canceled while it is to pause is canceled.
func TestCancelPausing(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	hold := newHeld("hold")
	f.start(worker.Config{Workflows: []*workflow.Definition{defines(func(ctx workflow.Context, n int) (int, error) {
		ctx.Finally(func(ctx workflow.Context) error { _, err := double.Run(ctx, n); return err })
		return hold.Run(ctx, n)
	}, hold, double)}})
	run := f.enqueue(7)
	arrives(t, hold.began)
	if err := f.client.Pause(t.Context(), run.ID); err != nil {
		t.Fatal(err)
	}
	if err := run.Cancel(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := f.client.Pause(t.Context(), run.ID); !errors.Is(err, workflow.ErrCanceled) && !finished(err) {
		t.Errorf("of a run that cleans up: %v", err)
	}
	if _, err := outcome(t, f.client, run); !errors.Is(err, workflow.ErrCanceled) {
		t.Errorf("got %v", err)
	}
	if n := f.count("SELECT count(*) FROM stepward.step WHERE key = 'double'"); n != 1 {
		t.Error("it did not clean up")
	}
	f.nothingLeft()
}

// What all verbs say of a run that does not exist, and of one that has ended.
func TestVerbsRefuse(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.start(worker.Config{Workflows: []*workflow.Definition{defines(passes(keep), keep)}})
	done := f.enqueue(1)
	ends(t, f.client, done, 1)
	repin := func(ctx context.Context, id workflow.RunID) error { return f.client.Repin(ctx, id, "1") }
	before := f.kinds(done.ID)
	for name, test := range map[string]struct {
		verb func(context.Context, workflow.RunID) error
		want workflow.State
	}{
		"Cancel":    {f.client.Cancel, workflow.StateParked},
		"Terminate": {f.client.Terminate, workflow.StateParked},
		"Pause":     {f.client.Pause, workflow.StateParked},
		"Resume":    {f.client.Resume, workflow.StateParked},
		"Repin":     {repin, workflow.StateParked},
		"Retry":     {f.client.Retry, workflow.StateFailed},
	} {
		if err := test.verb(t.Context(), done.ID); !finished(err) || !elsewhere(err, test.want) || !strings.Contains(err.Error(), done.ID.String()) {
			t.Errorf("%s of a finished run: %v", name, err)
		}
		if err := test.verb(t.Context(), 4711); !errors.Is(err, workflow.ErrNotFound) {
			t.Errorf("%s of no run: %v", name, err)
		}
	}
	if after := f.kinds(done.ID); !slices.Equal(after, before) {
		t.Errorf("events %v, then %v", before, after)
	}
	live, err := workflow.DurableWorkflow[int, int]{Name: "unknown"}.Enqueue(t.Context(), f.client, 1, workflow.EnqueueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.client.Retry(t.Context(), live.ID); !elsewhere(err, workflow.StateFailed) {
		t.Errorf("Retry of a live run: %v", err)
	}
	if err := f.client.Resume(t.Context(), live.ID); !elsewhere(err, workflow.StateParked) {
		t.Errorf("Resume of a ready run: %v", err)
	}
}
