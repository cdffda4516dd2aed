// Package fdpass carries bytes and descriptors over a Unix socket between the
// processes of a sandbox. Package net does too, but is initialized late.
package fdpass

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// A Conn is one end of a socket.
type Conn struct {
	*os.File
	raw syscall.RawConn
}

// Most is how many descriptors can come with one message.
const Most = 8

// Pair makes a socket of a kind (unix.SOCK_…) and returns one end, and the other
// as a file for a process to inherit.
func Pair(kind int) (ours *Conn, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socketpair: %w", err)
	}
	theirs = os.NewFile(uintptr(fds[1]), "socket")
	if ours, err = Open(fds[0]); err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return ours, theirs, nil
}

// Open takes over a descriptor that is a socket. It closes it if it fails.
func Open(fd int) (*Conn, error) {
	syscall.CloseOnExec(fd)
	if err := unix.SetNonblock(fd, true); err != nil { // for the poller
		unix.Close(fd)
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "socket")
	raw, err := f.SyscallConn()
	if err != nil {
		f.Close()
		return nil, err
	}
	return &Conn{f, raw}, nil
}

// Send sends a message together with descriptors. On a stream, they arrive with
// its first byte.
func (c *Conn) Send(p []byte, files ...*os.File) error {
	var fds []int
	for _, f := range files {
		fds = append(fds, int(f.Fd()))
	}
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	var n int
	var err error
	rerr := c.raw.Write(func(fd uintptr) bool {
		n, err = unix.SendmsgN(int(fd), p, rights, nil, unix.MSG_NOSIGNAL)
		return !again(err)
	})
	switch {
	case rerr != nil:
		return rerr
	case err != nil:
		return fmt.Errorf("sendmsg: %w", err)
	case n < len(p):
		_, err = c.Write(p[n:])
		return err
	}
	return nil
}

// again reports whether a call has to be made again once the socket is ready.
func again(err error) bool { return errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) }

// Receive receives a message, or a part of it on a stream, and the descriptors
// that came with it. They are not inherited by what is started. The error is
// io.EOF when the other end has closed.
func (c *Conn) Receive(p []byte) (n int, fds []int, err error) {
	oob := make([]byte, unix.CmsgSpace(Most*4))
	var oobn, flags int
	rerr := c.raw.Read(func(fd uintptr) bool {
		n, oobn, flags, _, err = unix.Recvmsg(int(fd), p, oob, unix.MSG_CMSG_CLOEXEC)
		return !again(err)
	})
	switch {
	case rerr != nil:
		return 0, nil, rerr
	case err != nil:
		return 0, nil, fmt.Errorf("recvmsg: %w", err)
	case n == 0:
		return 0, nil, io.EOF
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return n, nil, fmt.Errorf("control message: %w", err)
	}
	for i := range msgs {
		more, err := unix.ParseUnixRights(&msgs[i])
		if err != nil {
			continue // of another kind
		}
		fds = append(fds, more...)
	}
	if flags&unix.MSG_CTRUNC != 0 {
		for _, fd := range fds {
			unix.Close(fd)
		}
		return n, nil, errors.New("recvmsg: descriptors were lost on their way")
	}
	return n, fds, nil
}
