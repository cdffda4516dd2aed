package worker_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

// limited adds a run of changing that has to end within an hour.
func (f *fixture) limited(n int) workflow.Run[int] {
	f.t.Helper()
	run, err := changing.Enqueue(f.t.Context(), f.client, n, workflow.EnqueueOptions{Tenant: "acme", Timeout: time.Hour})
	if err != nil {
		f.t.Fatal(err)
	}
	return run
}

// elapse lets the deadlines of all runs pass.
func (f *fixture) elapse() {
	f.t.Helper()
	f.exec("UPDATE stepward.deadline SET at = clock_timestamp()")
}

// deadlineShows checks that queries tell of the deadline of a limited run.
func (f *fixture) deadlineShows(id workflow.RunID) {
	f.t.Helper()
	s, w := f.state(id), f.why(id)
	if left := time.Until(s.Deadline); left < 50*time.Minute || left > 70*time.Minute {
		f.t.Errorf("the deadline is in %v", left)
	}
	if !w.Until.Equal(s.Deadline) || !strings.Contains(w.String(), " until "+s.Deadline.UTC().Format(time.RFC3339)) {
		f.t.Errorf("%q, until %v; the deadline is %v", w, w.Until, s.Deadline)
	}
}

// overdue checks how a run ended whose deadline has passed.
func (f *fixture) overdue(run workflow.Run[int]) *workflow.RecordedError {
	f.t.Helper()
	e := failure(f.t, f.client, run)
	if !errors.Is(e, workflow.ErrTimeout) || f.state(run.ID).State != workflow.StateFailed {
		f.t.Errorf("ended as %v with %+v", f.state(run.ID).State, e)
	}
	for _, table := range []string{"ready", "turn", "timer", "parked", "wait", "deadline"} {
		if n := f.count("SELECT count(*) FROM stepward."+table+" WHERE run_id = $1", run.ID); n != 0 {
			f.t.Errorf("%d rows are left in %s", n, table)
		}
	}
	return e
}

// A run's deadline ends it wherever it is: executing a step, waiting in Postgres
// for something that does not come, parked, or ready without a worker that has
// its workflow. A body that has begun cleans up.
func TestRunDeadline(t *testing.T) {
	t.Parallel()
	mop := workflow.NewStep("mop", keepIt, workflow.StepOptions{})
	forever := workflow.NewStep("forever", func(ctx context.Context, n int) (int, error) { <-ctx.Done(); return 0, ctx.Err() }, workflow.StepOptions{Timeout: -1})
	for name, at := range map[string]struct {
		body  bodyOf
		state workflow.State
	}{
		"running": {passes(forever), workflow.StateRunning},
		"waiting": {func(ctx workflow.Context, n int) (int, error) { _, err := note.Receive(ctx, 0); return n, err }, workflow.StateWaiting},
		"parked":  {passes(gate), workflow.StateParked},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			f.start(worker.Config{Workflows: []*workflow.Definition{defines(func(ctx workflow.Context, n int) (int, error) {
				if name != "parked" {
					ctx.Finally(func(ctx workflow.Context) error { _, err := mop.Run(ctx, n); return err })
				}
				out, err := at.body(ctx, n)
				if err != nil {
					return 0, errors.New("the body's own words: " + err.Error())
				}
				return out, nil
			}, mop, forever)}})
			run := f.limited(1)
			eventually(t, "the run is "+name, func() bool { return f.state(run.ID).State == at.state })
			f.deadlineShows(run.ID)
			f.elapse()
			f.overdue(run)
			if n := f.count("SELECT count(*) FROM stepward.event WHERE kind = 'run.deadline'"); n != 1 {
				t.Errorf("%d events", n)
			}
			if name != "parked" {
				if n := f.count("SELECT count(*) FROM stepward.step WHERE key = 'mop'"); n != 1 {
					t.Error("it was not cleaned up")
				}
			}
		})
	}
	t.Run("ready", func(t *testing.T) {
		t.Parallel()
		f := newFixture(t)
		run := f.limited(1)
		f.deadlineShows(run.ID)
		f.elapse()
		f.start(worker.Config{Workflows: []*workflow.Definition{chainV1}}) // which has another workflow
		f.overdue(run)
	})
}

