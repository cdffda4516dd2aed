package runner

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/encoding/protodelim"

	"github.com/stepward/stepward/internal/confine"
	"github.com/stepward/stepward/internal/rpc"
	"github.com/stepward/stepward/internal/shim"
)

const (
	maxExecs  = 1024    // that run at a time
	keepDone  = 64      // that have ended and whose end can still be asked for
	keepNamed = 1024    // the same of those whose ids their callers chose
	keepBytes = 4 << 20 // of output that was read to its end, of those
)

// execs are the execs of a sandbox, by the id that the worker chose.
type execs struct {
	cfg      config
	landlock bool
	environ  func() []string // besides baseEnv
	idle     chan *shim.Process
	starts   chan func()   // for serve to do
	prepared chan struct{} // closed when this process is safe from what it runs
	met      met

	mu    sync.Mutex
	byID  map[string]*exec
	done  []string // oldest first
	named []string // the same, of named ones
	kept  []*exec  // named ones whose output was read and is still here, oldest first
	live  int
}

// An exec is one command or guest step.
type exec struct {
	id      string
	named   bool
	what    [sha256.Size]byte // of a named one: the command that its id stands for
	ready   chan struct{}     // closed when shim has been set, or will not be
	wake    broadcast
	out     [3]outlog // by rpc.Output_Stream
	started chan struct{}
	empty   chan struct{} // closed when none of its processes is left
	end     *rpc.End      // set before empty is closed

	inMu     sync.Mutex
	shim     *shim.Process // while it runs
	stdin    io.WriteCloser
	terminal *terminal
	inOff    int64
	killed   bool
	timedOut bool
}

func newExecs(cfg config, abi int, environ func() []string) *execs {
	return &execs{
		cfg: cfg, landlock: abi > 0, environ: environ, byID: map[string]*exec{},
		idle: make(chan *shim.Process, 2), starts: make(chan func()), prepared: make(chan struct{}),
	}
}

// prepare makes this process safe from what it is going to run.
func (x *execs) prepare() {
	confine.KeepThreads(12)
	signals := confine.CatchSignals()
	close(x.prepared)
	x.reap(signals)
}

// get returns the exec of req.Id, which it starts if there is none.
func (x *execs) get(req *rpc.ExecRequest) (*exec, error) {
	x.mu.Lock()
	what := digest(req)
	e := x.byID[req.Id]
	switch {
	case e == nil && req.Attach:
		x.mu.Unlock()
		return nil, connect.NewError(connect.CodeNotFound, errors.New("no command has this id"))
	case e != nil:
		x.mu.Unlock()
		if e.named && !req.Attach && e.what != what {
			return nil, connect.NewError(connect.CodeAlreadyExists, errors.New("another command has this id"))
		}
		return e, nil
	}
	if x.live >= maxExecs {
		x.mu.Unlock()
		return nil, connect.NewError(connect.CodeResourceExhausted, errors.New("too many commands at a time"))
	}
	e = &exec{
		id: req.Id, named: req.Named, what: what,
		ready: make(chan struct{}), started: make(chan struct{}), empty: make(chan struct{}),
	}
	for i := range e.out {
		e.out[i].wake = &e.wake
	}
	e.out[rpc.Output_ANSWER].answer = true
	if req.MaxOutput > 0 {
		for _, s := range []rpc.Output_Stream{rpc.Output_STDOUT, rpc.Output_STDERR} {
			e.out[s].middle = &middleless{most: max(2, req.MaxOutput)}
		}
	}
	x.byID[req.Id] = e
	x.live++
	x.mu.Unlock()
	go x.run(e, req)
	return e, nil
}

// run is the life of an exec.
func (x *execs) run(e *exec, req *rpc.ExecRequest) {
	var pumps sync.WaitGroup
	begin, before := time.Now(), x.met.count()
	if req.TimeoutNs > 0 {
		timeout := time.AfterFunc(time.Duration(req.TimeoutNs), func() {
			e.inMu.Lock()
			e.timedOut = true
			e.inMu.Unlock()
			_ = e.kill(context.Background())
		})
		defer timeout.Stop()
	}
	end := x.spawn(e, req, &pumps)
	e.inMu.Lock()
	if e.stdin != nil && e.terminal == nil { // whose output is still in it
		e.stdin.Close()
	}
	end.Killed, end.TimedOut = e.killed, e.timedOut
	if end.Usage == nil {
		end.Usage = new(rpc.Usage)
	}
	end.Usage.WallNs, end.Usage.Stdin = int64(time.Since(begin)), e.inOff
	e.inMu.Unlock()
	if end.Code != 0 && end.StartErrno == 0 {
		end.Limit = x.met.since(before)
	}
	e.end = end
	close(e.empty)
	pumps.Wait()
	for i := range e.out {
		e.out[i].close()
	}
	x.mu.Lock()
	x.live--
	list, most := &x.done, keepDone
	if e.named {
		list, most = &x.named, keepNamed
	}
	*list = append(*list, e.id)
	if len(*list) > most {
		delete(x.byID, (*list)[0])
		*list = slices.Delete(*list, 0, 1)
	}
	x.mu.Unlock()
}

