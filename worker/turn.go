package worker

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/stepward/stepward/internal/engine"
	"github.com/stepward/stepward/workflow"
)

// heldTurn is a run while this worker holds it.
type heldTurn struct {
	run     int64
	epoch   int
	session int64
	def     *engine.Definition
	claimed
	stop     context.CancelCauseFunc
	canceled chan struct{} // closed once, under worker.mu
	news     chan struct{} // something may have arrived for the run
	isCancel bool
	watched  atomic.Bool // a client waits for what it shows, or for its end
	paused   atomic.Bool
	ending   bool // its end is being committed; under worker.mu
}

// begin starts the turn of a claimed run.
func (w *worker) begin(base context.Context, t *heldTurn) {
	ctx, stop := context.WithCancelCause(base)
	t.stop = stop
	w.mu.Lock()
	w.turns[t.run] = t
	if t.cancel {
		t.setCanceled()
	}
	w.mu.Unlock()
	if w.lease.session() != t.session {
		stop(engine.ErrLeaseLost) // it was lost between the claim and now
	}
	w.tel.claimLatency.Record(ctx, t.waited)
	w.turnDone.Go(func() {
		defer stop(nil)
		w.turn(ctx, t)
		w.leaves(t)
	})
}

// setCanceled tells the turn that its run was canceled. worker.mu is held.
func (t *heldTurn) setCanceled() {
	if !t.isCancel {
		t.isCancel = true
		close(t.canceled)
	}
}

// hasNews tells the turn that holds a run to look.
func (t *heldTurn) hasNews() {
	select {
	case t.news <- struct{}{}:
	default:
	}
}

// cancelTurn passes a cancelation on to the turn that holds the run.
func (w *worker) cancelTurn(run int64, epoch int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if t := w.turns[run]; t != nil && t.epoch == epoch {
		t.setCanceled()
	}
}

// turn runs one turn from claim to end.
func (w *worker) turn(ctx context.Context, t *heldTurn) {
	if t.traceparent != nil {
		ctx = propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{"traceparent": *t.traceparent})
	}
	ctx, span := w.tel.tracer.Start(ctx, "stepward.turn", trace.WithSpanKind(trace.SpanKindConsumer), trace.WithAttributes(
		attribute.String("stepward.run", workflow.RunID(t.run).String()),
		attribute.String("stepward.workflow", t.workflow), attribute.Int("stepward.epoch", t.epoch)))
	defer span.End()
	log := w.log.With("run", workflow.RunID(t.run).String(), "workflow", t.workflow)
	end := w.work(ctx, t)
	if !end.Final() && end.Kind != engine.Lost {
		if err := w.leave(ctx, t, end); err != nil {
			end = engine.End{Kind: engine.Lost, Err: err}
		}
	}
	if end.Err != nil {
		span.RecordError(end.Err)
		span.SetStatus(codes.Error, end.Err.Error())
	}
	switch {
	case end.Kind == engine.Failed, end.Kind == engine.Parked && end.Reason != "paused":
		log.WarnContext(ctx, "run "+endNames[end.Kind], "reason", end.Reason, "error", end.Err)
	case end.Kind == engine.Lost:
		log.WarnContext(ctx, "turn stopped: the lease is lost", "error", end.Err)
	default:
		log.DebugContext(ctx, "run "+endNames[end.Kind])
	}
	w.tel.turns.Add(ctx, 1, endAttribute(end.Kind))
}

var endNames = map[engine.EndKind]string{
	engine.Completed: "completed", engine.Failed: "failed", engine.Canceled: "canceled", engine.Timer: "waiting", engine.Renewed: "renewed",
	engine.Parked: "parked", engine.Released: "released", engine.Lost: "lost",
}

// work loads what earlier turns recorded and executes.
func (w *worker) work(ctx context.Context, t *heldTurn) engine.End {
	t.def = w.defs[t.workflow+"@"+t.version]
	if t.def == nil { // the claim asks for own versions only
		return engine.End{Kind: engine.Parked, Reason: "undefined", Err: fmt.Errorf("worker: no definition of %s@%s", t.workflow, t.version)}
	}
	h := &host{w: w, t: t}
	in := engine.Turn{
		Run: t.run, Epoch: t.epoch, Tenant: t.tenant, Seed: t.seed, Input: t.input, Attempts: make(map[int]engine.Attempts),
		Canceled: t.canceled, Draining: w.draining, Paused: t.paused.Load, News: t.news, Crowded: w.hungry.Load, Now: time.Now,
		MaxBytes: w.MaxBytes, Patience: patience, Sticky: sticky, Blocked: h.blocked,
		Host: h, Fetch: h.fetch, Open: h.open, Logger: w.log.With("run", workflow.RunID(t.run).String()),
	}
	if t.tick != nil {
		in.Tick = t.tick.UTC()
	}
	if t.epoch > 1 {
		if err := w.retry(ctx, t, func(ctx context.Context) error { return w.history(ctx, t, &in) }); err != nil {
			return engine.End{Kind: engine.Lost, Err: err}
		}
	}
	end := t.def.Run(ctx, in)
	h.leaves(ctx, end.Kind)
	return end
}

const (
	// patience is the longest wait for a time that is spent in memory.
	patience = 5 * time.Second

	// sticky is how long a run stays in memory that waits for a signal or a
	// child, unless another run wants its place.
	sticky = 3 * time.Second
)
