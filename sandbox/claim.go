package sandbox

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"connectrpc.com/connect"

	"github.com/stepward/stepward/internal/rpc"
)

// ErrUsed reports a [Sandbox.Claim] of a sandbox that belongs to a run already, or
// that something was executed in.
var ErrUsed = errors.New("sandbox: it was used already")

// Claim gives a sandbox that was made ahead of need, for no run, to the one that
// o.Labels name. From here on it is as if [Start] had made it with o, of which Spec,
// Labels, Done, Continue and Keep are used. That is possible once, and before anything else was done
// with it: a sandbox is never used for two runs, so ErrUsed is final.
//
// What was fixed when the sandbox was made cannot change: a Spec of another
// [Spec.Kind] is refused.
func (s *Sandbox) Claim(ctx context.Context, o Options) error {
	if err := o.Spec.Validate(); err != nil {
		return err
	}
	if have, want := s.spec.Kind(), o.Spec.Kind(); have != want {
		return fmt.Errorf("sandbox: %s was made as %+v and is claimed as %+v", s.id, have, want)
	}
	policy, err := o.Spec.Network.parse()
	if err != nil {
		return err
	}
	if !s.claimed.CompareAndSwap(false, true) {
		return fmt.Errorf("%w: %s", ErrUsed, s.id)
	}
	s.mu.Lock()
	s.spec, s.labels, s.done, s.keep, s.issued = o.Spec, o.Labels, o.Done, o.Keep, newIssued(o.Continue)
	s.spec.Env = maps.Clone(o.Spec.Env)
	s.mu.Unlock()
	client, err := s.control.get(ctx)
	if err == nil { // raises the epoch of both connections
		_, err = client.Hello(ctx, connect.NewRequest(s.hello()))
	}
	if err == nil {
		s.network.gate.SetPolicy(policy)
		if s.enforce.Network == "none" && !policy.Empty() {
			s.enforce.Network = "stream"
		}
		err = s.network.open(ctx, policy)
	}
	if err != nil {
		return fmt.Errorf("sandbox: claim %s: %w", s.id, lost(ctx, err))
	}
	return nil
}

// hello is what a connection begins with.
func (s *Sandbox) hello() *rpc.HelloRequest {
	return &rpc.HelloRequest{Token: s.token(), Session: s.labels.Session, Epoch: int64(s.labels.Epoch), Spare: s.spare}
}
