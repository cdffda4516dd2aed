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

	"github.com/stepward/stepward/audit"
	"github.com/stepward/stepward/internal/brokerlink"
	"github.com/stepward/stepward/internal/engine"
	"github.com/stepward/stepward/internal/program"
	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/workflow"
)

// sandboxed runs one attempt in a sandbox of its own: a new one, or that in which
// another turn began it. place is given back when the sandbox has gone.
func (h *host) sandboxed(ctx context.Context, a engine.Attempt, p *pulse, free, place func()) ([]byte, error) {
	w := h.w
	kept := false // the place of a step, by a tool step's function that does not return
	defer func() {
		if !kept {
			free()
		}
	}()
	b := &box{h: h, id: a.Sandbox, step: a.Key, attempt: a.Number, place: place}
	shares := a.Step.Spec.Share && a.Sandbox == "" // one of an earlier turn is this attempt's to remove
	defer func() {
		if !shares {
			b.done(ctx, a.Seq)
			return
		}
		if b.sb != nil {
			b.reached() // before the result
		}
		place()
	}()
	if w.backend == nil {
		return nil, &engine.ParkError{Reason: "no_backend", Err: fmt.Errorf("step %s needs a sandbox: %w", a.Key, w.backendErr)}
	}
	if workflow.Mode(a.Step.Mode) >= workflow.Identity && w.rests() {
		h.t.stop(engine.ErrHandBack)
		return nil, engine.ErrHandBack
	}
	if workflow.Mode(a.Step.Mode) >= workflow.Identity && a.Sandbox == "" {
		if err := h.able(ctx, a); err != nil {
			return nil, err
		}
	}
	ctx, span := w.tel.tracer.Start(ctx, "stepward.sandbox", trace.WithAttributes(attribute.String("stepward.backend", w.backend.Name())))
	defer span.End()
	var known map[int]bool
	var err error
	switch {
	case shares:
		b, err = h.share(ctx, a)
	case a.Sandbox == "":
		err = h.create(ctx, a, b)
	default:
		known, err = h.takeOver(ctx, a, b)
	}
	span.SetAttributes(attribute.String("stepward.sandbox", b.id), attribute.Bool("stepward.warm", b.warm))
	if err != nil {
		span.SetStatus(codes.Error, err.Error())
		return nil, err
	}
	if workflow.Mode(a.Step.Mode) >= workflow.Identity {
		l, err := h.lend(ctx, a, b, p.cancel)
		if err != nil {
			span.SetStatus(codes.Error, err.Error())
			return nil, err
		}
		b.lent = l
	}
	p.begin() // not earlier: a sandbox may take its time
	var out []byte
	if kept = a.Step.Tool; kept {
		out, err = h.tool(ctx, b, a, free)
	} else {
		out, err = h.guest(ctx, b, a, p, known)
	}
	if b.lent != nil {
		b.lent.look(ctx, out)
		if err != nil {
			b.lent.look(ctx, []byte(err.Error()))
		}
	}
	return out, err
}

// create makes the sandbox of an attempt that begins, or takes one that is ready.
func (h *host) create(ctx context.Context, a engine.Attempt, b *box) (err error) {
	w := h.w
	o := sandbox.Options{
		ID: fmt.Sprintf("%x-%d-%d-%08x", h.t.run, a.Seq, a.Number, rand.Uint32()), Spec: a.Step.Spec,
		Labels: h.labels(a), OrphanAfter: w.LeaseTTL + takeWithin, Done: b.used.add, Continue: a.Step.Continue && w.capabilities.Persistent,
		Keep: h.keep(a, b),
	}
	b.id = o.ID
	var created, handle []byte
	if sb := h.warm(ctx, a, o); sb != nil {
		b.id, b.warm, b.recorded = sb.ID(), true, true
		b.open(ctx, sb)
		if handle, err = h.handle(ctx, a, sb.Handle()); err != nil {
			return err
		}
		created, b.lasts = audited(sb, true), handle != nil
	}
	err = w.retry(ctx, h.t, func(ctx context.Context) error {
		return h.dispatch(ctx, w.Pool, a, b.id, w.backend.Name(), audit.SandboxCreated, created, handle)
	})
	if err != nil {
		return err
	}
	if b.warm {
		return nil
	}
	b.recorded = true
	sb, err := sandbox.Start(ctx, w.backend, o)
	if err != nil {
		return cure(err)
	}
	b.open(ctx, sb)
	if handle, err = h.handle(ctx, a, sb.Handle()); err != nil {
		return err
	}
	b.lasts = handle != nil
	return w.retry(ctx, h.t, func(ctx context.Context) error { // no audit, no work
		_, err := w.Pool.Exec(ctx, w.q.SandboxCreated, h.t.run, w.actor(), a.Key, audited(sb, false), handle, b.id, h.t.session, h.t.epoch)
		return err
	})
}

