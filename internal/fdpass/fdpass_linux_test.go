package fdpass

import (
	"bytes"
	"errors"
	"io"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// A message that is larger than a socket holds arrives whole, and descriptors
// with its first byte. None of them is inherited by accident.
func TestConn(t *testing.T) {
	ours, inherited, err := Pair(unix.SOCK_STREAM)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Dup(int(inherited.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	inherited.Close()
	theirs, err := Open(fd)
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	sent := make(chan error, 1)
	large := bytes.Repeat([]byte("0123456789"), 1<<20)
	go func() {
		err := ours.Send(large, w)
		w.Close()
		ours.Close()
		sent <- err
	}()
	got := make([]byte, 4)
	n, fds, err := theirs.Receive(got)
	if err != nil || len(fds) != 1 {
		t.Fatalf("%d bytes, descriptors %v, %v", n, fds, err)
	}
	if flags, err := unix.FcntlInt(uintptr(fds[0]), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("flags of the descriptor: %x, %v", flags, err)
	}
	rest, err := io.ReadAll(theirs)
	if err != nil || !bytes.Equal(append(got[:n], rest...), large) {
		t.Errorf("%d bytes, %v", n+len(rest), err)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
	if _, _, err := theirs.Receive(got); !errors.Is(err, io.EOF) {
		t.Errorf("after the end: %v", err)
	}
	pipe := os.NewFile(uintptr(fds[0]), "pipe")
	if _, err := io.WriteString(pipe, "through"); err != nil {
		t.Error(err)
	}
	pipe.Close()
	if text, err := io.ReadAll(r); err != nil || string(text) != "through" {
		t.Errorf("the descriptor leads elsewhere: %q, %v", text, err)
	}
}

// A process that can have no more descriptors takes none of a message for all of them.
func TestLostDescriptors(t *testing.T) {
	ours, theirs, err := Pair(unix.SOCK_STREAM)
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	defer theirs.Close()
	fd, err := unix.Dup(int(theirs.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	in, err := Open(fd)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if err := ours.Send([]byte("x"), theirs); err != nil {
		t.Fatal(err)
	}
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Max: l.Max}); err != nil {
		t.Fatal(err)
	}
	_, fds, err := in.Receive(make([]byte, 1))
	if rerr := unix.Setrlimit(unix.RLIMIT_NOFILE, &l); rerr != nil {
		t.Fatal(rerr)
	}
	if err == nil {
		t.Errorf("it received %v", fds)
	}
}
