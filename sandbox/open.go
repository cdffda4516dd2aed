package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
)

// A Handle is what another process needs to go on with a sandbox, see [Open]. It is
// stored as [Handle.MarshalBinary] has it: who has that, and reaches the backend, has the
// sandbox. What is printed or logged of it, or is its JSON, opens nothing.
type Handle struct {
	ID          string
	Spec        Spec
	Enforcement Enforcement

	token func() []byte // package fmt prints unexported fields, also behind a pointer
}

// storedHandle is a handle, as it is stored.
type storedHandle struct {
	ID          string
	Token       []byte
	Spec        Spec
	Enforcement Enforcement
}

// MarshalBinary returns all of the handle, in JSON: it is a secret.
func (h Handle) MarshalBinary() ([]byte, error) {
	s := storedHandle{ID: h.ID, Spec: h.Spec, Enforcement: h.Enforcement}
	if h.token != nil {
		s.Token = h.token()
	}
	return json.Marshal(s)
}

// UnmarshalBinary reads what MarshalBinary has returned.
func (h *Handle) UnmarshalBinary(stored []byte) error {
	var s storedHandle
	if err := json.Unmarshal(stored, &s); err != nil {
		return fmt.Errorf("sandbox: stored handle: %w", err)
	}
	*h = Handle{ID: s.ID, Spec: s.Spec, Enforcement: s.Enforcement}
	if s.Token != nil {
		h.token = func() []byte { return s.Token }
	}
	return nil
}

// Handle returns the sandbox's handle, with the network that is in force.
func (s *Sandbox) Handle() Handle {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := Handle{ID: s.id, token: s.token, Spec: s.spec, Enforcement: s.enforce}
	h.Spec.Env = maps.Clone(s.spec.Env)
	return h
}

// Open connects to a sandbox that another process has made, where the backend keeps
// it beyond the process that made it ([Capabilities].Persistent) and somebody was
// connected in the last OrphanAfter. Of o, Labels, Done, Continue and Keep are used: with an
// Epoch above that of the connections that there are, those end, and their process gets
// [ErrLost]. A command with an ID goes on: see [Sandbox.Attach]. One without is killed
// then, as nobody could follow it. A sandbox that is gone is ErrLost.
//
// If both processes set Continue, commands without an ID and Stdin go on as well: the
// n-th of the same Name, Args, Dir, Env and kind of output follows, from its first byte,
// the n-th that the process before started, whether that still runs or not; it does
// not run again. What is not known any more is ErrLost: how an earlier one ended when
// there were over a thousand since, and output beyond what Attach says. Files are as they
// were left: what the process writes again, it overwrites.
func Open(ctx context.Context, b Backend, h Handle, o Options) (*Sandbox, error) {
	policy, err := h.Spec.Network.parse()
	if err != nil {
		return nil, err
	}
	if !idPattern.MatchString(h.ID) {
		return nil, fmt.Errorf("sandbox: id %q is not 1 to 40 of [a-z0-9-]", h.ID)
	}
	if h.token == nil {
		return nil, fmt.Errorf("sandbox: open %s: the handle has no token, which MarshalBinary alone stores", h.ID)
	}
	s := &Sandbox{
		backend: b, id: h.ID, spec: h.Spec, labels: o.Labels, token: h.token, done: o.Done, keep: o.Keep,
		issued: newIssued(o.Continue), enforce: h.Enforcement, destroyed: make(chan struct{}),
	}
	s.claimed.Store(true)
	s.spec.Env = maps.Clone(h.Spec.Env)
	s.data, s.control = &link{s: s}, &link{s: s}
	s.network = newNetwork(ctx, s, policy)
	if err = s.connect(ctx); err == nil {
		err = s.network.open(ctx, policy)
	}
	if err != nil {
		s.data.close()
		s.control.close()
		s.network.gate.Close()
		if !errors.Is(err, ErrLost) {
			err = lost(ctx, err)
		}
		return nil, fmt.Errorf("sandbox: open %s: %w", h.ID, err)
	}
	return s, nil
}
