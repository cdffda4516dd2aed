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

// A shim that was started ahead, and that the kernel has not taken along, starts nothing.
func TestLeftBehind(t *testing.T) {
	at, err := root()
	if err != nil {
		t.Fatal(err)
	}
	at[len(at)-1]++ // another root directory
	for _, told := range [][]byte{at, at[:3], nil} {
		ours, theirs, err := fdpass.Pair(unix.SOCK_STREAM)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ours.Write(told); err != nil {
			t.Fatal(err)
		}
		ours.Close()
		fd, err := unix.Dup(int(theirs.Fd()))
		if err != nil {
			t.Fatal(err)
		}
		theirs.Close()
		conn, err := fdpass.Open(fd)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		if err := awaitEntry(conn); err == nil {
			t.Errorf("a shim that was told %v goes on", told)
		}
	}
}
