package worker_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

var errFatal = errors.New("no such account")

// failure waits for the end of a run that fails.
func failure(t *testing.T, c *workflow.Client, run workflow.Run[int]) *workflow.RecordedError {
	t.Helper()
	_, err := outcome(t, c, run)
	var failed *workflow.RecordedError
	if !errors.As(err, &failed) {
		t.Fatalf("got %v", err)
	}
	return failed
}

// The predicate decides on the very error that the function returned, and on
// what became of the attempt otherwise.
func TestRetryIf(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ways := []func(context.Context) error{
		func(context.Context) error { return fmt.Errorf("look up: %w", errFatal) },
		func(context.Context) error { panic("boom") },
		func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
		func(context.Context) error { return errors.New("try again") },
		func(context.Context) error { return workflow.RetryAfter(workflow.Permanent(errFatal), time.Hour) },
	}
	asked := make(chan error, 10)
	picky := workflow.NewStep("picky", func(ctx context.Context, n int) (int, error) { return 0, ways[n](ctx) },
		workflow.StepOptions{Timeout: 50 * time.Millisecond, Retry: workflow.Retry{MaxAttempts: 3, Backoff: time.Millisecond, If: func(err error) bool {
			asked <- err
			var recorded *workflow.RecordedError
			switch {
			case errors.Is(err, errFatal), errors.Is(err, context.DeadlineExceeded):
				return false
			case errors.As(err, &recorded):
				return recorded.Kind != "panic"
			}
			panic("a predicate that panics says yes")
		}}})
	f.start(worker.Config{Workflows: []*workflow.Definition{defines(passes(picky), picky)}})
	for n, want := range []struct {
		attempts int
		kind     string
		asked    int
	}{{1, "", 1}, {1, "panic", 1}, {3, "timeout", 6}, {3, "", 3}, {1, "", 1}} {
		e := failure(t, f.client, f.enqueue(n))
		if e.Attempt != want.attempts || e.Kind != want.kind || e.Permanent != (want.attempts == 1) {
			t.Errorf("%d: got %+v", n, e)
		}
		if len(asked) != want.asked {
			t.Errorf("%d: asked %d times", n, len(asked))
		}
		for len(asked) > 0 {
			<-asked
		}
	}
}

// A wait that the other side asked for takes the place of the backoff.
func TestRetryAfter(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	busy := workflow.NewStep("busy", func(ctx context.Context, n int) (int, error) {
		if info, _ := workflow.StepInfoFrom(ctx); info.Attempt == 1 {
			return 0, fmt.Errorf("call: %w", workflow.RetryAfter(errors.New("too many requests"), time.Duration(n)*time.Hour))
		}
		return n, nil
	}, workflow.StepOptions{Retry: workflow.Retry{Backoff: time.Millisecond}})
	f.start(worker.Config{Workflows: []*workflow.Definition{defines(passes(busy), busy)}})
	for n, hours := range map[int]int{2: 2, 1000: 24} {
		run := f.enqueue(n)
		f.waits(run.ID)
		steps, err := f.client.Steps(t.Context(), run.ID, 0)
		if err != nil || len(steps) != 1 {
			t.Fatalf("steps: %+v, %v", steps, err)
		}
		s := steps[0]
		least := time.Duration(hours) * time.Hour
		if wait := s.RetryAt.Sub(s.Started); wait < least || wait > least*12/10 {
			t.Errorf("%d hours asked for: the next attempt is %v later", n, wait)
		}
		if s.Err == nil || s.Err.Type != "*fmt.wrapError" || s.Err.Permanent {
			t.Errorf("recorded: %+v", s.Err)
		}
	}
}

// A step that a deploy has put in the place of one that failed inherits nothing of it.
func TestAnotherStepBeginsAnew(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	old := workflow.NewStep("old", func(ctx context.Context, n int) (int, error) {
		return 0, errors.Join(workflow.Heartbeat(ctx, "half"), errors.New("not yet"))
	}, workflow.StepOptions{HeartbeatTimeout: time.Minute, Retry: workflow.Retry{Backoff: 24 * time.Hour, MaxBackoff: 24 * time.Hour}})
	stop := f.start(worker.Config{Workflows: []*workflow.Definition{defines(passes(old), old)}})
	run := f.enqueue(21)
	f.waits(run.ID)
	stop()
	f.exec("UPDATE stepward.timer SET wake_at = clock_timestamp()")
	next := workflow.NewStep("next", func(ctx context.Context, n int) (int, error) {
		info, _ := workflow.StepInfoFrom(ctx)
		var p string
		if there, err := info.Details(&p); there || err != nil || info.Attempt > 3 {
			return 0, workflow.Permanent(fmt.Errorf("attempt %d has details, %v: %w", info.Attempt, there, err))
		}
		if info.Attempt == 2 {
			return 0, errors.New("the first one of this step fails")
		}
		return 2 * n, nil
	}, workflow.StepOptions{Retry: workflow.Retry{MaxAttempts: 2, Backoff: time.Millisecond}})
	f.start(worker.Config{Workflows: []*workflow.Definition{defines(passes(next), next)}})
	ends(t, f.client, run, 42)
}

