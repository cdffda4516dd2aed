package runner

import (
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/stepward/stepward/internal/confine"
	"github.com/stepward/stepward/internal/rpc"
)

// A terminal is the runner's side of one that a command has for its standard
// input, output and error.
type terminal struct {
	*os.File
	unended bool // the last line of what was typed is not complete
}

// openTerminal returns a terminal, and the command's side of it.
func openTerminal(size *rpc.Terminal) (*terminal, *os.File, error) {
	if !confine.Adopts() { // a gVisor that has no /dev/tty, no ^C and no ^D either, and does not tell the end
		return nil, nil, fmt.Errorf("make a terminal: this kernel's is none: %w", unix.ENOTSUP)
	}
	m, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a terminal: %w", err)
	}
	t := &terminal{File: m}
	var name int
	err = t.control(func(fd int) error {
		if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
			return err
		}
		var err error
		name, err = unix.IoctlGetInt(fd, unix.TIOCGPTN)
		return err
	})
	if err == nil {
		err = t.resize(size)
	}
	var theirs *os.File
	if err == nil {
		theirs, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", name), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		m.Close()
		return nil, nil, fmt.Errorf("make a terminal: %w", err)
	}
	return t, theirs, nil
}

func (t *terminal) control(do func(fd int) error) error {
	raw, err := t.SyscallConn()
	if err != nil {
		return err
	}
	if cerr := raw.Control(func(fd uintptr) { err = do(int(fd)) }); cerr != nil {
		return cerr
	}
	return err
}

// resize has the kernel tell the command of its terminal's new size.
func (t *terminal) resize(s *rpc.Terminal) error {
	return t.control(func(fd int) error {
		return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: uint16(s.Rows), Col: uint16(s.Cols)})
	})
}

// Write types p.
func (t *terminal) Write(p []byte) (int, error) {
	n, err := t.File.Write(p)
	if n > 0 {
		t.unended = p[n-1] != '\n'
	}
	return n, err
}

// end types the end of the input: ^D, of which the first only sends an
// incomplete line.
func (t *terminal) end() {
	if t.unended {
		_, _ = io.WriteString(t.File, "\x04")
	}
	_, _ = io.WriteString(t.File, "\x04")
}
