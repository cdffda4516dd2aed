package runner

import (
	"os"

	"golang.org/x/sys/unix"

	"github.com/stepward/stepward/internal/shim"
)

// startShim starts a shim from the thread that starts processes.
func (x *execs) startShim() (s *shim.Process, err error) {
	done := make(chan struct{})
	x.starts <- func() {
		defer close(done)
		s, err = shim.Start()
	}
	<-done
	return s, err
}

// dispatch sends a request to a shim that waits for one, or to a new one.
func (x *execs) dispatch(req shim.Request, values [][]byte, files []*os.File) (*shim.Process, error) {
	select {
	case s := <-x.idle:
		if err := s.Send(req, values, files); err == nil {
			return s, nil
		}
		s.Close() // it died while nothing ran under it
	default:
	}
	s, err := x.startShim()
	if err != nil {
		return nil, err
	}
	if err := s.Send(req, values, files); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// warm sees to it that a shim waits for the next exec. A shim's own start would
// be most of what an exec costs.
func (x *execs) warm() {
	if len(x.idle) > 0 {
		return
	}
	go func() {
		if s, err := x.startShim(); err == nil { // else the next exec tries again, and reports it
			x.release(s)
		}
	}()
}

// release takes back a shim under which nothing is left.
func (x *execs) release(s *shim.Process) {
	if s.Left() > 0 {
		select {
		case x.idle <- s:
			return
		default: // enough are waiting
		}
	}
	s.Close()
}

// reap collects what ended under the runner: its shims, and what a shim that
// died has left.
func (x *execs) reap(signals <-chan os.Signal) {
	for s := range signals {
		if s != unix.SIGCHLD {
			continue
		}
		for {
			pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
			if err == unix.EINTR {
				continue
			}
			if err != nil || pid <= 0 {
				break
			}
		}
	}
}

// killAll is the last resort: everything in the sandbox but the runner.
func (x *execs) killAll() {
	for len(x.idle) > 0 {
		select {
		case s := <-x.idle:
			s.Close()
		default:
		}
	}
	if os.Getpid() == 1 {
		unix.Kill(-1, unix.SIGKILL)
		return
	}
	for _, pid := range shim.Descendants(os.Getpid()) {
		unix.Kill(pid, unix.SIGKILL)
	}
}
