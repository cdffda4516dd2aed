package runner

import (
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

	"github.com/stepward/stepward/internal/confine"
	"github.com/stepward/stepward/internal/redact"
	"github.com/stepward/stepward/internal/rpc"
	"github.com/stepward/stepward/internal/shim"
)

const (
	maxExecs  = 1024    // that run at a time
	keepDone  = 64      // that have ended and whose end can still be asked for
	keepNamed = 1024    // the same of those whose ids their callers chose
	keepBytes = 4 << 20 // of output that was read to its end, of those
	maxOver   = 1 << 17 // of those, that are known to have been
)

// execs are the execs of a sandbox, by the id that the worker chose.
type execs struct {
	cfg      config
	landlock bool
	environ  func() []string // besides baseEnv

	secrets     *secrets
	redirecting func() *redirect // nil: nothing is
	idle        chan *shim.Process
	starts      chan func()   // for serve to do
	prepared    chan struct{} // closed when this process is safe from what it runs
	met         met
	leaving     leaving    // shims that end
	redactor    redact.Set // takes the secrets that the sandbox holds out of what leaves it

	mu    sync.Mutex
	byID  map[string]*exec
	done  []string              // oldest first
	named []string              // the same, of named ones
	over  map[[16]byte]struct{} // by the hash of their ids: named ones that cannot be asked for any more
	floor int64                 // connections of an epoch below start nothing any more
	hoard hoard                 // of their output
	kept  []*exec               // named ones whose output was read and is still here, oldest first
	live  int
	spare *exec // see startSpare
	used  bool  // something was executed

	frozen  bool  // nothing is started, and what runs is stopped
	holding *exec // where execs are not apart: the one that has secrets, beside which no other runs

	squeezing sync.Mutex // while output is left out; taken before mu

	freezing sync.Mutex // while what runs is being stopped, or let go; taken before mu
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
	env     []string
	call    chan []byte // of a guest: the call, after its length
	program string      // of a command that has a grant
	grant   grant       // of a command, until its process has it

	feeding  sync.Mutex // one Input after the other: what the next one has to write, its offset says
	typedEnd int64      // one more than the offset of an end that a terminal got, which is not typed twice

	inMu     sync.Mutex
	shim     *shim.Process  // while it runs
	left     chan struct{}  // closed when it does not any more
	thaw     chan struct{}  // closed to let what is frozen go on; nil: nothing is
	hands    sync.WaitGroup // what kills and stops besides the shim
	stdin    stdin
	terminal *terminal
	inOff    int64
	killed   bool
	insisted bool
	timedOut bool
	began    time.Time
	before   count
	timeout  *time.Timer // nil without
}

func newExecs(cfg config, abi int, environ func() []string) *execs {
	x := &execs{
		cfg: cfg, landlock: abi > 0, environ: environ, byID: map[string]*exec{}, over: map[[16]byte]struct{}{},
		idle: make(chan *shim.Process, 2), starts: make(chan func()), prepared: make(chan struct{}),
	}
	x.secrets = &secrets{redactor: &x.redactor, closed: sync.OnceValue(x.closed), nonces: map[[32]byte]bool{}, leash: &leash{freeze: x.setFrozen, end: func() {}}}
	x.hoard = hoard{most: keepUnread, squeeze: x.squeeze}
	return x
}

// prepare makes this process safe from what it is going to run.
func (x *execs) prepare() {
	if !confine.Reserved() {
		confine.KeepThreads(12)
	}
	signals := confine.CatchSignals()
	close(x.prepared)
	x.reap(signals)
}