// A step's deadline interrupts an attempt, and lets no attempt wait that could
// not begin in time.
func TestStepDeadline(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]workflow.StepOptions{
		"interrupts": {Timeout: -1, Deadline: 50 * time.Millisecond},
		"no wait":    {Deadline: time.Minute, Retry: workflow.Retry{Backoff: time.Hour, MaxBackoff: time.Hour}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			late := workflow.NewStep("late", func(ctx context.Context, n int) (int, error) {
				if o.Timeout < 0 {
					<-ctx.Done()
				}
				return 0, errors.New("not yet")
			}, o)
			f.start(worker.Config{Workflows: []*workflow.Definition{defines(passes(late), late)}})
			run := f.enqueue(1)
			e := failure(t, f.client, run)
			if e.Kind != "timeout" || e.Step != "late" || e.Attempt != 1 || !errors.Is(e, workflow.ErrTimeout) {
				t.Errorf("got %+v", e)
			}
			if n := f.count("SELECT count(*) FROM stepward.wait"); n != 0 {
				t.Errorf("%d rows are left in wait", n)
			}
		})
	}
}

// The deadline is counted from when the step was first called, whichever worker
// has it: one that comes too late does not begin another attempt.
func TestStepDeadlineIsDurable(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	attempts := make(chan int, 10)
	slow := workflow.NewStep("slow", func(ctx context.Context, n int) (int, error) {
		info, _ := workflow.StepInfoFrom(ctx)
		attempts <- info.Attempt
		return 0, errors.New("not yet")
	}, workflow.StepOptions{Deadline: time.Hour, Retry: workflow.Retry{Backoff: 10 * time.Minute, MaxBackoff: 10 * time.Minute}})
	def := defines(passes(double, slow), double, slow)
	stop := f.start(worker.Config{Workflows: []*workflow.Definition{def}})
	run := f.enqueue(1)
	f.waits(run.ID)
	if why, err := f.client.Why(t.Context(), run.ID); err != nil || len(why.On) != 2 || why.On[0].Cause != "deadline" || why.On[0].Key != "slow" || why.On[1].Cause != "step" {
		t.Errorf("why: %v, %v", why, err)
	}
	stop()
	f.exec("UPDATE stepward.wait SET wake_at = wake_at - interval '55 minutes'")
	f.exec("UPDATE stepward.attempt SET retry_at = clock_timestamp()")
	f.exec("UPDATE stepward.timer SET wake_at = clock_timestamp()")
	stop = f.start(worker.Config{Workflows: []*workflow.Definition{def}})
	e := failure(t, f.client, run) // the second attempt could begin, and a third one could not
	stop()
	if e.Kind != "timeout" || e.Attempt != 2 || len(attempts) != 2 {
		t.Errorf("after %d attempts: %+v", len(attempts), e)
	}

	f.start(worker.Config{Workflows: []*workflow.Definition{def}})
	run = f.enqueue(2)
	f.waits(run.ID)
	f.exec("UPDATE stepward.wait SET wake_at = clock_timestamp()")
	f.exec("UPDATE stepward.timer SET wake_at = clock_timestamp()")
	if e := failure(t, f.client, run); e.Kind != "timeout" || e.Attempt != 1 || len(attempts) != 3 {
		t.Errorf("after %d attempts: %+v", len(attempts)-2, e)
	}
}

// Attempts may be many: there is no number that ends a run.
func TestManyAttempts(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	const last = 1<<15 + 1
	poll := workflow.NewStep("poll", func(ctx context.Context, n int) (int, error) {
		info, _ := workflow.StepInfoFrom(ctx)
		switch err := lines.AppendInStep(ctx, fmt.Sprint(info.Attempt)); {
		case err != nil:
			return 0, err
		case info.Attempt == 1:
			return 0, workflow.RetryAfter(errors.New("not yet"), time.Hour)
		case info.Attempt < last:
			return 0, errors.New("not yet")
		}
		return n, nil
	}, workflow.StepOptions{Retry: workflow.Retry{MaxAttempts: 1 << 20, MaxBackoff: time.Millisecond, Backoff: time.Millisecond}})
	f.start(worker.Config{Workflows: []*workflow.Definition{defines(passes(poll), poll)}})
	run := f.enqueue(7)
	f.waits(run.ID)
	f.exec("UPDATE stepward.attempt SET attempt = 32766, retry_at = clock_timestamp()")
	f.exec("UPDATE stepward.timer SET wake_at = clock_timestamp()")
	eventually(t, "it ends or is parked", func() bool { s := f.state(run.ID).State; return s.Ended() || s == workflow.StateParked })
	if s := f.state(run.ID); s.State != workflow.StateCompleted {
		t.Fatalf("%v: %v: %v", s.State, s.Reason, s.Err)
	}
	steps, err := f.client.Steps(t.Context(), run.ID, 0)
	if err != nil || len(steps) != 4 || steps[len(steps)-1].Attempt != last {
		t.Errorf("got %+v, %v", steps, err)
	}
	entries, _, err := lines.Read(t.Context(), f.client, run.ID, 0, 0)
	if err != nil || len(entries) != 4 || entries[3].Attempt != last {
		t.Errorf("got %+v, %v", entries, err)
	}
}
