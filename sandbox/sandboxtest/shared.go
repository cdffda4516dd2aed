package sandboxtest

import (
	"context"
	"testing"

	"github.com/stepward/stepward/internal/layers"
	"github.com/stepward/stepward/sandbox"
)

// A shared sandbox is one that cases use one after another, as the steps of a run do: what a
// case leaves of it must be of use to the next. After a case that failed there is a new one,
// for the next to fail only by itself.
type shared struct {
	t       *testing.T // ends after the cases
	backend sandbox.Backend
	options sandbox.Options
	without layers.Set

	s *sandbox.Sandbox
}

func share(t *testing.T, b sandbox.Backend, o sandbox.Options) *shared {
	return &shared{t: t, backend: b, options: o}
}

// get is called outside of a case.
func (s *shared) get() *sandbox.Sandbox {
	s.t.Helper()
	if s.s == nil {
		s.s = start(s.t, layers.Without(bounded(s.t), s.without), s.backend, s.options)
	}
	return s.s
}

// drop destroys what may be of no use any more.
func (s *shared) drop() {
	if s.s != nil {
		_ = s.s.Destroy(context.Background()) // once more at the end of t, and heard of there
		s.s = nil
	}
}

// run runs a case in sandboxes that it shares with others.
func (s *shared) run(name string, test func(t *testing.T, s *sandbox.Sandbox), beside ...*shared) {
	s.t.Helper()
	in := s.get()
	for _, o := range beside {
		o.get()
	}
	if s.t.Run(name, func(t *testing.T) { test(t, in) }) {
		return
	}
	s.drop()
	for _, o := range beside {
		o.drop()
	}
}