// digest identifies the command of a request.
func digest(req *rpc.ExecRequest) (out [sha256.Size]byte) {
	if req.Named {
		h := sha256.New()
		for _, s := range append([]string{req.Name, req.Dir}, req.Args...) {
			fmt.Fprintf(h, "%d %s", len(s), s)
		}
		h.Sum(out[:0])
	}
	return out
}

// read is called when a reader has seen the end: the output of a named exec is
// kept for one that may have died before it could make use of it.
func (x *execs) read(e *exec) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !e.named {
		e.drop()
		return
	}
	if slices.Contains(x.kept, e) {
		return
	}
	x.kept = append(x.kept, e)
	size := 0
	for i := len(x.kept) - 1; i >= 0; i-- {
		if size += x.kept[i].size(); size > keepBytes {
			for _, old := range x.kept[:i+1] {
				old.drop()
			}
			x.kept = slices.Delete(x.kept, 0, i+1)
			return
		}
	}
}

func (e *exec) drop() {
	for i := range e.out {
		e.out[i].drop()
	}
}

func (e *exec) size() (n int) {
	for i := range e.out {
		n += e.out[i].size()
	}
	return n
}

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
		pumps.Go(func() { pump(r, &e.out[s]) })
		return nil
	}
	request := shim.Request{
		Name: req.Name, Args: req.Args, Dir: req.Dir, Env: withoutOwn(slices.Concat(baseEnv(), x.environ(), req.Env)), Landlock: x.landlock,
		Terminal: req.Terminal != nil,
	}
	if req.Terminal != nil {
		t, theirs, err := openTerminal(req.Terminal)
		if err != nil {
			return e.failed(err)
		}
		child = append(child, theirs, theirs, theirs)
		request.Env = append([]string{"TERM=xterm-256color"}, request.Env...)
		pumps.Go(func() { pump(t.File, &e.out[rpc.Output_STDOUT]) })
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
		var raw bytes.Buffer
		if _, err := protodelim.MarshalTo(&raw, req.Guest); err != nil {
			return e.failed(err)
		}
		r, w, err := os.Pipe()
		if err != nil {
			return e.failed(err)
		}
		child = append(child, r)
		pumps.Go(func() { _, _ = w.Write(raw.Bytes()) }) // fails when the guest has gone
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
	sh, err := x.dispatch(request, child)
	for _, f := range child {
		f.Close() // or its end would not be seen
	}
	if err != nil {
		return e.failed(err)
	}
	e.setShim(sh)
	close(e.ready)
	for {
		ev, err := sh.Receive()
		switch {
		case err != nil: // it died: its descendants are ours now, and cannot be told apart
			e.setShim(nil)
			sh.Close()
			x.killAll()
			return &rpc.End{Code: -1, Lost: true}
		case ev.Started:
			close(e.started)
			e.wake.all()
			if sh.Left() == 0 {
				x.warm() // not earlier: its start would compete with the command's
			}
		default:
			e.setShim(nil) // before the next exec has it: a kill must not meet that
			x.release(sh)
			return &rpc.End{
				Code: int32(ev.Code), Signal: ev.Signal, Lost: ev.Lost,
				StartErrno: int32(ev.StartErrno), StartError: text(ev.StartError),
				Usage: &rpc.Usage{CpuNs: ev.CPU, MaxMemory: ev.MaxMemory},
			}
		}
	}
}

// failed is the end of an exec that could not be started.
func (e *exec) failed(err error) *rpc.End {
	close(e.ready)
	var errno unix.Errno
	errors.As(err, &errno)
	return &rpc.End{Code: -1, StartErrno: int32(errno), StartError: cmp.Or(err.Error(), "failed")}
}

// setShim sets under which shim the exec runs, nil if under none any more.
func (e *exec) setShim(s *shim.Process) {
	e.inMu.Lock()
	e.shim = s
	e.inMu.Unlock()
}

