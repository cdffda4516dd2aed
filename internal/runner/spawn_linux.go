package runner

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/stepward/stepward/internal/confine"
	"github.com/stepward/stepward/internal/rpc"
	"github.com/stepward/stepward/internal/shim"
)

// spawn starts the process by a shim and returns when nothing is left of it.
func (x *execs) spawn(e *exec, req *rpc.ExecRequest, pumps *sync.WaitGroup) *rpc.End {
	var child []*os.File // what the process inherits, from 0 on
	defer func() {
		for _, f := range child {
			f.Close() // also those that a shim has got: it has its own
		}
	}()
	null := func(flag int) error {
		f, err := os.OpenFile("/dev/null", flag, 0)
		if err == nil {
			child = append(child, f)
		}
		return err
	}
	output := func(s rpc.Output_Stream, discard bool) error {
		if discard {
			return null(os.O_WRONLY)
		}
		r, w, err := os.Pipe()
		if err != nil {
			return err
		}
		child = append(child, w)
		pumps.Go(func() { x.pump(r, e, s) })
		return nil
	}
	request := shim.Request{
		Name: req.Name, Path: e.program, Args: req.Args, Dir: req.Dir, Env: slices.Clone(e.env), Landlock: x.landlock,
		Terminal: req.Terminal != nil,
	}
	if req.Terminal != nil {
		t, theirs, err := openTerminal(req.Terminal)
		if err != nil {
			return e.failed(err)
		}
		child = append(child, theirs, theirs, theirs)
		request.Env = append([]string{"TERM=xterm-256color"}, request.Env...)
		pumps.Go(func() { x.pump(t.File, e, rpc.Output_STDOUT) })
		e.inMu.Lock()
		e.stdin, e.terminal = t, t
		e.inMu.Unlock()
		return x.under(e, request, child)
	}
	var err error
	if req.Stdin {
		var r, w *os.File
		if r, w, err = os.Pipe(); err != nil {
			return e.failed(err)
		}
		child = append(child, r)
		e.inMu.Lock()
		e.stdin = w
		e.inMu.Unlock()
	} else if err = null(os.O_RDONLY); err != nil {
		return e.failed(err)
	}
	if err := output(rpc.Output_STDOUT, req.DiscardStdout); err != nil {
		return e.failed(err)
	}
	if err := output(rpc.Output_STDERR, req.DiscardStderr); err != nil {
		return e.failed(err)
	}
	if req.Guest != nil {
		request.Name, request.Args = cmp.Or(x.cfg.guest, confine.Self), nil
		request.Env = append(request.Env, EnvMode+"=guest")
		r, w, err := os.Pipe()
		if err != nil {
			return e.failed(err)
		}
		child = append(child, r)
		pumps.Go(func() {
			select {
			case call := <-e.call:
				_, _ = w.Write(call) // fails when the guest has gone
				clear(call)
			case <-e.empty:
			}
		})
		e.inMu.Lock()
		e.stdin = w // for receipts
		e.inMu.Unlock()
		if err := output(rpc.Output_ANSWER, false); err != nil {
			return e.failed(err)
		}
	}
	return x.under(e, request, child)
}

// under has a shim run the command, and returns when nothing is left of it.
func (x *execs) under(e *exec, request shim.Request, child []*os.File) *rpc.End {
	<-x.prepared
	var r *redirect
	if x.redirecting != nil {
		r = x.redirecting()
	}
	request.Hold = r != nil
	values := e.grant.request(&request)
	ended := x.leaving.since()
	sh, err := x.dispatch(request, values, child)
	e.grant.wipe()
	for _, f := range child {
		f.Close() // or its end would not be seen
	}
	if err != nil {
		return e.failed(x.crowded(e, err))
	}
	e.setShim(sh)
	close(e.ready)
	x.keepFrozen(e)
	for {
		ev, err := sh.Receive()
		switch {
		case errors.Is(err, shim.ErrUnready):
			e.setShim(nil)
			sh.Close()
			return notStarted(x.crowded(e, err))
		case err != nil: // it died: its descendants are ours now, and cannot be told apart
			sh.Close()
			if confine.Adopts() { // else they have ended with its namespace
				x.killAll()
			}
			e.setShim(nil) // not before: what is frozen goes on then
			return &rpc.End{Code: -1, Lost: true}
		case ev.Started:
			if ev.Listener != nil && r != nil {
				defer ev.Listener.Close()
				go r.serve(ev.Listener)
			}
			close(e.started)
			e.wake.all()
			if sh.Left() == 0 || x.isSpare(e) {
				x.warm() // not earlier: its start would compete with the command's
			}
		default:
			e.setShim(nil) // before the next exec has it: a kill must not meet that
			x.release(sh)
			return &rpc.End{
				Code: int32(ev.Code), Signal: ev.Signal, Lost: ev.Lost,
				StartErrno: int32(ev.StartErrno), StartError: text(ev.StartError), Limit: limit(ev, ended()),
				Usage: &rpc.Usage{CpuNs: ev.CPU, MaxMemory: ev.MaxMemory},
			}
		}
	}
}

// limit names the limit that a shim has seen to be met, if need be with those that may have ended meanwhile.
func limit(ev shim.Event, ended bool) string {
	if ev.Crowded || ev.Nearly && ended {
		return "PIDs"
	}
	return ""
}

// crowded says why a shim could not begin, if it was for want of threads.
func (x *execs) crowded(e *exec, err error) error {
	if errors.Is(err, shim.ErrUnready) && x.met.since(e.before) == "PIDs" {
		return fmt.Errorf("%w: %w", err, unix.EAGAIN)
	}
	return err
}

// failed is the end of an exec that no shim has got.
func (e *exec) failed(err error) *rpc.End {
	close(e.ready)
	return notStarted(err)
}

// notStarted is the end of an exec that could not be started.
func notStarted(err error) *rpc.End {
	var errno unix.Errno
	errors.As(err, &errno)
	return &rpc.End{Code: -1, StartErrno: int32(errno), StartError: cmp.Or(err.Error(), "failed")}
}

// setShim sets under which shim the exec runs, nil if under none any more: then nobody
// meddles with what is under it.
func (e *exec) setShim(s *shim.Process) {
	e.inMu.Lock()
	defer e.inMu.Unlock()
	e.shim = s
	if s != nil {
		e.left = make(chan struct{})
		return
	}
	close(e.left)
	e.thawed()
	e.hands.Wait()
}

// baseEnv is the environment under every command's own.
func baseEnv() []string {
	return []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=/tmp", "TMPDIR=/tmp", "PWD=" + confine.Workspace,
	}
}