// get returns the exec of req.Id, which it starts if there is none, for a connection of
// that epoch.
func (x *execs) get(req *rpc.ExecRequest, epoch int64) (*exec, error) {
	x.secrets.leash.lapsed() // sees to it that frozen is what it has to be
	x.mu.Lock()
	what := digest(req)
	e := x.byID[req.Id]
	_, over := x.over[key(req.Id)]
	switch {
	case epoch < x.floor:
		x.mu.Unlock()
		return nil, connect.NewError(connect.CodeUnauthenticated, errLater)
	case e == nil && over:
		x.mu.Unlock()
		return nil, connect.NewError(connect.CodeDataLoss, errors.New("what became of it is not known any more"))
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
	if x.live >= maxExecs || req.Named && len(x.over) >= maxOver {
		x.mu.Unlock()
		return nil, connect.NewError(connect.CodeResourceExhausted, errors.New("too many commands at a time, or with an id"))
	}
	if x.frozen {
		x.mu.Unlock()
		return nil, connect.NewError(connect.CodeFailedPrecondition, errors.New("its secrets were not renewed in time"))
	}
	spare := x.takeSpare(req)
	if e = spare; e == nil {
		e = newExec(x.env(req))
	}
	call, err := x.entrust(e, req)
	if err != nil {
		x.mu.Unlock()
		if spare != nil {
			go func() { _ = spare.kill(context.Background()) }()
		}
		return nil, err
	}
	e.id, e.named, e.what = req.Id, req.Named, what
	e.begin(req, x.met)
	for _, s := range []rpc.Output_Stream{rpc.Output_STDOUT, rpc.Output_STDERR} {
		l := &e.out[s]
		l.mu.Lock() // a spare that has just died closes it
		l.hoard = &x.hoard
		if req.MaxOutput > 0 {
			l.middle = &middleless{most: max(2, req.MaxOutput)}
		}
		l.mu.Unlock()
	}
	x.byID[req.Id] = e
	x.live++
	x.mu.Unlock()
	if req.Guest != nil {
		e.call <- call
	}
	if spare == nil {
		go x.run(e, req)
	}
	return e, nil
}

func newExec(env []string) *exec {
	e := &exec{ready: make(chan struct{}), started: make(chan struct{}), empty: make(chan struct{}), env: env, call: make(chan []byte, 1)}
	for i := range e.out {
		e.out[i].wake = &e.wake
	}
	e.out[rpc.Output_ANSWER].answer = true
	return e
}

// begin is the start of its time.
func (e *exec) begin(req *rpc.ExecRequest, m met) {
	e.inMu.Lock()
	defer e.inMu.Unlock()
	e.began, e.before = time.Now(), m.count()
	if req.TimeoutNs > 0 {
		e.timeout = time.AfterFunc(time.Duration(req.TimeoutNs), func() {
			e.inMu.Lock()
			e.timedOut = true
			e.inMu.Unlock()
			_ = e.kill(context.Background())
		})
	}
}

// run is the life of an exec.
func (x *execs) run(e *exec, req *rpc.ExecRequest) {
	var pumps sync.WaitGroup
	end := x.spawn(e, req, &pumps)
	e.inMu.Lock()
	if e.stdin != nil && e.terminal == nil { // whose output is still in it
		e.stdin.Close()
	}
	end.Killed, end.TimedOut = e.killed, e.timedOut
	if end.Usage == nil {
		end.Usage = new(rpc.Usage)
	}
	end.Usage.WallNs, end.Usage.Stdin = int64(time.Since(e.began)), e.inOff
	before := e.before
	if e.timeout != nil {
		e.timeout.Stop()
	}
	e.inMu.Unlock()
	end.StartError = x.redactor.Redact(end.StartError)
	if end.Code != 0 && end.StartErrno == 0 {
		end.Limit = cmp.Or(x.met.since(before), end.Limit)
	}
	e.end = end
	close(e.empty)
	e.grant.wipe() // also of one that never began
	x.secrets.ended(e)
	pumps.Wait()
	for i := range e.out {
		e.out[i].close()
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.holding == e {
		x.holding = nil
	}
	if e.id == "" { // a spare that nobody took
		if x.spare == e {
			x.spare = nil
		}
		return
	}
	x.live--
	list, most := &x.done, keepDone
	if e.named {
		list, most = &x.named, keepNamed
	}
	*list = append(*list, e.id)
	if len(*list) > most {
		x.byID[(*list)[0]].release()
		delete(x.byID, (*list)[0])
		if e.named {
			x.over[key((*list)[0])] = struct{}{}
		}
		*list = slices.Delete(*list, 0, 1)
	}
}

// forsake kills what belongs to a connection of an earlier epoch, and which nobody can
// follow any more: only who started it knows its id.
func (x *execs) forsake(ctx context.Context, epoch int64) {
	var kills sync.WaitGroup
	x.mu.Lock()
	x.floor = max(x.floor, epoch)
	for _, e := range x.byID {
		if !e.named && epoch == x.floor {
			kills.Go(func() { _ = e.kill(ctx) }) // the caller's time is up
		}
	}
	x.mu.Unlock()
	kills.Wait()
}

func key(id string) [16]byte {
	sum := sha256.Sum256([]byte(id))
	return [16]byte(sum[:16])
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

// shimPatience is how long a shim may take to end a command until the runner does.
const shimPatience = 250 * time.Millisecond

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
	if sh, left := e.shim, e.left; sh != nil {
		sh.Kill()
		if !e.insisted {
			e.insisted = true
			e.hands.Go(func() { sh.Insist(left, shimPatience) })
		}
	}
	e.inMu.Unlock()
	select {
	case <-e.empty:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// given is how much input the exec has got.
func (e *exec) given() int64 {
	e.inMu.Lock()
	defer e.inMu.Unlock()
	return e.inOff
}

// stdin is this side of a standard input.
type stdin interface {
	io.WriteCloser
	SetWriteDeadline(t time.Time) error
}

// input writes to the standard input of the exec, from offset on, while ctx lasts: who
// has gone may have sent the rest again, on another connection.
func (e *exec) input(ctx context.Context, offset int64, data []byte, eof bool) (closed bool, err error) {
	e.feeding.Lock()
	defer e.feeding.Unlock()
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
	n, werr := writeWhile(ctx, f, data)
	e.inMu.Lock()
	e.inOff += int64(n)
	at := e.inOff
	e.inMu.Unlock()
	switch {
	case errors.Is(werr, os.ErrDeadlineExceeded):
		return false, context.Cause(ctx)
	case werr != nil:
		return true, nil // the command closed its input, which is no error
	case eof && terminal && e.typedEnd != at+1:
		e.typedEnd = at + 1
		e.terminal.end()
	case eof && !terminal:
		f.Close()
	}
	return false, nil
}

// writeWhile writes data, or what can be until ctx ends.
func writeWhile(ctx context.Context, f stdin, data []byte) (int, error) {
	told := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(told)
		_ = f.SetWriteDeadline(time.Unix(1, 0))
	})
	n, err := f.Write(data)
	if !stop() {
		<-told
		_ = f.SetWriteDeadline(time.Time{})
	}
	return n, err
}

func (x *execs) find(id string) *exec {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.byID[id]
}
