package worker

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/stepward/stepward/internal/engine"
	"github.com/stepward/stepward/workflow"
)

// host executes the attempts of one turn and records them.
type host struct {
	w *worker
	t *heldTurn

	mu    sync.Mutex
	boxes map[int]*box // of attempts that have ended, until that is on record; by seq

	shared map[string]*shared // by what its steps have to agree in
}

// Write implements engine.Host.
func (h *host) Write(ctx context.Context, b engine.Batch) error {
	x, err := h.seal(ctx, b)
	if err != nil {
		return err
	}
	if x.End != nil {
		h.w.endsSoon(h.t)
	}
	err = untilUnlocked(ctx, func() error {
		refused, err := h.w.commits.Do(ctx, x)
		x.again = true
		return errors.Join(refused, err)
	})
	if err == nil {
		h.settled(ctx, b)
	}
	return err
}

// Attempt implements engine.Host.
func (h *host) Attempt(ctx context.Context, a engine.Attempt) (engine.Outcome, error) {
	mode := workflow.Mode(a.Step.Mode)
	place := func() {}
	defer func() { place() }()
	if mode != workflow.Bare { // first, so that what waits for a sandbox keeps no bare step waiting
		if err := take(ctx, h.w.sandboxes); err != nil {
			return engine.Outcome{}, err
		}
		place = func() { <-h.w.sandboxes }
	}
	if err := take(ctx, h.w.steps); err != nil {
		return engine.Outcome{}, err
	}
	free := func() { <-h.w.steps }
	ctx, span := h.w.tel.tracer.Start(ctx, "stepward.step", trace.WithAttributes(
		attribute.String("stepward.step", a.Key), attribute.String("stepward.mode", mode.String()), attribute.Int("stepward.attempt", a.Number)))
	defer span.End()
	if a.Step.Timeout > 0 {
		var cancel context.CancelFunc
		left := a.Step.Timeout
		if a.Sandbox != "" {
			left -= time.Since(a.Began)
		}
		ctx, cancel = context.WithTimeoutCause(ctx, left, engine.ErrTimedOut)
		defer cancel()
	}
	if a.Details != nil {
		var err error
		if a.Details, _, err = h.open(ctx, a.Details); err != nil {
			free()
			return engine.Outcome{}, err
		}
	}
	turn := ctx
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	p := h.pulse(ctx, a, cancel)
	a.Beat = p.beat
	o := &outlet{h: h, ctx: context.WithoutCancel(ctx), step: a.Key, attempt: a.Number}
	a.Outlet = o
	ctx = engine.WithAttempt(ctx, a)
	start := time.Now()
	var out engine.Outcome
	var err error
	switch {
	case a.Step.CallTx != nil:
		p.begin()
		out, err = h.inTx(ctx, a, free)
	case mode == workflow.Bare:
		p.begin()
		out.Output, err = h.inline(ctx, a.Key, free, func() ([]byte, error) { return a.Step.Call(ctx, a.Input) })
	default:
		back := place
		place = func() {}
		out.Output, err = h.sandboxed(ctx, a, p, free, back)
	}
	out.Progress = o.close(err == nil)
	out.Details = p.end(turn)
	if err == nil && out.Commit == nil && mode != workflow.Bare {
		out.Rollback = func(ctx context.Context) { h.forget(ctx, a.Seq, a.Number) }
	}
	if err != nil {
		if err = a.Overdue(ctx, err); errors.Is(context.Cause(ctx), engine.ErrLeaseLost) {
			err = engine.ErrLeaseLost
		}
	}
	h.w.tel.attempts.Record(ctx, time.Since(start).Seconds(), attemptAttributes(mode, err))
	if err != nil {
		span.RecordError(err)
		span.SetStatus(codes.Error, err.Error())
	}
	return out, err
}

// blocked hears that the body does not come back, and that it has.
func (h *host) blocked(is bool) {
	if !is {
		h.w.blocked.Add(-1)
		return
	}
	h.w.log.Error("a body computes, or waits for something that is not durable (a lock, a channel, the network): it cannot be canceled or handed back, and keeps its place; what takes time belongs into a step",
		"run", workflow.RunID(h.t.run).String(), "workflow", h.t.workflow, "after", engine.BlockedAfter, "blocked", h.w.blocked.Add(1))
}

// take waits for a place.
func take(ctx context.Context, places chan<- struct{}) error {
	select {
	case places <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// inline calls the function of a step. One that ignores its context keeps its place
// until it returns.
func (h *host) inline(ctx context.Context, key string, free func(), call func() ([]byte, error)) ([]byte, error) {
	placed := func() ([]byte, error) {
		defer free()
		return call()
	}
	return engine.Call(ctx, placed, func(done <-chan struct{}) {
		n := h.w.stuck.Add(1)
		h.w.log.ErrorContext(ctx, "a step's function ignores its context and keeps its place",
			"run", workflow.RunID(h.t.run).String(), "step", key, "stuck", n)
		go func() {
			<-done
			h.w.stuck.Add(-1)
		}()
	})
}
