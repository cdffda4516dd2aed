package shim

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stepward/stepward/internal/confine"
	"github.com/stepward/stepward/internal/fdpass"
	"github.com/stepward/stepward/internal/layers"
)

// mode is how the environment says that this process is to be a shim. One in modeAhead
// is started before its sandbox is there, see StartAhead.
const (
	mode      = "shim"
	modeAhead = "shim-ahead"
)

// A shim serves one command after the other. Each costs it a thread, which stays
// in the command's domain and so has to end with it. All threads that it will
// need are made at its start: beside a fork bomb there would be none to be had.
const (
	commands = 8
	threads  = 6 // besides
)

// A Process is the tool runner's side of a shim.
type Process struct {
	conn  *fdpass.Conn
	pid   int
	left  int
	ready bool
}

// ErrUnready reports a shim that ended before it took a request, as it does when
// there are no threads for it. Nothing has run under it.
var ErrUnready = errors.New("the shim ended before it began")

// Start starts a shim, which then waits for its request. It is a child of the
// calling thread's process, and holds what that thread holds.
func Start() (p *Process, err error) { return start(mode) }

// StartAhead starts a shim while the calling process still builds the sandbox: its start
// takes as long. The calling thread holds no capability that would be passed on. Nothing
// is executed by the shim before Entered.
//
// Where a shim needs namespaces of its own there is none ahead: nil.
func StartAhead(off layers.Set) (*Process, error) {
	if !confine.Adopts() {
		return nil, nil //nolint:nilnil // as the comment says
	}
	return start(modeAhead, confine.EnvWithout+"="+off.String())
}

func start(mode string, env ...string) (p *Process, err error) {
	ours, theirs, err := fdpass.Pair(unix.SOCK_STREAM)
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	if err != nil {
		ours.Close()
		return nil, err
	}
	defer null.Close()
	attr := &syscall.ProcAttr{
		Env:   append(append(confine.ShimEnv(), confine.EnvMode+"="+mode), env...),
		Files: []uintptr{null.Fd(), null.Fd(), null.Fd(), theirs.Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	}
	if !confine.Adopts() {
		attr.Env = append(attr.Env, confine.EnvWithout+"="+os.Getenv(confine.EnvWithout))
		attr.Sys.Cloneflags = unix.CLONE_NEWUSER | unix.CLONE_NEWPID
		attr.Sys.UidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getuid(), HostID: os.Getuid(), Size: 1}}
		attr.Sys.GidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getgid(), HostID: os.Getgid(), Size: 1}}
		// The maps of an untraceable child are root's to write. The commands that are
		// there already are in namespaces from which nothing of this process can be seen.
		if err := unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0); err != nil {
			ours.Close()
			return nil, fmt.Errorf("start a shim: %w", err)
		}
		defer func() {
			if herr := confine.Harden(); herr != nil {
				p, err = nil, errors.Join(err, herr)
			}
		}()
	}
	pid, err := syscall.ForkExec(confine.Self, []string{"stepward-shim"}, attr)
	if err != nil {
		ours.Close()
		return nil, fmt.Errorf("start a shim: %w", err)
	}
	return &Process{conn: ours, pid: pid, left: commands}, nil
}

// Entered tells a shim that was started ahead that the calling process is in the sandbox.
// The kernel has taken the shim along, for it was at the same root; the shim makes sure.
func (p *Process) Entered() error {
	at, err := root()
	if err == nil {
		_, _ = p.conn.Write(at) // fails when the shim has ended, which the first command finds
	}
	return err
}

// PID is the id of its process.
func (p *Process) PID() int { return p.pid }

// Left is how many requests the shim can still serve.
func (p *Process) Left() int { return p.left }

// Send sends a request and its descriptors. Its events follow.
//
// values are those of its secrets, in their order.
func (p *Process) Send(req Request, values [][]byte, files []*os.File) error {
	raw, err := encode(req)
	if err != nil {
		return err
	}
	p.left--
	switch err := p.conn.Send(raw, files...); {
	case err != nil && !p.ready:
		return ErrUnready
	case err != nil:
		return fmt.Errorf("talk to the shim: %w", err)
	}
	for _, v := range values {
		p.left = 0
		if _, err := p.conn.Write(v); err != nil {
			return fmt.Errorf("talk to the shim: %w", err)
		}
	}
	return nil
}

// Await returns when the shim takes requests. The error is ErrUnready.
func (p *Process) Await() error {
	for !p.ready {
		e, err := p.receive()
		if err != nil {
			return ErrUnready
		}
		p.ready = e.Ready
	}
	return nil
}

// Receive waits for the next event of the last request. After an error the shim
// is of no use any more.
func (p *Process) Receive() (Event, error) {
	for {
		e, err := p.receive()
		switch {
		case err == nil && e.Ready:
			p.ready = true
		case err != nil && !p.ready:
			return e, ErrUnready
		default:
			return e, err
		}
	}
}

func (p *Process) receive() (e Event, err error) {
	var head [4]byte
	n, files, err := p.conn.Receive(head[:])
	if err == nil {
		err = read(io.MultiReader(bytes.NewReader(head[:n]), p.conn), &e)
	}
	for _, fd := range files { // one, if any
		_ = unix.SetNonblock(fd, true) // for the poller
		e.Listener = os.NewFile(uintptr(fd), "listener")
	}
	return e, err
}

// Kill ends the command of the last request. A request of no bytes says so.
func (p *Process) Kill() { _, _ = p.conn.Write(make([]byte, 4)) }

// Signal sends a signal to the process group of the last request's command.
func (p *Process) Signal(sig unix.Signal) {
	if raw, err := encode(Request{Signal: int(sig)}); err == nil {
		_, _ = p.conn.Write(raw)
	}
}

// Insist ends what the shim does not, until over is closed: when its patience is at an end
// all that is below the shim, and when that has been to no effect for twenty times as long
// the shim itself, of which Receive tells then. What else runs in the sandbox ends with a
// shim, so one under which processes still end, or that waits for a processor, has more
// time, up to 180 times.
func (p *Process) Insist(over <-chan struct{}, patience time.Duration) {
	began := time.Now()
	next := time.NewTimer(patience)
	defer next.Stop()
	seen := ending{since: began}
	for {
		select {
		case <-over:
			return
		case <-next.C:
		}
		looked := time.Now()
		below, err := KillBelow(p.pid)
		now := time.Now()
		if err != nil || seen.stuck(below, StateOf, runnable(p.pid), now, 20*patience) || now.Sub(began) > 180*patience {
			_ = unix.Kill(p.pid, unix.SIGKILL)
		}
		next.Reset(max(patience/4, now.Sub(looked))) // what is short of CPU time needs it to end
	}
}

// Below lists the processes under the shim.
func (p *Process) Below() ([]int, error) { return Descendants(p.pid) }

// Close ends the shim, and what runs under it.
func (p *Process) Close() { _ = p.conn.Close() }
