package sandbox

import (
	"context"
	"errors"
	"net"
	"testing"

	"github.com/stepward/stepward/internal/testenv"
)

// A stuck backend is one that does not answer who dials.
type stuck struct {
	Backend
	dialled chan struct{}
	answer  chan struct{}
}

func (b *stuck) Dial(context.Context, string) (net.Conn, error) {
	b.dialled <- struct{}{}
	<-b.answer
	return nil, errors.New("nobody there")
}

// Who asks for a connection waits no longer than for its own context, or for the end of
// the sandbox, whoever else is dialling. One dial is for all.
func TestLinkWhileDialling(t *testing.T) {
	b := &stuck{dialled: make(chan struct{}, 9), answer: make(chan struct{})}
	s := &Sandbox{backend: b, token: func() []byte { return nil }, destroyed: make(chan struct{})}
	s.data, s.control = &link{s: s}, &link{s: s}
	s.network = newNetwork(t.Context(), s, nil)
	patient := make(chan error, 2)
	for range cap(patient) {
		go func() {
			_, err := s.data.get(t.Context())
			patient <- err
		}()
	}
	testenv.Receive(t, b.dialled)
	gone := errors.New("the caller has gone")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(gone)
	if _, err := s.data.get(ctx); !errors.Is(err, gone) {
		t.Errorf("a caller who is in a hurry got %v", err)
	}
	s.Leave()
	for range cap(patient) {
		if err := testenv.Receive(t, patient); !errors.Is(err, ErrLost) {
			t.Errorf("a patient one got %v", err)
		}
	}
	if len(b.dialled) > 0 {
		t.Error("it was dialled more than once")
	}
	close(b.answer)
}
