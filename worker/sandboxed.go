package worker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/stepward/stepward/internal/engine"
	"github.com/stepward/stepward/internal/program"
	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/workflow"
)

// sandboxed runs one attempt in a sandbox of its own.
func (h *host) sandboxed(ctx context.Context, a engine.Attempt, p *pulse, free func()) ([]byte, error) {
	w := h.w
	kept := false // the place, by a tool step's function that does not return
	defer func() {
		if !kept {
			free()
		}
	}()
	if w.backend == nil {
		return nil, &engine.ParkError{Reason: "no_backend", Err: fmt.Errorf("step %s needs a sandbox: %w", a.Key, w.backendErr)}
	}
	var u ledger
	o := sandbox.Options{
		ID: fmt.Sprintf("%x-%d-%d-%08x", h.t.run, a.Seq, a.Number, rand.Uint32()), Spec: a.Step.Spec,
		Labels: sandbox.Labels{Schema: w.q.Schema, Session: h.t.session, Run: h.t.run, Step: a.Key, Attempt: a.Number, Epoch: h.t.epoch},
		Done:   u.add,
	}
	sb := h.warm(ctx, a, o)
	ready := sb != nil
	if ready {
		o.ID = sb.ID()
	}
	id := o.ID
	var created []byte
	if ready {
		created = audited(sb, true)
	}
	err := w.retry(ctx, h.t, func(ctx context.Context) error {
		return h.dispatch(ctx, w.Pool, a, id, w.backend.Name(), created)
	})
	if err != nil {
		if ready {
			h.discard(ctx, sb)
		}
		return nil, err
	}
	ctx, span := w.tel.tracer.Start(ctx, "stepward.sandbox", trace.WithAttributes(
		attribute.String("stepward.sandbox", id), attribute.String("stepward.backend", w.backend.Name()), attribute.Bool("stepward.warm", ready)))
	defer span.End()
	defer func() { h.destroyed(ctx, id, &u) }()
	if !ready {
		if sb, err = sandbox.Start(ctx, w.backend, o); err != nil {
			span.SetStatus(codes.Error, err.Error())
			return nil, cure(err)
		}
	}
	defer h.egress(ctx, a.Key, sb)()
	if !ready {
		if err := w.retry(ctx, h.t, func(ctx context.Context) error {
			_, err := w.Pool.Exec(ctx, w.q.SandboxCreated, h.t.run, w.actor(), a.Key, audited(sb, false))
			return err
		}); err != nil {
			return nil, err // no audit, no work
		}
	}
	p.begin() // not earlier: a sandbox may take its time
	if a.Step.Tool {
		kept = true
		return h.inline(ctx, a.Key, free, func() ([]byte, error) { return a.Step.CallTool(ctx, sb, a.Input) })
	}
	return h.guest(ctx, sb, a, p)
}

// guest runs the step's function inside the sandbox.
func (h *host) guest(ctx context.Context, sb *sandbox.Sandbox, a engine.Attempt, p *pulse) ([]byte, error) {
	info, _ := workflow.StepInfoFrom(ctx)
	shown := &guestOutlet{ctx: ctx, to: a.Outlet, cancel: p.cancel, key: a.Key, warn: func(err error) {
		h.w.log.WarnContext(ctx, "progress of a guest was refused", "run", info.Run.String(), "step", a.Key, "error", err)
	}}
	out, err := sb.Guest(ctx, sandbox.GuestStep{
		Workflow: h.t.def.Workflow, Version: h.t.def.Version, Step: a.Step.Name, RunID: info.Run.String(),
		Attempt: a.Number, IdempotencyKey: info.IdempotencyKey, Input: a.Input, Details: a.Details, Beat: a.Beat, BeatEvery: beatPause(a.Step),
		Append: shown.append, Progress: shown.progress,
	})
	var failed *sandbox.GuestError
	var exit *sandbox.ExitError
	var final interface{ Permanent() bool } // an error of a backend that no further attempt can cure
	switch {
	case err == nil:
		return out, nil
	case errors.As(err, &failed):
		f := &engine.Fault{Message: failed.Message, Type: failed.Type, Stack: failed.Stack, Permanent: failed.Permanent, After: failed.RetryAfter, Err: err}
		switch {
		case failed.Panic:
			f.Kind, f.Message = "panic", "panic: "+failed.Message
		case failed.Type == fmt.Sprintf("%T", &workflow.ValueError{}):
			f.Kind = valueKind(failed.Message)
		}
		return nil, f
	case errors.As(err, &exit):
		return nil, &engine.Fault{Kind: "exit", Message: fmt.Sprintf("the guest ended without an answer: %v%s", err, quoted(exit.Stderr)), Type: fmt.Sprintf("%T", exit), Err: err}
	case errors.Is(err, sandbox.ErrLost):
		return nil, &engine.Fault{Kind: "sandbox", Message: err.Error(), Type: fmt.Sprintf("%T", err), Err: err}
	case errors.As(err, &final) && final.Permanent():
		return nil, &engine.Fault{Kind: "sandbox", Message: err.Error(), Type: fmt.Sprintf("%T", final), Permanent: true, Err: err}
	}
	return nil, cure(err)
}