// A run that ends in time, or is canceled before, does not know of its deadline.
func TestRunDeadlineOfOthers(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.start(worker.Config{Workflows: []*workflow.Definition{defines(func(ctx workflow.Context, n int) (int, error) {
		if n == 1 {
			return n, nil
		}
		ctx.Finally(func(ctx workflow.Context) error { _, err := note.Receive(ctx, 0); return err })
		return n, workflow.Sleep(ctx, time.Hour)
	})}})
	done, canceled, plain := f.limited(1), f.limited(2), f.enqueue(1)
	ends(t, f.client, done, 1)
	ends(t, f.client, plain, 1)
	f.waits(canceled.ID)
	if err := canceled.Cancel(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, id := range []workflow.RunID{done.ID, canceled.ID, plain.ID} {
		if s := f.state(id); !s.Deadline.IsZero() {
			t.Errorf("%v has a deadline: %+v", id, s)
		}
	}
	f.elapse()
	eventually(t, "the deadlines have passed", func() bool { return f.count("SELECT count(*) FROM stepward.deadline") == 0 })
	if err := note.Send(t.Context(), f.client, canceled.ID, "mopped"); err != nil {
		t.Fatal(err)
	}
	if e := failure(t, f.client, canceled); !errors.Is(e, workflow.ErrCanceled) || f.state(canceled.ID).State != workflow.StateCanceled {
		t.Errorf("got %+v", e)
	}
	if f.state(done.ID).State != workflow.StateCompleted {
		t.Error("a run that had completed has changed")
	}
	early := f.limited(2) // it is canceled in time, and comes back for as long as it takes
	f.waits(early.ID)
	for _, verb := range []func(context.Context, workflow.RunID) error{f.client.Terminate, f.client.Retry} {
		if err := verb(t.Context(), early.ID); err != nil {
			t.Fatal(err)
		}
	}
	if s := f.state(early.ID); !s.Deadline.IsZero() || f.count("SELECT count(*) FROM stepward.deadline") != 0 {
		t.Errorf("a run that was retried has a deadline: %v", s.Deadline)
	}
	var bad *workflow.OptionError
	if _, err := changing.Enqueue(t.Context(), f.client, 1, workflow.EnqueueOptions{Timeout: -1}); !errors.As(err, &bad) {
		t.Errorf("negative timeout: %v", err)
	}
}

// A deadline that has passed is on record, so that a replay ends at the same
// place; the children of the run end with it. A body that is content with what it
// has completes its run.
func TestRunDeadlineReplays(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	child := workflow.DurableWorkflow[int, int]{Name: "child"}
	childV1 := workflow.Define(child, func(ctx workflow.Context, n int) (int, error) { return n, workflow.Sleep(ctx, time.Hour) }, workflow.Options{})
	seen := make(chan string, 10)
	body := func(ctx workflow.Context, n int) (int, error) {
		ctx.Finally(func(ctx workflow.Context) error { return workflow.Sleep(ctx, time.Hour) })
		_, err := child.Run(ctx, n)
		seen <- fmt.Sprint(errors.Is(err, workflow.ErrCanceled), err)
		return n, nil
	}
	cfg := worker.Config{Workflows: []*workflow.Definition{defines(body), childV1}}
	stop := f.start(cfg)
	run := f.limited(42)
	f.waits(run.ID)
	f.elapse()
	eventually(t, "the child has ended", func() bool {
		return f.count("SELECT count(*) FROM stepward.run WHERE workflow = 'child' AND state = 'canceled'") == 1
	})
	eventually(t, "the run cleans up, in Postgres", func() bool {
		return f.count("SELECT count(*) FROM stepward.wait WHERE key = 'sleep:' AND run_id = $1", run.ID) == 1 && f.state(run.ID).State == workflow.StateWaiting
	})
	stop()
	f.exec("UPDATE stepward.wait SET wake_at = clock_timestamp()")
	f.exec("UPDATE stepward.timer SET wake_at = clock_timestamp()")
	f.start(cfg)
	ends(t, f.client, run, 42)
	if first, second := arrives(t, seen), arrives(t, seen); first != second || first != "true step child:child: workflow: run canceled: its deadline has passed" {
		t.Errorf("at first %s, replayed %s", first, second)
	}
}

// A late run whose cleanup cannot go on fails instead of parking.
func TestLateRunCannotPark(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.start(worker.Config{Workflows: []*workflow.Definition{defines(func(ctx workflow.Context, n int) (int, error) {
		ctx.Finally(func(ctx workflow.Context) error { _, err := gate.Run(ctx, n); return err })
		return n, workflow.Sleep(ctx, time.Hour)
	})}})
	run := f.limited(1)
	f.waits(run.ID)
	f.elapse()
	f.overdue(run)
}
