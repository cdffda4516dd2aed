package worker

import (
	"cmp"
	"context"
	"time"

	"github.com/stepward/stepward/internal/engine"
	"github.com/stepward/stepward/internal/warm"
	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/workflow"
)

// Warm says how many sandboxes a worker keeps ready that nobody has used, for each
// [sandbox.Kind] that its steps name, beside MaxSandboxes. The zero value keeps none:
// a backend like sandbox/local, which makes one in milliseconds, needs none. What is
// kept follows the demand: more when a step found none, fewer when some were never
// needed for Idle. A sandbox that is taken belongs to that attempt for good. An image
// that is named by a tag may be an hour old by then; a digest pins it.
type Warm struct {
	Min, Max int
	Idle     time.Duration // defaults to 5 minutes
}

// newWarm returns the pool, nil if none is asked for.
func (w *worker) newWarm() *warm.Pool {
	if w.Warm.Max == 0 || w.backend == nil || !w.capabilities.Live { // there is nothing that could be kept
		return nil
	}
	return warm.New(warm.Config{
		Backend: w.backend, Min: w.Warm.Min, Max: w.Warm.Max, Idle: cmp.Or(w.Warm.Idle, 5*time.Minute), OrphanAfter: w.LeaseTTL + takeWithin, Log: w.log,
		Guest: w.hasGuest,
		Labels: func() sandbox.Labels {
			return sandbox.Labels{Schema: w.q.Schema, Database: w.database, Session: w.lease.session()}
		},
		Record: func(ctx context.Context, id string) error {
			_, err := w.Pool.Exec(ctx, w.q.SandboxWarm, id, w.lease.session(), w.backend.Name())
			return err
		},
		Forget: func(ctx context.Context, id string) { w.exec(ctx, w.q.SandboxDestroyed, []string{id}, w.actor(), nil) },
	})
}

// kinds are those of the sandboxes that steps of this worker need.
func (w *worker) kinds() []sandbox.Kind {
	var out []sandbox.Kind
	for _, d := range w.defs {
		for _, s := range d.Steps {
			if workflow.Mode(s.Mode) != workflow.Bare {
				out = append(out, s.Spec.Kind())
			}
		}
	}
	return out
}

// hasGuest reports whether guest steps need sandboxes of the kind.
func (w *worker) hasGuest(k sandbox.Kind) bool {
	for _, d := range w.defs {
		for _, s := range d.Steps {
			if s.Call != nil && workflow.Mode(s.Mode) != workflow.Bare && s.Spec.Kind() == k {
				return true
			}
		}
	}
	return false
}

// warm claims a sandbox that is ready for the attempt; nil when there is none.
func (h *host) warm(ctx context.Context, a engine.Attempt, o sandbox.Options) *sandbox.Sandbox {
	if h.w.warm == nil {
		return nil
	}
	for {
		sb := h.w.warm.Take(a.Step.Spec.Kind())
		if sb == nil {
			return nil
		}
		if err := sb.Claim(ctx, o); err == nil {
			return sb
		} else if ctx.Err() == nil {
			h.w.log.WarnContext(ctx, "a sandbox that was ready is not there", "sandbox", sb.ID(), "error", err)
		}
		h.discard(ctx, sb)
		if ctx.Err() != nil {
			return nil
		}
	}
}

// discard destroys a sandbox that the attempt does not use after all.
func (h *host) discard(ctx context.Context, sb *sandbox.Sandbox) {
	h.destroy(ctx, sb)
	h.destroyed(ctx, sb.ID(), nil)
}
