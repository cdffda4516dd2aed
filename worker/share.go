package worker

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"

	"github.com/stepward/stepward/audit"
	"github.com/stepward/stepward/internal/engine"
	"github.com/stepward/stepward/sandbox"
)

// shared is a sandbox that steps of one turn share, see [sandbox.Spec]. It belongs to no
// attempt, and ends with the turn.
type shared struct {
	look chan struct{} // holds one: who looks whether it is there, or makes it
	b    *box          // nil: it was not made, or is lost
}

// share returns the sandbox that an attempt that begins shares: one that is there, or a new one. Its
// error is the attempt's.
func (h *host) share(ctx context.Context, a engine.Attempt) (*box, error) {
	none := &box{h: h}
	spec, err := json.Marshal(a.Step.Spec)
	if err != nil {
		return none, err
	}
	agreed := strconv.Itoa(a.Step.Mode) + string(spec)
	h.mu.Lock()
	s := h.shared[agreed]
	if s == nil {
		s = &shared{look: make(chan struct{}, 1)}
		if h.shared == nil {
			h.shared = make(map[string]*shared)
		}
		h.shared[agreed] = s
	}
	h.mu.Unlock()
	if err := take(ctx, s.look); err != nil {
		return none, err
	}
	defer func() { <-s.look }()
	if s.b != nil {
		if err := s.b.alive(ctx); err == nil {
			return s.b, h.join(ctx, a, s.b)
		} else if ctx.Err() != nil {
			return none, context.Cause(ctx)
		}
		h.w.log.WarnContext(ctx, "a sandbox that steps share is lost", "sandbox", s.b.id)
		s.end(ctx) // for those that are still in it as well
	}
	b := &box{h: h, step: a.Key, attempt: a.Number, place: func() {}}
	if err := h.create(ctx, a, b); err != nil {
		b.destroy(ctx)
		return none, err
	}
	s.b = b
	return b, nil
}

// join records that the attempt begins in a sandbox that is there.
func (h *host) join(ctx context.Context, a engine.Attempt, b *box) error {
	detail, err := json.Marshal(map[string]string{"sandbox": b.id})
	if err != nil {
		return err
	}
	return h.w.retry(ctx, h.t, func(ctx context.Context) error {
		return h.dispatch(ctx, h.w.Pool, a, b.id, h.w.backend.Name(), audit.SandboxJoined, detail, nil)
	})
}

// alive returns an error if the sandbox has ended.
func (b *box) alive(ctx context.Context) (err error) {
	for range 2 { // the first call may find that a connection broke
		if _, err = b.sb.ReadFile(ctx, sandbox.Workspace); !errors.Is(err, sandbox.ErrLost) {
			return context.Cause(ctx) // it is a directory
		}
	}
	return err
}

// end removes the sandbox. Nobody waits for that.
func (s *shared) end(ctx context.Context) {
	if b := s.b; b != nil {
		s.b = nil
		b.h.w.turnDone.Go(func() { b.destroy(ctx) })
	}
}

// unshare removes what the turn's steps have shared. No other worker goes on with it.
func (h *host) unshare(ctx context.Context) {
	for _, s := range h.shared {
		s.end(ctx)
	}
	clear(h.shared)
}
