package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stepward/stepward/internal/engine"
	"github.com/stepward/stepward/sandbox"
)

// takeWithin is how long after the lease of its worker a sandbox lives without one
// that goes on with it; sweepAfter, how long the sweeper leaves it alone. Both are longer
// in tests, whose next worker may take longer to start.
var (
	takeWithin = 35 * time.Second
	sweepAfter = 20 * time.Second
)

const (
	// guestID names the only guest step of a sandbox.
	guestID = "guest"

	// destroyTimeout bounds the removal of a sandbox. What is left then is swept.
	destroyTimeout = 15 * time.Second
)

// A box is the sandbox of one attempt.
//
// One that other workers can open stays until the result of its attempt is on record:
// who dies before leaves it, with the result, to the next worker; and who was taken
// for dead has recorded nothing, and so does not remove what is another's by now.
type box struct {
	h       *host
	id      string
	step    string
	attempt int
	place   func() // gives back its place on the worker
	used    ledger

	warm     bool // it was ready
	recorded bool // it has a row, which is this worker's
	lasts    bool // others can open it
	sb       *sandbox.Sandbox
	lent     *lent // what it has of a tenant's secrets

	reached, egress func() // what it reached is recorded, and a last time
}

func (b *box) open(ctx context.Context, sb *sandbox.Sandbox) {
	b.sb = sb
	b.reached, b.egress = b.h.egress(ctx, b.step, sb)
}

// done is called when the attempt has ended.
func (b *box) done(ctx context.Context, seq int) {
	if !b.lasts || b.idle(ctx) {
		b.destroy(ctx)
		return
	}
	b.reached() // before the result
	b.h.mu.Lock()
	defer b.h.mu.Unlock()
	if b.h.boxes == nil {
		b.h.boxes = make(map[int]*box)
	}
	b.h.boxes[seq] = b
}

// idle reports whether the attempt was interrupted so that nothing will be on record of
// its end.
func (b *box) idle(ctx context.Context) bool {
	if ctx.Err() == nil || b.h.w.lease.slack() <= 0 {
		return false
	}
	cause := context.Cause(ctx)
	for _, other := range []error{engine.ErrLeaseLost, engine.ErrHandBack, engine.ErrTimedOut, engine.ErrSilent} {
		if errors.Is(cause, other) {
			return false
		}
	}
	_, failed := errors.AsType[*engine.Fault](cause)
	return !failed
}

// destroy ends the sandbox, and says so.
func (b *box) destroy(ctx context.Context) {
	defer b.place()
	if b.lent != nil {
		b.lent.stop()
		b.lent.ask(ctx)
		defer b.h.w.turnDone.Go(func() { b.lent.close(ctx) }) // when nothing has it any more; nobody waits for that
	}
	if b.sb != nil {
		b.h.destroy(ctx, b.sb)
		b.egress() // after the end of all connections
	}
	if b.recorded {
		b.h.destroyed(ctx, b.id, &b.used)
	}
}

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

// leave lets another worker go on with the sandbox.
func (b *box) leave() {
	defer b.place()
	if b.lent != nil {
		b.lent.leave()
	}
	b.sb.Leave()
	b.egress()
}

// settled removes the sandboxes of attempts whose ends a batch has put on record.
func (h *host) settled(ctx context.Context, batch engine.Batch) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.boxes) == 0 {
		return
	}
	for _, c := range batch.Checkpoints {
		h.drop(ctx, c.Seq, c.Attempt)
	}
	for _, f := range batch.Failures {
		h.drop(ctx, f.Seq, f.Attempt)
	}
}

// forget removes the sandbox of an attempt whose result nobody wants.
func (h *host) forget(ctx context.Context, seq, attempt int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.drop(ctx, seq, attempt)
}

func (h *host) drop(ctx context.Context, seq, attempt int) {
	if b := h.boxes[seq]; b != nil && b.attempt == attempt {
		delete(h.boxes, seq)
		h.w.turnDone.Go(func() { b.destroy(ctx) })
	}
}

// leaves is called at the end of the turn. What attempts that were interrupted began in
// their sandboxes goes on, if the next worker may do so. What is not this worker's any
// more, it does not touch; but when it is the run alone that was taken from it, as
// that was terminated, nobody else would.
func (h *host) leaves(ctx context.Context, kind engine.EndKind) {
	h.mu.Lock()
	defer h.mu.Unlock()
	left := kind == engine.Released || kind == engine.Lost && len(h.boxes) > 0 && !h.holds(ctx)
	for _, b := range h.boxes {
		if left {
			b.leave()
		} else {
			b.destroy(ctx)
		}
	}
	clear(h.boxes)
	h.unshare(ctx)
}

// holds reports whether this worker has its lease, of which the lost run was a part. It
// asks Postgres: who was taken for dead when the clock there leapt does not know from
// his own.
func (h *host) holds(ctx context.Context) bool {
	err := h.w.retry(context.WithoutCancel(ctx), h.t, func(ctx context.Context) error {
		var state string
		err := h.w.Pool.QueryRow(ctx, h.w.q.WorkerHeartbeat, h.t.session, h.w.LeaseTTL.Seconds()).Scan(&state)
		if errors.Is(err, pgx.ErrNoRows) {
			return engine.ErrLeaseLost
		}
		return err
	})
	return err == nil
}

// A storedHandle is the handle of a sandbox, with what tells the input that its attempt
// began with from another one.
type storedHandle struct {
	Handle    json.RawMessage
	InputHash uint64
}

func hashInput(b []byte) uint64 {
	h := fnv.New64a()
	h.Write(b) // never fails
	return h.Sum64()
}

