package workflowtest

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"time"

	"github.com/stepward/stepward/internal/engine"
	"github.com/stepward/stepward/workflow"
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

var errTimedOut = errors.New("timeout")

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
		defer time.AfterFunc(a.Step.Timeout, func() { cancel(errTimedOut) }).Stop()
		e.mu.Lock()
		limit := &timer{run: r, until: e.clock.Add(a.Step.Timeout), fire: func() { cancel(errTimedOut) }}
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
		silence = time.AfterFunc(a.Step.Heartbeat, func() { cancel(errSilent) })
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
	out.Output, err = inline(engine.WithAttempt(ctx, a), fn, a.Input)
	switch cause := context.Cause(ctx); {
	case err == nil:
	case errors.Is(cause, errSilent):
		err = &engine.Fault{Kind: "timeout", Message: fmt.Sprintf("attempt sent no heartbeat for %v: %v", a.Step.Heartbeat, err), Type: fmt.Sprintf("%T", err), Err: workflow.ErrTimeout}
	case errors.Is(cause, errTimedOut):
		err = &engine.Fault{Kind: "timeout", Message: fmt.Sprintf("attempt took longer than %v: %v", a.Step.Timeout, err), Type: fmt.Sprintf("%T", err), Err: workflow.ErrTimeout}
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

var errSilent = errors.New("no heartbeat")

// leniency is how long a function may go on after its context is done.
const leniency = time.Second

// inline calls the function on a goroutine of its own, as a worker does: it may
// panic, end its goroutine (FailNow of a test does) or ignore its context.
func inline(ctx context.Context, fn func(context.Context, []byte) ([]byte, error), input []byte) ([]byte, error) {
	type result struct {
		out []byte
		err error
	}
	done := make(chan result, 1)
	go func() {
		r := result{err: &engine.Fault{Kind: "goexit", Message: "the step's function ended its goroutine (runtime.Goexit)"}}
		defer func() {
			if p := recover(); p != nil {
				r = result{err: &engine.Fault{Kind: "panic", Message: fmt.Sprintf("panic: %v", p), Type: fmt.Sprintf("%T", p), Stack: string(debug.Stack())}}
			}
			done <- r
		}()
		out, err := fn(ctx, input)
		r = result{out, err}
	}()
	select {
	case r := <-done:
		return r.out, r.err
	case <-ctx.Done():
	}
	late := time.NewTimer(leniency)
	defer late.Stop()
	select {
	case r := <-done:
		return r.out, r.err
	case <-late.C:
		return nil, fmt.Errorf("the function did not return: %w", context.Cause(ctx))
	}
}
