package worker

import (
	"context"
	"errors"
	"time"

	"github.com/stepward/stepward/internal/beat"
	"github.com/stepward/stepward/internal/engine"
	"github.com/stepward/stepward/workflow"
)

// beatEvery is how often what an attempt reports becomes durable.
const beatEvery = time.Second

// pulse is what is heard of an attempt while it runs.
type pulse struct {
	h       *host
	a       engine.Attempt
	started time.Time
	line    beat.Line
	cancel  context.CancelCauseFunc
	silence *time.Timer // ends the attempt; nil when it may be silent
}

// pulse listens to an attempt, which cancel ends.
func (h *host) pulse(ctx context.Context, a engine.Attempt, cancel context.CancelCauseFunc) *pulse {
	p := &pulse{h: h, a: a, started: time.Now(), cancel: cancel}
	p.line.Every = beatEvery
	p.line.Pass = func(details []byte) { p.write(ctx, details) }
	return p
}

// begin is called when the step's function is.
func (p *pulse) begin() {
	if p.a.Step.Heartbeat > 0 {
		p.silence = time.AfterFunc(p.a.Step.Heartbeat, func() { p.cancel(engine.ErrSilent) })
	}
}

func (p *pulse) beat(details []byte) {
	if p.silence != nil {
		p.silence.Reset(p.a.Step.Heartbeat)
	}
	p.line.Send(details)
}

// write makes details durable, with whatever else the worker commits.
func (p *pulse) write(ctx context.Context, details []byte) {
	err := p.h.Write(context.WithoutCancel(ctx), engine.Batch{Beats: []engine.Beat{{
		Seq: p.a.Seq, Key: p.a.Key, Mode: p.a.Step.Mode, Attempt: p.a.Number, Started: p.started, Details: details,
	}}})
	switch {
	case errors.Is(err, engine.ErrLeaseLost):
		p.cancel(err)
	case err != nil:
		p.h.w.log.WarnContext(ctx, "a heartbeat was not recorded", "run", workflow.RunID(p.h.t.run).String(), "step", p.a.Key, "error", err)
	}
}

// end returns what was reported last. What an attempt that is interrupted had to
// say is written: no failure will hold it.
func (p *pulse) end(ctx context.Context) []byte {
	if p.silence != nil {
		p.silence.Stop()
	}
	newest, left := p.line.Close()
	if left && ctx.Err() != nil && !errors.Is(context.Cause(ctx), engine.ErrLeaseLost) {
		p.write(ctx, newest)
	}
	return newest
}