// handle returns what is stored for another worker to open the sandbox with; nil if that is
// of no use.
func (h *host) handle(ctx context.Context, a engine.Attempt, open sandbox.Handle) ([]byte, error) {
	if !h.w.capabilities.Persistent || a.Step.Spec.Share || a.Step.Tool && !a.Step.Continue {
		return nil, nil
	}
	raw, err := open.MarshalBinary()
	if err == nil {
		raw, err = json.Marshal(storedHandle{Handle: raw, InputHash: hashInput(a.Input)})
	}
	if err != nil {
		return nil, err
	}
	if h.w.box.Plain(raw) {
		return raw, nil
	}
	var stored []byte
	err = h.patiently(ctx, 0, func(ctx context.Context) (err error) {
		stored, err = h.w.box.SealInline(ctx, raw)
		return err
	})
	return stored, err
}

// keep returns what stores another handle of the sandbox, in the place of the one that is
// stored: none, if nobody goes on with it.
func (h *host) keep(a engine.Attempt, b *box) func(context.Context, sandbox.Handle) error {
	return func(ctx context.Context, open sandbox.Handle) error {
		if !b.lasts {
			return nil
		}
		handle, err := h.handle(ctx, a, open)
		if err != nil {
			return err
		}
		return h.w.retry(ctx, h.t, func(ctx context.Context) error {
			kept := 0
			err := h.w.Pool.QueryRow(ctx, h.w.q.SandboxCreated, h.t.run, h.w.actor(), a.Key, []byte(nil), handle, b.id, h.t.session, h.t.epoch).Scan(&kept)
			if err == nil && kept == 0 {
				return engine.ErrLeaseLost
			}
			return err
		})
	}
}

// takeOver goes on with the sandbox in which another turn began the attempt. It
// returns which entries of the attempt are durable.
func (h *host) takeOver(ctx context.Context, a engine.Attempt, b *box) (known map[int]bool, err error) {
	w := h.w
	always := context.WithoutCancel(ctx) // the attempt may be over time, and is to be ended then
	var stored []byte
	var numbers []int
	err = w.retry(always, h.t, func(ctx context.Context) (err error) {
		stored, numbers, err = h.take(ctx, w.Pool, a, b.id, w.backend.Name())
		return err
	})
	if err != nil {
		return nil, err
	}
	b.recorded = true
	opening, cancel := context.WithTimeout(always, destroyTimeout)
	defer cancel()
	if stored == nil {
		return nil, h.orphaned(opening, b.id, errors.New("no other worker can go on with it"))
	}
	var kept storedHandle
	var handle sandbox.Handle
	raw, _, err := h.open(always, stored)
	if err == nil {
		err = json.Unmarshal(raw, &kept)
	}
	if err == nil {
		err = handle.UnmarshalBinary(kept.Handle)
	}
	if err != nil {
		return nil, err
	}
	if kept.InputHash != hashInput(a.Input) {
		return nil, h.orphaned(opening, b.id, errors.New("the body passes another input now"))
	}
	sb, err := sandbox.Open(opening, w.backend, handle, sandbox.Options{Labels: h.labels(a), Done: b.used.add, Continue: a.Step.Continue, Keep: h.keep(a, b)})
	if err != nil {
		return nil, h.orphaned(opening, b.id, err)
	}
	b.open(ctx, sb)
	b.lasts = true
	known = make(map[int]bool, len(numbers))
	for _, n := range numbers {
		known[n] = true
	}
	w.log.InfoContext(ctx, "going on in the sandbox of another worker", "sandbox", b.id, "step", a.Key, "attempt", a.Number)
	return known, nil
}

// take makes an attempt this turn's, with its sandbox. It returns the handle of that, if
// anybody can go on with it, and the numbers of the entries that are durable.
func (h *host) take(ctx context.Context, q querier, a engine.Attempt, id, backend string) (handle []byte, numbers []int, err error) {
	err = q.QueryRow(ctx, h.w.q.AttemptTake, h.t.session, h.t.run, h.t.epoch, a.Seq, a.Number, id, backend, a.Key, h.w.actor()).Scan(&handle, &numbers)
	if errors.Is(err, pgx.ErrNoRows) {
		err = engine.ErrLeaseLost
	}
	return handle, numbers, err
}

// orphaned removes a sandbox that nobody can go on with, and returns what its attempt
// ends with.
func (h *host) orphaned(ctx context.Context, id string, err error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), destroyTimeout)
	defer cancel()
	if derr := h.w.backend.Destroy(ctx, id); derr != nil {
		h.w.log.WarnContext(ctx, "sandbox was not destroyed", "sandbox", id, "error", derr)
	}
	err = fmt.Errorf("%w: sandbox %s was left by its worker: %w", sandbox.ErrLost, id, err)
	return &engine.Fault{Kind: "sandbox", Message: err.Error(), Type: fmt.Sprintf("%T", err), Orphan: true, Err: err}
}

// leaving returns a context whose end leaves what runs in a sandbox alone, when another
// worker will go on with it. What is to be closed then is closed before anybody can see
// the end.
func leaving(ctx context.Context, closes func()) (context.Context, func()) {
	out, cancel := context.WithCancelCause(timed{context.WithoutCancel(ctx), ctx})
	stop := context.AfterFunc(ctx, func() {
		cause := context.Cause(ctx)
		if errors.Is(cause, engine.ErrLeaseLost) || errors.Is(cause, engine.ErrHandBack) {
			cause = fmt.Errorf("%w: %w", sandbox.ErrDetached, cause)
			closes()
		}
		cancel(cause)
	})
	return out, func() { stop(); cancel(nil) }
}

// timed is a context that shows the deadline of another one.
type timed struct {
	context.Context
	of context.Context
}

func (t timed) Deadline() (time.Time, bool) { return t.of.Deadline() }
