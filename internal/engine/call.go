package engine

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"
)

// ErrTimeout is in the chain of the error of what took longer than it may.
var ErrTimeout = errors.New("workflow: timed out")

// Causes of the end of an attempt's context.
var (
	ErrTimedOut = errors.New("timeout")
	ErrSilent   = errors.New("no heartbeat")
)

// Leniency is how long a function may go on after its context is done.
const Leniency = time.Second

// Call calls the function of a step on a goroutine of its own: it may panic, or
// end its goroutine, as FailNow of a test does. One that ignores its context is
// left behind, and late is told, with what ends when the function does.
func Call(ctx context.Context, fn func() ([]byte, error), late func(done <-chan struct{})) ([]byte, error) {
	out, err := []byte(nil), error(&Fault{Kind: "goexit", Message: "the step's function ended its goroutine (runtime.Goexit)"})
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			if p := recover(); p != nil {
				err = &Fault{Kind: "panic", Message: fmt.Sprintf("panic: %v", p), Type: fmt.Sprintf("%T", p), Stack: string(debug.Stack())}
			}
		}()
		out, err = fn()
	}()
	select {
	case <-done:
		return out, err
	case <-ctx.Done():
	}
	timer := time.NewTimer(Leniency)
	defer timer.Stop()
	select {
	case <-done:
		return out, err
	case <-timer.C:
	}
	late(done)
	return nil, fmt.Errorf("the function did not return: %w", context.Cause(ctx))
}

// Overdue returns the error of an attempt that has failed: a fault or a [ParkError] if what ended
// its context is one, or that it took too long, or was silent for too long.
func (a Attempt) Overdue(ctx context.Context, err error) error {
	var what string
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, ErrTimedOut):
		what = fmt.Sprintf("attempt took longer than %v", a.Step.Timeout)
	case errors.Is(cause, ErrSilent):
		what = fmt.Sprintf("attempt sent no heartbeat for %v", a.Step.Heartbeat)
	default:
		if f, ok := errors.AsType[*Fault](cause); ok {
			return f
		}
		if p, ok := errors.AsType[*ParkError](cause); ok {
			return p
		}
		return err
	}
	return &Fault{Kind: "timeout", Message: fmt.Sprintf("%s: %v", what, err), Type: fmt.Sprintf("%T", err), Err: ErrTimeout}
}
