package runner

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stepward/stepward/internal/confine"
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
		// One that was started while another command used all processes may be about to die of it.
		if s.Await() == nil && s.Send(req, values, files) == nil {
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
	x.leaving.add(s.PID())
	s.Close()
}

// leaving are the shims that were told to end and have not been collected, and how many were told, or have ended.
type leaving struct {
	mu   sync.Mutex
	pids map[int]struct{}
	ends int
}

func (l *leaving) add(pid int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.pids == nil {
		l.pids = map[int]struct{}{}
	}
	l.pids[pid] = struct{}{}
	l.ends++
}

// collected is told of every process: one that was started beside a fork bomb may have died of it.
func (l *leaving) collected(pid int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.pids, pid)
	l.ends++
}

// since returns a function that reports whether a shim may have ended meanwhile.
func (l *leaving) since() func() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	some, ends := len(l.pids) > 0, l.ends
	return func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return some || l.ends > ends
	}
}

// reap collects what ended under the runner: its shims, and what a shim that
// died has left. Whoever stops a shim wants no end of what is under it: it is killed,
// for what is left to be found by spawn.
func (x *execs) reap(signals <-chan os.Signal) {
	for s := range signals {
		if s != unix.SIGCHLD {
			continue
		}
		for {
			var ws unix.WaitStatus
			pid, err := unix.Wait4(-1, &ws, unix.WNOHANG|unix.WUNTRACED, nil)
			if err == unix.EINTR {
				continue
			}
			if err != nil || pid <= 0 {
				break
			}
			if ws.Stopped() {
				_ = unix.Kill(pid, unix.SIGKILL)
			} else {
				x.leaving.collected(pid)
			}
		}
	}
}

// lastResort is how long what was killed may take until the next of it ends.
const lastResort = 10 * time.Second

// killAll is the last resort: everything in the sandbox but the runner. If that cannot
// be, the sandbox ends.
func (x *execs) killAll() {
	for len(x.idle) > 0 {
		select {
		case s := <-x.idle:
			s.Close()
		default:
		}
	}
	killed, err := shim.KillBelow(os.Getpid())
	if os.Getpid() == 1 {
		unix.Kill(-1, unix.SIGKILL)
	}
	for since := time.Now(); err == nil; time.Sleep(time.Millisecond) {
		before := len(killed)
		killed = slices.DeleteFunc(killed, func(pid int) bool { return strings.ContainsRune("-ZX", shim.StateOf(pid)) })
		switch {
		case len(killed) == 0:
			return
		case len(killed) < before:
			since = time.Now()
		case time.Since(since) > lastResort:
			err = fmt.Errorf("processes %v outlive SIGKILL", killed)
		}
	}
	ruin(err)
}

// ruin ends the sandbox, in which something could not be ended or stopped. The first
// process of a namespace takes the others along.
func ruin(err error) {
	fmt.Fprintln(os.Stderr, "stepward: the sandbox ends:", err)
	os.Exit(confine.ExitSetup)
}
