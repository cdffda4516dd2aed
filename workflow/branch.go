package workflow

import (
	"bytes"
	"context"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"slices"
	"time"

	"github.com/stepward/stepward/internal/engine"
)

// A branch is the body, or a part of it that [Go] started.
type branch struct {
	t      *turn
	path   string // before the keys of its calls: "" or "page[3]/"
	names  map[string]int
	resume chan struct{} // hands the baton over
	queued bool          // is in turn.runnable
	over   bool
	owner  string // its goroutine
	scope  *scope // of its calls
	rand   *rand.Rand
}

// newBranch makes a branch that runs when its turn comes.
func (t *turn) newBranch(path string, within *scope) *branch {
	b := &branch{t: t, path: path, names: make(map[string]int), resume: make(chan struct{})}
	b.scope = newScope(t, within)
	t.branches = append(t.branches, b)
	t.ready(b)
	return b
}

// ready puts a branch among those that run next.
func (t *turn) ready(b *branch) {
	if !b.queued && !b.over {
		b.queued = true
		t.runnable = append(t.runnable, b)
	}
}

// run gives the branch the baton and waits until it comes back. A branch that
// was told of something while it had the baton may have ended with it.
func (b *branch) run() {
	if b.over {
		return
	}
	blocked := b.t.in.Blocked
	if blocked == nil {
		b.resume <- struct{}{}
		<-b.t.yield
		return
	}
	if b.t.watch == nil {
		b.t.watch = time.NewTimer(engine.BlockedAfter)
	} else {
		b.t.watch.Reset(engine.BlockedAfter)
	}
	b.resume <- struct{}{}
	select {
	case <-b.t.yield:
	case <-b.t.watch.C:
		blocked(true)
		<-b.t.yield
		blocked(false)
	}
	b.t.watch.Stop()
}

// asks makes a call of the engine that may take long, as in an outage. It is not the
// body that keeps the baton meanwhile.
func (t *turn) asks(call func()) {
	if t.watch == nil {
		call()
		return
	}
	t.watch.Stop()
	call()
	t.watch.Reset(engine.BlockedAfter)
}

// start begins the goroutine of a branch. Its functions are called one after
// the other; the last ones are not reached by a cancelation of the run.
func (b *branch) start(fn func(Context), last ...func(Context)) {
	go func() {
		ended := false
		<-b.resume
		defer func() {
			p := recover()
			t := b.t
			switch {
			case t.left != nil: // unwound
			case p != nil:
				t.park("panic", &engine.Fault{Kind: "panic", Message: fmt.Sprintf("workflow: the body panicked: %v", p), Stack: string(debug.Stack())})
			case !ended && t.misused.Load():
				t.park("goroutine", errForeign)
			case !ended:
				t.park("goexit", errBodyGoexit)
			}
			t.branches = slices.DeleteFunc(t.branches, func(o *branch) bool { return o == b })
			b.over = true
			if b.scope.outer != nil {
				b.scope.outer.drop(b.scope)
			}
			t.ended()
			t.yield <- struct{}{}
		}()
		if b.t.left != nil {
			return
		}
		b.owner = goroutineID()
		b.t.holder.Store(b)
		fn(bodyContext{b, b.scope})
		for _, f := range last {
			f(bodyContext{b, newScope(b.t, nil)})
		}
		ended = true
	}()
}

// enter begins a durable call.
func (b *branch) enter() {
	if goroutineID() != b.owner {
		b.t.misused.Store(true)
		b.t.inbox.post(func() { b.t.park("goroutine", errForeign) })
		runtime.Goexit()
	}
	if b.t.misused.Load() && b.t.left == nil {
		b.t.park("goroutine", errForeign)
	}
	if cause := context.Cause(b.t.ctx); cause != nil && b.t.left == nil {
		b.t.leave(interrupted(cause))
	}
	b.exitIfLeft()
}

// maxSpun is how many calls in a row may get a result at once, so that the turn
// has nothing to do; spunFlush, how many results of such calls wait for a commit.
const (
	maxSpun   = 100_000
	spunFlush = 1_000
)