func (h *host) labels(a engine.Attempt) sandbox.Labels {
	return sandbox.Labels{Schema: h.w.q.Schema, Database: h.w.database, Session: h.t.session, Run: h.t.run, Step: a.Key, Attempt: a.Number, Epoch: h.t.epoch}
}

// guest runs the step's function inside the sandbox, or follows the one that runs
// there. known are the entries of it that are durable.
func (h *host) guest(ctx context.Context, b *box, a engine.Attempt, p *pulse, known map[int]bool) ([]byte, error) {
	info, _ := workflow.StepInfoFrom(ctx)
	id := ""
	if b.lasts {
		id = guestID
		var stop func()
		ctx, stop = leaving(ctx, func() {})
		defer stop()
	}
	shown := &guestOutlet{ctx: ctx, to: a.Outlet.(*outlet), cancel: p.cancel, key: a.Key, known: known, look: b.lent.looks(ctx), warn: func(err error) {
		h.w.log.WarnContext(ctx, "what a guest reports was refused", "run", info.Run.String(), "step", a.Key, "error", err)
	}}
	out, err := b.sb.Guest(ctx, sandbox.GuestStep{
		ID: id, Workflow: h.t.def.Workflow, Version: h.t.def.Version, Step: a.Step.Name, RunID: info.Run.String(),
		Attempt: a.Number, IdempotencyKey: info.IdempotencyKey, Input: a.Input, Details: a.Details, Beat: shown.beat(a.Beat), BeatEvery: beatPause(a.Step),
		Append: shown.append, Progress: shown.progress,
	})
	var failed *sandbox.GuestError
	var exit *sandbox.ExitError
	var final interface{ Permanent() bool } // an error of a backend that no further attempt can cure
	switch {
	case err == nil:
		return shown.output(out)
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
	case errors.Is(err, sandbox.ErrSecret):
		return nil, &engine.Fault{Kind: "identity", Message: err.Error(), Type: fmt.Sprintf("%T", err), Permanent: true, Err: err}
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

// dispatch records that the attempt leaves the worker, before it does, and an event and
// the handle of its sandbox if that is there.
func (h *host) dispatch(ctx context.Context, q querier, a engine.Attempt, id, backend, kind string, detail, handle []byte) error {
	var run int64
	err := q.QueryRow(ctx, h.w.q.AttemptDispatch, h.t.session, h.t.run, h.t.epoch, a.Seq, a.Key, a.Number, a.Step.Mode, id, backend, h.w.actor(), detail, handle, kind).Scan(&run)
	if errors.Is(err, pgx.ErrNoRows) {
		return engine.ErrLeaseLost
	}
	return err
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
		return &engine.ParkError{Reason: "unsupported", Err: asUser(err)}
	case errors.As(err, &runner):
		return &engine.ParkError{Reason: "program", Err: err}
	case errors.As(err, &unavailable):
		return &engine.ParkError{Reason: "no_backend", Err: asUser(err)}
	}
	return err
}

// asUser says that what a backend lacks may be root.
func asUser(err error) error {
	if !brokerlink.LeftRoot() {
		return err
	}
	return fmt.Errorf("%w (this program gave up root: see bootstrap.Config.User)", err)
}

// quoted shows the end of a guest's standard error.
func quoted(b []byte) string {
	if b = bytes.TrimSpace(b); len(b) > 0 {
		return fmt.Sprintf(": stderr ends with %q", b)
	}
	return ""
}
