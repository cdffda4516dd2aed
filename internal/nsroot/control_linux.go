package nsroot

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// controlFD is where the process inside finds its end of the socket.
const controlFD = 3

// A Control is one end of the socket between the worker and the process inside.
// When the worker's end closes, the sandbox ends.
type Control struct{ conn *net.UnixConn }

// NewControl returns the worker's end, and the other to be inherited as the
// descriptor 3.
func NewControl() (*Control, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socketpair: %w", err)
	}
	theirs := os.NewFile(uintptr(fds[1]), "control")
	c, err := control(fds[0])
	if err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return c, theirs, nil
}

// OpenControl returns the inherited end.
func OpenControl() (*Control, error) {
	syscall.CloseOnExec(controlFD)
	return control(controlFD)
}

func control(fd int) (*Control, error) {
	f := os.NewFile(uintptr(fd), "control")
	defer f.Close()
	nc, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	return &Control{nc.(*net.UnixConn)}, nil
}

// Close closes this end.
func (c *Control) Close() error { return c.conn.Close() }

// Send sends the setup.
func (c *Control) Send(s Setup) error { return c.write(s) }

// Receive waits for the setup.
func (c *Control) Receive() (s Setup, err error) {
	if err = c.read(&s); err == nil && len(s.TokenHash) != 32 {
		err = errors.New("setup without a token hash")
	}
	return s, err
}

// Admit says that the process inside may start others: what they do counts
// towards the limits. If it fails, Wait says why.
func (c *Control) Admit() { _, _ = c.conn.Write([]byte{'a'}) }

// Admitted waits for Admit.
func (c *Control) Admitted() error {
	if n, err := c.conn.Read(make([]byte, 1)); err != nil || n == 0 {
		return fmt.Errorf("the worker has gone: %w", cmp.Or(err, io.EOF))
	}
	return nil
}

// Ready reports that the sandbox serves.
func (c *Control) Ready(f Facts) error { return c.write(f) }

// Fail reports why it does not. The worker reads it or has gone.
func (c *Control) Fail(err error) { _ = c.write(Facts{Error: err.Error()}) }

// Wait waits for the report.
func (c *Control) Wait() (f Facts, err error) {
	err = c.read(&f)
	return f, err
}

func (c *Control) write(v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = c.conn.Write(raw)
	return err
}

func (c *Control) read(v any) error {
	buf := make([]byte, 16<<10)
	n, err := c.conn.Read(buf)
	if err != nil {
		return err
	}
	return json.Unmarshal(buf[:n], v)
}

// Dial makes a connection and hands its other end to the process inside.
func (c *Control) Dial() (net.Conn, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socketpair: %w", err)
	}
	ours := os.NewFile(uintptr(fds[0]), "conn")
	defer ours.Close()
	defer unix.Close(fds[1])
	if _, _, err := c.conn.WriteMsgUnix([]byte{'c'}, unix.UnixRights(fds[1]), nil); err != nil {
		return nil, fmt.Errorf("hand over a connection: %w", err)
	}
	return net.FileConn(ours)
}

// Listener returns a listener whose connections are those that the worker makes
// by Dial. It calls gone when the worker's end has closed.
func (c *Control) Listener(gone func()) net.Listener { return &listener{c, gone} }

type listener struct {
	c    *Control
	gone func()
}

func (l *listener) Accept() (net.Conn, error) {
	buf, oob := make([]byte, 1), make([]byte, unix.CmsgSpace(4))
	for {
		n, oobn, _, _, err := l.c.conn.ReadMsgUnix(buf, oob)
		if err != nil || n == 0 {
			l.gone()
			return nil, net.ErrClosed
		}
		msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
		if err != nil || len(msgs) == 0 {
			continue
		}
		fds, err := unix.ParseUnixRights(&msgs[0])
		if err != nil || len(fds) != 1 {
			continue
		}
		syscall.CloseOnExec(fds[0])
		f := os.NewFile(uintptr(fds[0]), "conn")
		nc, err := net.FileConn(f)
		f.Close()
		if err == nil {
			return nc, nil
		}
	}
}

func (l *listener) Close() error   { return l.c.Close() }
func (l *listener) Addr() net.Addr { return l.c.conn.LocalAddr() }
