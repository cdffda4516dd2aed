package worker_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

// A body that reminds somebody after each timeout of its own ends with the
// deadline of its run, which is no such timeout.
func TestDeadlineEndsLoop(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.start(worker.Config{Workflows: []*workflow.Definition{defines(func(ctx workflow.Context, n int) (int, error) {
		for {
			_, err := note.Receive(ctx, 2*time.Hour)
			if errors.Is(err, workflow.ErrTimeout) {
				continue
			}
			return n, err
		}
	})}})
	run := f.limited(1)
	f.waits(run.ID)
	f.elapse()
	f.overdue(run)
}

// A body that goes on calling when its run is late or canceled has ended.
func TestSpinningBodyEnds(t *testing.T) {
	for _, late := range []bool{true, false} {
		t.Run(map[bool]string{true: "late", false: "canceled"}[late], func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			f.start(worker.Config{Workflows: []*workflow.Definition{defines(func(ctx workflow.Context, n int) (int, error) {
				for {
					_ = workflow.Sleep(ctx, 2*time.Hour) // and try again
				}
			})}})
			run := f.limited(1)
			f.waits(run.ID)
			if late {
				f.elapse()
				f.overdue(run)
				return
			}
			if err := f.client.Cancel(t.Context(), run.ID); err != nil {
				t.Fatal(err)
			}
			if _, err := outcome(t, f.client, run); !errors.Is(err, workflow.ErrCanceled) || !strings.Contains(err.Error(), "100000 durable calls") {
				t.Errorf("got %v", err)
			}
		})
	}
}

// A body in a loop of calls that have no result ends with its turn.
func TestSpinningBodyStops(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	began, ended := make(chan struct{}), make(chan struct{})
	stop := f.start(worker.Config{DrainTimeout: time.Millisecond, Workflows: []*workflow.Definition{defines(func(ctx workflow.Context, n int) (int, error) {
		defer close(ended)
		ctx.Random()
		close(began)
		for {
			ctx.Random()
		}
	})}})
	f.enqueue(1)
	arrives(t, began)
	stop()
	arrives(t, ended)
}

// A body that starts a million steps is parked before the first of them begins, and
// its worker goes on.
func TestTooManySteps(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.start(worker.Config{Workflows: []*workflow.Definition{chainV1, defines(func(ctx workflow.Context, n int) (int, error) {
		for range 1_000_000 {
			double.Go(ctx, n)
		}
		return n, nil
	}, double)}})
	run := f.enqueue(1)
	if s := f.parksAs(run.ID, "too_many"); !strings.Contains(s.Err.Message, "10000 calls") {
		t.Errorf("the limit is not named: %v", s.Err)
	}
	if n := f.count("SELECT count(*) FROM stepward.step"); n != 0 {
		t.Errorf("%d steps were executed", n)
	}
	why, err := f.client.Why(t.Context(), run.ID)
	if err != nil || !strings.Contains(why.Unblock, "fewer calls under way") {
		t.Errorf("%+v, %v", why, err)
	}
	next, err := chain.Enqueue(t.Context(), f.client, 3, workflow.EnqueueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ends(t, f.client, next, 8)
}

// What a new body shows anew before it has asked for all results on record waits for
// that, and must not fill the memory of the worker meanwhile. Shown later, it is written
// by the piece.
func TestShowsMuchInReplay(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	const n = 300
	long := strings.Repeat("x", 60<<10)
	shows := func(ctx workflow.Context, times int) (err error) {
		for range times {
			err = errors.Join(err, lines.Append(ctx, long))
		}
		return err
	}
	body := func(before, after int) *workflow.Definition {
		return defines(func(ctx workflow.Context, n int) (int, error) {
			if err := shows(ctx, before); err != nil {
				return 0, err
			}
			n, err := double.Run(ctx, n)
			if err == nil {
				err = shows(ctx, after)
			}
			if err == nil {
				_, err = note.Receive(ctx, 0)
			}
			return n, err
		}, double)
	}
	run := f.enqueue(21)
	stop := f.start(worker.Config{Workflows: []*workflow.Definition{body(0, 0)}})
	f.waits(run.ID)
	stop()
	if err := note.Send(t.Context(), f.client, run.ID, "go on"); err != nil {
		t.Fatal(err)
	}
	stop = f.start(worker.Config{Workflows: []*workflow.Definition{body(n, 0)}})
	if s := f.parksAs(run.ID, "too_many"); !strings.Contains(s.Err.Message, "16 MiB") {
		t.Errorf("the limit is not named: %v", s.Err)
	}
	stop()
	if n := f.count("SELECT count(*) FROM stepward.entry"); n != 0 {
		t.Errorf("%d entries are there", n)
	}
	f.start(worker.Config{Workflows: []*workflow.Definition{body(0, n)}})
	ends(t, f.client, run, 42)
	if got := f.count("SELECT count(*) FROM stepward.entry"); got != n {
		t.Errorf("%d entries are there, not %d", got, n)
	}
}