// kill ends all processes of the exec and returns when none is left.
func (e *exec) kill(ctx context.Context) error {
	e.inMu.Lock()
	e.killed = true
	e.inMu.Unlock()
	select {
	case <-e.ready:
	case <-ctx.Done():
		return ctx.Err()
	}
	e.inMu.Lock()
	if e.shim != nil {
		e.shim.Kill()
	}
	e.inMu.Unlock()
	select {
	case <-e.empty:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// pump copies an output of the process to its log.
func pump(r *os.File, l *outlog) {
	defer r.Close()
	buf := make([]byte, 32<<10)
	for {
		n, err := r.Read(buf)
		if n > 0 && !l.write(buf[:n]) {
			return
		}
		if err != nil {
			return
		}
	}
}

// given is how much input the exec has got.
func (e *exec) given() int64 {
	e.inMu.Lock()
	defer e.inMu.Unlock()
	return e.inOff
}

// input writes to the standard input of the exec, from offset on.
func (e *exec) input(offset int64, data []byte, eof bool) (closed bool, err error) {
	e.inMu.Lock()
	f, terminal := e.stdin, e.terminal != nil
	skip := e.inOff - offset
	e.inMu.Unlock()
	if f == nil {
		return true, nil
	}
	if skip < 0 {
		return false, connect.NewError(connect.CodeOutOfRange, errors.New("input with a gap"))
	}
	data = data[min(skip, int64(len(data))):]
	n, werr := f.Write(data)
	e.inMu.Lock()
	e.inOff += int64(n)
	e.inMu.Unlock()
	if werr != nil {
		return true, nil //nolint:nilerr // the command closed its input, which is no error
	}
	switch {
	case eof && terminal:
		e.terminal.end()
	case eof:
		f.Close()
	}
	return false, nil
}

func (s service) Exec(ctx context.Context, req *connect.Request[rpc.ExecRequest], stream *connect.ServerStream[rpc.ExecEvent]) error {
	if req.Msg.Id == "" || (req.Msg.Name == "" && req.Msg.Guest == nil && !req.Msg.Attach) {
		return connect.NewError(connect.CodeInvalidArgument, errors.New("exec without an id or a name"))
	}
	e, err := s.execs.get(req.Msg)
	if err != nil {
		return err
	}
	return s.execs.follow(ctx, e, [3]int64{req.Msg.StdoutOffset, req.Msg.StderrOffset, req.Msg.AnswerOffset}, stream.Send)
}

// follow sends the events of an exec, with its output from the offsets on.
func (x *execs) follow(ctx context.Context, e *exec, offsets [3]int64, send func(*rpc.ExecEvent) error) (err error) {
	for i := range e.out {
		e.out[i].took(offsets[i])
	}
	select {
	case <-e.started:
		err = send(&rpc.ExecEvent{Event: &rpc.ExecEvent_Started{Started: &rpc.Started{StdinOffset: e.given()}}})
	case <-e.empty:
	case <-ctx.Done():
		return ctx.Err()
	}
	if err != nil {
		return err
	}
	const most = 64 << 10
	for {
		wait := e.wake.wait()
		idle, over := true, true
		for i := range e.out {
			data, at, done := e.out[i].read(offsets[i], most)
			over = over && done
			if len(data) == 0 {
				continue
			}
			idle = false
			out := &rpc.Output{Stream: rpc.Output_Stream(i), Offset: at, Data: data, Truncated: at - offsets[i]}
			if err := send(&rpc.ExecEvent{Event: &rpc.ExecEvent_Output{Output: out}}); err != nil {
				return err
			}
			offsets[i] = at + int64(len(data))
			e.out[i].took(offsets[i])
		}
		switch {
		case over:
			err := send(&rpc.ExecEvent{Event: &rpc.ExecEvent_End{End: e.end}})
			if err == nil {
				x.read(e)
			}
			return err
		case idle:
			select {
			case <-wait:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
}

func (s service) Input(_ context.Context, req *connect.Request[rpc.InputRequest]) (*connect.Response[rpc.InputResponse], error) {
	e := s.execs.find(req.Msg.Id)
	if e == nil {
		return connect.NewResponse(&rpc.InputResponse{Closed: true}), nil
	}
	closed, err := e.input(req.Msg.Offset, req.Msg.Data, req.Msg.Eof)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&rpc.InputResponse{Closed: closed}), nil
}

func (s service) Signal(_ context.Context, req *connect.Request[rpc.SignalRequest]) (*connect.Response[rpc.SignalResponse], error) {
	sig := unix.SignalNum(req.Msg.Signal)
	if req.Msg.Signal != "" && sig == 0 {
		return nil, connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("no signal %q", req.Msg.Signal))
	}
	e := s.execs.find(req.Msg.Id)
	if e == nil {
		return connect.NewResponse(&rpc.SignalResponse{}), nil
	}
	e.inMu.Lock()
	defer e.inMu.Unlock()
	if size := req.Msg.Terminal; size != nil {
		if e.terminal == nil {
			return nil, connect.NewError(connect.CodeFailedPrecondition, errors.New("the command has no terminal"))
		}
		if err := e.terminal.resize(size); err != nil {
			return connect.NewResponse(&rpc.SignalResponse{}), nil
		}
	}
	if sig != 0 && e.shim != nil {
		e.shim.Signal(sig)
	}
	return connect.NewResponse(&rpc.SignalResponse{Found: e.shim != nil}), nil
}

func (s service) Kill(ctx context.Context, req *connect.Request[rpc.KillRequest]) (*connect.Response[rpc.KillResponse], error) {
	e := s.execs.find(req.Msg.Id)
	if e == nil {
		return connect.NewResponse(&rpc.KillResponse{}), nil
	}
	if err := e.kill(ctx); err != nil {
		return nil, err
	}
	return connect.NewResponse(&rpc.KillResponse{Found: true}), nil
}

func (x *execs) find(id string) *exec {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.byID[id]
}

// baseEnv is the environment under every command's own.
func baseEnv() []string {
	return []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=/tmp", "TMPDIR=/tmp", "PWD=" + confine.Workspace,
	}
}
