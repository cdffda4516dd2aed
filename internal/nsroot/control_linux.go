package nsroot

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/stepward/stepward/internal/fdpass"
)

// controlFD is where the process inside finds its end of the socket.
const controlFD = 3

// ProgramPath is the path of the program, for its start: it is inherited as the
// descriptor 4, opened with O_PATH.
const ProgramPath = "/proc/self/fd/4"

// A Control is one end of the socket between the worker and the process inside.
// When the worker's end closes, the sandbox ends.
type Control struct{ conn *fdpass.Conn }

// NewControl returns the worker's end, and the other to be inherited as the
// descriptor 3.
func NewControl() (*Control, *os.File, error) {
	conn, theirs, err := fdpass.Pair(unix.SOCK_SEQPACKET)
	if err != nil {
		return nil, nil, err
	}
	return &Control{conn}, theirs, nil
}

// Close closes this end.
func (c *Control) Close() error { return c.conn.Close() }

// Send sends the setup.
func (c *Control) Send(s Setup) error {
	if s.Tree != nil {
		return c.write(s, s.Tree)
	}
	return c.write(s)
}

// Receive waits for the setup.
func (c *Control) Receive() (s Setup, err error) {
	files, err := c.read(&s)
	if len(files) > 0 {
		s.Tree = files[0]
	}
	if err == nil && len(s.TokenHash) != 32 {
		err = errors.New("setup without a token hash")
	}
	return s, err
}

// Ready reports that the sandbox serves.
func (c *Control) Ready(f Facts) error { return c.write(f) }

// Fail reports why it does not. The worker reads it or has gone.
func (c *Control) Fail(err error) { _ = c.write(Facts{Error: err.Error()}) }

// Wait waits for the report.
func (c *Control) Wait() (f Facts, err error) {
	files, err := c.read(&f)
	for _, file := range files { // it has nothing that the worker would want
		file.Close()
	}
	return f, err
}

func (c *Control) write(v any, files ...*os.File) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(files) > 0 {
		return c.conn.Send(raw, files...)
	}
	_, err = c.conn.Write(raw)
	return err
}

func (c *Control) read(v any) (files []*os.File, err error) {
	buf := make([]byte, 16<<10)
	n, fds, err := c.conn.Receive(buf)
	for _, fd := range fds {
		files = append(files, os.NewFile(uintptr(fd), "tree"))
	}
	if err != nil {
		return files, err
	}
	return files, json.Unmarshal(buf[:n], v)
}

// Dial makes a connection and hands its other end to the process inside.
func (c *Control) Dial() (*os.File, error) {
	ours, theirs, err := fdpass.Pair(unix.SOCK_STREAM)
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	if err := c.conn.Send([]byte{'c'}, theirs); err != nil {
		ours.Close()
		return nil, fmt.Errorf("hand over a connection: %w", err)
	}
	return ours.File, nil
}

// Accept waits for a connection that the worker makes by Dial. It fails when the
// worker's end has closed.
func (c *Control) Accept() (*os.File, error) {
	for {
		_, fds, err := c.conn.Receive(make([]byte, 1))
		if err != nil {
			return nil, err
		}
		if len(fds) == 1 {
			return os.NewFile(uintptr(fds[0]), "conn"), nil
		}
		for _, fd := range fds {
			unix.Close(fd)
		}
	}
}
