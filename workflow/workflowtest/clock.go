package workflowtest

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/stepward/stepward/internal/engine"
)

// A timer is a time on the clock: when a function wakes that sleeps, or when an
// attempt times out.
type timer struct {
	run   *memRun
	until time.Time
	ctx   context.Context // of a sleeper
	fire  func()
}

// Sleep lets the function of a step take time on the clock. It returns the cause
// of ctx if that ends first.
func (e *Env) Sleep(ctx context.Context, d time.Duration) error {
	a, ok := engine.AttemptFrom(ctx)
	if !ok {
		return errors.New("workflowtest: Sleep takes the context of a step's function")
	}
	e.mu.Lock()
	i := slices.IndexFunc(e.runs, func(r *memRun) bool { return int64(r.id) == a.Run })
	if i < 0 || ctx.Err() != nil {
		e.mu.Unlock()
		return context.Cause(ctx)
	}
	done := make(chan struct{})
	e.timers = append(e.timers, &timer{run: e.runs[i], until: e.clock.Add(d), ctx: ctx, fire: func() { close(done) }})
	e.bell.Broadcast()
	e.mu.Unlock()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		e.bell.Broadcast()
		return context.Cause(ctx)
	}
}

// quiet reports whether nothing happens before the clock goes on: every turn
// waits, and every call that it knows of is a function that sleeps.
func (e *Env) quiet() bool {
	e.timers = slices.DeleteFunc(e.timers, func(t *timer) bool { return t.ctx != nil && t.ctx.Err() != nil })
	for _, r := range e.runs {
		if r.status != active {
			continue
		}
		sleeping := 0
		for _, t := range e.timers {
			if t.run == r && t.ctx != nil {
				sleeping++
			}
		}
		if r.lost || !r.idle || r.begun != r.calls || r.begun-r.open != r.answered || r.open != sleeping {
			return false
		}
	}
	return true
}

// leap sets the clock to the first time that anything waits for, and lets that
// go on. It reports whether there is any.
func (e *Env) leap() bool {
	var first time.Time
	var wake func()
	sooner := func(at time.Time, f func()) {
		if !at.IsZero() && (wake == nil || at.Before(first)) {
			first, wake = at, f
		}
	}
	for _, t := range e.timers {
		sooner(t.until, func() {
			e.timers = slices.DeleteFunc(e.timers, func(o *timer) bool { return o == t })
			t.fire()
		})
	}
	for _, r := range e.runs {
		switch r.status {
		case active:
			sooner(r.due, r.rouse)
		case waiting:
			sooner(r.until, func() { r.status = ready })
		}
	}
	if wake == nil {
		return false
	}
	if first.After(e.clock) {
		e.clock = first
	}
	wake()
	return true
}