// valueKind returns the Kind of a *[workflow.ValueError] of a guest, of which
// there is only the text.
func valueKind(text string) string {
	for _, kind := range []string{"encode", "decode"} {
		if strings.HasPrefix(text, "workflow: "+kind+" ") {
			return kind
		}
	}
	return "size"
}

// beatPause is how often a guest passes its heartbeats on.
func beatPause(s *engine.Step) time.Duration {
	if s.Heartbeat > 0 {
		return min(beatEvery, s.Heartbeat/4)
	}
	return beatEvery
}

// audited is the detail of the event of a sandbox's creation.
func audited(sb *sandbox.Sandbox, warm bool) []byte {
	detail, _ := json.Marshal(struct { // cannot fail: strings, numbers and booleans
		Sandbox string `json:"sandbox"`
		Warm    bool   `json:"warm,omitempty"` // made before the attempt, for any
		sandbox.Enforcement
	}{sb.ID(), warm, sb.Enforcement()})
	return detail
}

// dispatch records that the attempt leaves the worker, before it does, and the event
// of its sandbox if that is there.
func (h *host) dispatch(ctx context.Context, q querier, a engine.Attempt, id, backend string, created []byte) error {
	var run int64
	err := q.QueryRow(ctx, h.w.q.AttemptDispatch, h.t.session, h.t.run, h.t.epoch, a.Seq, a.Key, a.Number, a.Step.Mode, id, backend, h.w.actor(), created).Scan(&run)
	if errors.Is(err, pgx.ErrNoRows) {
		return engine.ErrLeaseLost
	}
	return err
}

// destroyTimeout bounds the removal of a sandbox. What is left then is swept.
const destroyTimeout = 15 * time.Second

func (h *host) destroy(ctx context.Context, sb *sandbox.Sandbox) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), destroyTimeout)
	defer cancel()
	if err := sb.Destroy(ctx); err != nil {
		h.w.log.WarnContext(ctx, "sandbox was not destroyed", "sandbox", sb.ID(), "error", err)
	}
}

func (h *host) destroyed(ctx context.Context, id string, u *ledger) {
	var used []byte
	if u != nil {
		used = u.json()
	}
	h.w.exec(context.WithoutCancel(ctx), h.w.q.SandboxDestroyed, []string{id}, h.w.actor(), used)
}

// cure tells what a deploy or an operator must see to from what a retry may
// mend.
func cure(err error) error {
	var (
		unavailable *sandbox.UnavailableError
		unsupported *sandbox.UnsupportedError
		image       *sandbox.ImageError
		runner      *program.Error
	)
	switch {
	case errors.As(err, &image):
		return &engine.ParkError{Reason: "image", Err: err}
	case errors.As(err, &unsupported):
		return &engine.ParkError{Reason: "unsupported", Err: err}
	case errors.As(err, &runner):
		return &engine.ParkError{Reason: "program", Err: err}
	case errors.As(err, &unavailable):
		return &engine.ParkError{Reason: "no_backend", Err: err}
	}
	return err
}

// quoted shows the end of a guest's standard error.
func quoted(b []byte) string {
	if b = bytes.TrimSpace(b); len(b) > 0 {
		return fmt.Sprintf(": stderr ends with %q", b)
	}
	return ""
}
