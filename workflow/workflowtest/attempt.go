package workflowtest

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/stepward/stepward/internal/engine"
)

// call counts a call of the turn; what it returns, its answer.
func (r *memRun) call() (answer func()) {
	r.e.mu.Lock()
	defer r.e.mu.Unlock()
	r.calls++
	return func() {
		r.e.mu.Lock()
		defer r.e.mu.Unlock()
		r.answered++
		r.e.bell.Broadcast()
	}
}

// Attempt implements engine.Host.
func (r *memRun) Attempt(ctx context.Context, a engine.Attempt) (out engine.Outcome, err error) {
	e := r.e
	defer r.call()()
	e.reach(a.Key, false)
	e.mu.Lock()
	fn, lost := e.fakes[a.Step.Name], r.lost
	e.mu.Unlock()
	switch {
	case lost:
		return out, engine.ErrLeaseLost
	case fn != nil:
	case a.Step.Tool:
		return out, &engine.ParkError{Reason: "no_backend", Err: fmt.Errorf("step %s: %w", a.Key, ErrToolStep)}
	case a.Step.CallTx != nil:
		return out, &engine.ParkError{Reason: "no_database", Err: fmt.Errorf("step %s: %w", a.Key, ErrTxStep)}
	default:
		fn = a.Step.Call
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if a.Step.Timeout > 0 { // on the clock, and in fact
		defer time.AfterFunc(a.Step.Timeout, func() { cancel(engine.ErrTimedOut) }).Stop()
		e.mu.Lock()
		limit := &timer{run: r, until: e.clock.Add(a.Step.Timeout), fire: func() { cancel(engine.ErrTimedOut) }}
		e.timers = append(e.timers, limit)
		e.mu.Unlock()
		defer func() {
			e.mu.Lock()
			defer e.mu.Unlock()
			e.timers = slices.DeleteFunc(e.timers, func(t *timer) bool { return t == limit })
		}()
	}
	shown := &outlet{r: r, a: a}
	a.Outlet = shown
	var silence *time.Timer
	if a.Step.Heartbeat > 0 {
		silence = time.AfterFunc(a.Step.Heartbeat, func() { cancel(engine.ErrSilent) })
		defer silence.Stop()
	}
	var details []byte
	a.Beat = func(d []byte) {
		e.mu.Lock()
		defer e.mu.Unlock()
		details = d
		if silence != nil {
			silence.Reset(a.Step.Heartbeat)
		}
	}
	ctx = engine.WithAttempt(ctx, a)
	if out.Output, err = engine.Call(ctx, func() ([]byte, error) { return fn(ctx, a.Input) }, func(<-chan struct{}) {}); err != nil {
		err = a.Overdue(ctx, err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	shown.over = true
	if r.lost {
		return engine.Outcome{}, engine.ErrLeaseLost
	}
	out.Details = details
	return out, err
}