// maxOpen is how many calls of a run may be under way at once, and how many of its branches;
// maxCalls, how many calls it may make in all: each is kept in memory when it is
// replayed. A body that goes beyond would bring down its worker, and then the next.
const (
	maxOpen  = 10_000
	maxCalls = 200_000
)

// spins counts a call, until it turns out to start something. A body that goes on
// and on without is parked: nothing else gets a word in.
func (b *branch) spins() {
	t := b.t
	if t.spun++; t.spun > maxSpun {
		b.park("spinning", errSpins)
	}
	if len(t.pending.Checkpoints) >= spunFlush && len(t.replay) == 0 && !t.in.Verify {
		t.flush(t.ctx)
		b.exitIfLeft()
	}
}

// exitIfLeft unwinds the branch when the turn has to leave. Goexit, not a
// panic: a recover in the body cannot stop it.
func (b *branch) exitIfLeft() {
	if b.t.left != nil {
		runtime.Goexit()
	}
}

// park leaves for a reason and unwinds the branch that found it.
func (b *branch) park(reason string, err error) {
	b.t.park(reason, err)
	b.exitIfLeft()
}

// await gives the baton away until ok. Whatever may change that must call
// turn.ready for the branch.
func (b *branch) await(ok func() bool) {
	for b.exitIfLeft(); !ok(); b.exitIfLeft() {
		b.t.yield <- struct{}{}
		<-b.resume
		b.t.holder.Store(b)
	}
}

// ended tells a body that has returned that something has ended that it waits
// for.
func (t *turn) ended() {
	if t.returned {
		t.ready(t.body)
	}
}

// resolved implements watcher: the branch waits for one future.
func (b *branch) resolved(*future) { b.t.ready(b) }

// goroutineID returns the name of the calling goroutine, as a stack trace shows
// it. There is no other way to tell goroutines apart.
func goroutineID() string {
	var buf [64]byte
	b := buf[:runtime.Stack(buf[:], false)]
	b = bytes.TrimPrefix(b, []byte("goroutine "))
	if i := bytes.IndexByte(b, ' '); i > 0 {
		b = b[:i]
	}
	return string(b)
}

// Go starts fn as a branch of the body: it takes turns with the others, one at
// a time between durable calls, so they may share variables. Its calls have
// keys of their own, which begin with name: 1 to 100 of letters, digits and "_-.".
// A run waits for its branches before
// it completes, also for one that waits for a signal.
func Go[Out any](ctx Context, name string, fn func(Context) (Out, error)) *Future[Out] {
	b, s := caller(ctx)
	b.enter()
	b.needs(fn != nil, "function of branch "+name, isNil)
	return &Future[Out]{goBranch(b, s, b.occurrence(b.checked("a branch", name)), fn, nil)}
}

// goBranch starts a branch whose result is a future.
func goBranch[Out any](b *branch, s *scope, path string, fn func(Context) (Out, error), g *group) *future {
	t := b.t
	f := &future{t: t, key: path, local: true}
	f.watch(g)
	if len(t.branches) > maxOpen {
		b.park("too_many", errManyOpen)
	}
	child := t.newBranch(path+"/", s)
	child.start(func(c Context) {
		out, err := fn(c)
		f.value = out
		t.resolve(f, nil, err)
	})
	return f
}

// checked returns a name that a body gives to a part of itself. One that cannot be
// in a key parks the run: a deploy can cure it.
func (b *branch) checked(what, name string) string {
	if !validPart(name) {
		b.park("bad_name", &OptionError{Option: fmt.Sprintf("name of %s %.40q", what, name), Reason: partRule})
	}
	return name
}

// needs parks the run if its body has passed what cannot be: a deploy can cure it.
func (b *branch) needs(ok bool, what, reason string) {
	if !ok {
		b.park("bad_call", &OptionError{Option: what, Reason: reason})
	}
}

const isNil = "it is nil"

// Random implements Context.
func (c bodyContext) Random() *rand.Rand {
	b := c.b
	b.enter()
	if b.rand == nil {
		h := fnv.New64a()
		h.Write([]byte(b.path)) // never fails
		b.rand = rand.New(rand.NewPCG(uint64(b.t.in.Seed), h.Sum64()))
	}
	return b.rand
}
