package runner

import (
	"errors"
	"io"
	"net"
	"testing"
)

// What is frozen has no connection, and gets none until it is thawed.
func TestClosedTunnels(t *testing.T) {
	tunnels := newTunnels(false)
	use := func() (program, worker net.Conn, err error) {
		ours, theirs := net.Pipe()
		t.Cleanup(func() { theirs.Close() })
		program, err = tunnels.use(ours)
		return program, theirs, err
	}
	program, worker, err := use()
	if err != nil {
		t.Fatal(err)
	}
	tunnels.setClosed(true)
	if _, err := worker.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the worker's end: %v", err)
	}
	if _, err := program.Write([]byte("x")); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("the program's end: %v", err)
	}
	if _, worker, err := use(); !errors.Is(err, errLapsed) {
		t.Errorf("a new one: %v", err)
	} else if _, err := worker.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("its worker's end: %v", err)
	}
	tunnels.setClosed(false)
	if program, _, err = use(); err != nil {
		t.Fatal(err)
	}
	if err := program.Close(); err != nil || len(tunnels.opened) != 0 {
		t.Errorf("closed: %v, and %d are left", err, len(tunnels.opened))
	}
}
