package shim

import (
	"errors"
	"io"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stepward/stepward/internal/fdpass"
)

// Of a shim that ended it is known whether anything has run under it.
func TestUnready(t *testing.T) {
	for _, ready := range []bool{false, true} {
		ours, theirs, err := fdpass.Pair(unix.SOCK_STREAM)
		if err != nil {
			t.Fatal(err)
		}
		p := &Process{conn: ours, left: commands}
		t.Cleanup(p.Close)
		if err := p.Send(Request{Name: "true"}, nil, nil); err != nil { // that nobody will read
			t.Error(err)
		}
		if ready {
			if err := write(theirs, Event{Ready: true}); err != nil {
				t.Error(err)
			}
		}
		theirs.Close()
		e, err := p.Receive()
		if errors.Is(err, ErrUnready) == ready || !ready && errors.Is(err, io.EOF) {
			t.Errorf("of a shim that was ready (%t): %+v, %v", ready, e, err)
		}
		if err := p.Send(Request{Name: "true"}, nil, nil); err == nil || errors.Is(err, ErrUnready) == ready {
			t.Errorf("a request to one that has ended (%t): %v", ready, err)
		}
	}
}
