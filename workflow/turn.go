package workflow

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stepward/stepward/internal/engine"
)

// A turn is one stay of a run on a worker.
//
// The body and its branches run on goroutines of their own, one at a time: who
// runs holds the baton and gives it back when it has to wait. The turn hands
// results over one by one, each when every branch waits, and numbers them
// (Checkpoint.Done). A replay hands the same results over in the same order, so
// that everything between is the same again: the order of calls, which branch
// is first, what [Ready] yields.
//
// A result is handed over before it is written: a body has no effects, and what
// it starts next waits for the commit. So the results that are there together,
// and the end of the run, share one.
//
// All fields but those of the inbox belong to whoever holds the baton.
type turn struct {
	def     *engine.Definition
	steps   map[string]*engine.Step
	in      engine.Turn
	ctx     context.Context // of the attempts; ends with the turn
	stop    context.CancelCauseFunc
	misused atomic.Bool            // a Context was used on a foreign goroutine
	holder  atomic.Pointer[branch] // had the baton last

	yield    chan struct{} // gives the baton back
	watch    *time.Timer   // of who has it
	body     *branch
	branches []*branch // that have not ended
	runnable []*branch
	cleanups []func(Context) error

	seq, done  int                        // the last of each that was given
	lastSeq    int                        // the highest that an earlier turn recorded
	recorded   map[int]*engine.Checkpoint // not handed over, by seq
	replay     []*engine.Checkpoint       // the same, in the order of Done
	unresolved map[int]*future
	fresh      []*future // waits that are not on record
	queue      []*future // to be started, once what is pending is written
	armed      []*future // wait for their time, or for news
	news       news
	patches    map[string]bool
	pending    engine.Batch
	shows      shows
	starting   int // children that are being added
	attempts   int // that execute, or that ask Postgres
	begun      int // of these, ever
	underWay   int // calls that were made and have no result yet
	spun       int // calls that started nothing, since all branches waited
	canceled   bool
	late       bool        // it is its deadline that has canceled it
	left       *engine.End // set once: why the turn ends
	stuck      *engine.End // why it will, once what executes has ended: a step cannot begin
	output     []byte      // of the body
	err        error
	returned   bool

	group sync.WaitGroup // of the goroutines that post
	inbox inbox
}

var (
	errRunEnds    = errors.New("workflow: the turn ends")
	errPaused     = errors.New("workflow: run paused")
	errForeign    = errors.New("workflow: a Context was used on another goroutine than the one that it was made for; a body starts no goroutines: use Go, Step.Go or Map; and a function that Go or MapFunc runs uses the Context that it is passed, not one from outside")
	errSpins      = fmt.Errorf("workflow: the body made %d durable calls in a row that all had a result at once, and waits for nothing: it loops, perhaps on an error that will not go away, as that of a run that is canceled or late", maxSpun)
	errManyOpen   = fmt.Errorf("workflow: the body has more than %d calls or branches under way at once: give Map or MapFunc a Limit, or wait for some of them first", maxOpen)
	errManyCalls  = fmt.Errorf("workflow: the body has made more than %d calls since it began: let child runs make a part of them each, or return ContinueAsNew", maxCalls)
	errLate       = fmt.Errorf("%w: its deadline has passed", ErrCanceled)
	errBodyGoexit = errors.New("workflow: the body ended its goroutine (runtime.Goexit, or FailNow of a test, or a call with the Context of another run or an earlier turn)")
)

type bodyFunc func(ctx Context, input []byte, limit int) ([]byte, error)

// newTurn returns the function that runs one turn of a definition.
func newTurn(def *engine.Definition, steps map[string]*engine.Step, body bodyFunc) func(context.Context, engine.Turn) engine.End {
	return func(ctx context.Context, in engine.Turn) engine.End {
		t := &turn{
			def: def, steps: steps, in: in, yield: make(chan struct{}),
			recorded: make(map[int]*engine.Checkpoint, len(in.Steps)), unresolved: make(map[int]*future),
			inbox: inbox{bell: make(chan struct{}, 1)},
		}
		for i := range in.Steps {
			c := &in.Steps[i]
			t.recorded[c.Seq] = c
			t.replay = append(t.replay, c)
			t.done, t.lastSeq = max(t.done, c.Done), max(t.lastSeq, c.Seq)
		}
		t.shows.recorded = t.done
		slices.SortFunc(t.replay, func(a, b *engine.Checkpoint) int { return cmp.Compare(a.Done, b.Done) })
		t.in.Steps = nil
		t.ctx, t.stop = context.WithCancelCause(ctx)
		return t.run(ctx, body)
	}
}

// run is the turn's own goroutine: it has the baton when no branch has it.
func (t *turn) run(ctx context.Context, body bodyFunc) engine.End {
	input, _, err := t.open(t.in.Input)
	if err != nil {
		t.leave(unopened("input of workflow "+t.def.Workflow, err))
		return t.leaves(ctx)
	}
	t.body = t.newBranch("", nil)
	t.body.start(func(c Context) {
		t.output, t.err = body(c, input, t.in.MaxBytes)
		t.returned, t.err = true, sound(t.err)
		if v, ok := errors.AsType[*ValueError](t.err); ok && v.Kind == "decode" && t.seq == 0 { // the input: the body was not called
			t.body.park("undecodable", t.err)
		}
		renew, again := errors.AsType[*continueError](t.err)
		if again && renew.workflow != t.def.Workflow {
			t.err, again = &DefinitionError{Workflow: t.def.Workflow, Reason: fmt.Sprintf("its body returned ContinueAsNew of %q", renew.workflow)}, false
		}
		if t.err != nil && !again { // what still runs is of no use to a run that fails
			t.body.scope.cancel(ErrCanceled)
		}
		t.body.await(t.settled)
	}, func(c Context) {
		for i := len(t.cleanups) - 1; i >= 0; i-- {
			err := sound(t.cleanups[i](c))
			if _, again := errors.AsType[*continueError](err); again {
				err = &DefinitionError{Workflow: t.def.Workflow, Reason: "a function that it gave to Finally returned ContinueAsNew: only its body can"}
			}
			if err != nil && t.err == nil {
				t.err = err
			}
		}
	})
	for t.left == nil {
		t.advance(ctx)
	}
	return t.leaves(ctx)
}

// advance does the next thing that there is to do.
func (t *turn) advance(ctx context.Context) {
	if err := context.Cause(ctx); err != nil {
		t.leave(interrupted(err))
		return
	}
	if len(t.runnable) > 0 {
		b := t.runnable[0]
		t.runnable = t.runnable[1:]
		b.queued = false
		b.run()
		if t.misused.Load() {
			t.park("goroutine", errForeign)
		}
		return
	}
	t.spun = 0
	if len(t.replay) > 0 {
		t.handOver(t.replay[0])
		return
	}
	if t.in.Verify {
		t.verify()
		return
	}
	if t.stuck != nil && (t.canceled || closed(t.in.Canceled)) { // its body waits for what cannot begin
		t.leave(*t.stuck)
		return
	}
	if !t.canceled && !t.returned && closed(t.in.Canceled) {
		late, err := t.in.Host.Late(context.WithoutCancel(ctx))
		if err != nil {
			t.leave(refused(err))
			return
		}
		key := keyCancel
		if late {
			key = keyLate
		}
		t.record(&engine.Checkpoint{Seq: 0, Key: key, Started: t.in.Now()})
		t.cancel(key)
		return
	}
	if post := t.inbox.take(); post != nil {
		post()
		return
	}
	if !t.paused() && t.match() { // what is sent to a paused run is kept
		return
	}
	if len(t.branches) == 0 && t.starting == 0 { // a child that nobody waits for any more is canceled first
		t.finish(ctx)
		return
	}
	t.prepare()
	if !t.pending.Empty() {
		t.flush(ctx)
		return
	}
	if t.paused() {
		t.pause(ctx)
		return
	}
	if len(t.queue) > 0 {
		t.startNext()
		return
	}
	t.wait(ctx)
}

// paused reports whether nothing may start. A canceled run cleans up.
func (t *turn) paused() bool {
	return t.stuck != nil || t.in.Paused != nil && !t.canceled && t.in.Paused()
}

// pause waits for what executes, and leaves.
func (t *turn) pause(ctx context.Context) {
	switch {
	case t.attempts > 0:
	case t.stuck != nil:
		t.leave(*t.stuck)
		return
	default:
		t.park("paused", errPaused)
		return
	}
	canceled := t.in.Canceled
	if t.returned {
		canceled = nil
	}
	select {
	case <-t.inbox.bell:
	case <-canceled:
	case <-t.in.News:
		t.look()
	case <-ctx.Done():
	}
}

// wait blocks until something happens, or leaves when nothing is near.
func (t *turn) wait(ctx context.Context) {
	now := t.in.Now()
	next := time.Duration(-1) // until the first of what waits is due
	stay := now               // until when a run that waits for others stays
	var first *future
	for _, f := range t.armed {
		if f.step == nil && waitsForOthers(f.wait) && f.armedAt.Add(t.in.Sticky).After(stay) {
			stay = f.armedAt.Add(t.in.Sticky)
		}
		if !f.due.IsZero() && (first == nil || f.due.Before(first.due)) {
			first = f
		}
	}
	if first != nil {
		next = max(first.due.Sub(now), 0)
		if next == 0 {
			if first.step != nil || t.heard(first.due) {
				t.fire(first)
				return
			}
			next = -1 // what Postgres answers comes first
		}
	}
	pause := next
	if t.attempts == 0 && len(t.armed) > 0 && (next < 0 || next > t.in.Patience) {
		if !stay.After(now) || closed(t.in.Draining) || t.in.Crowded != nil && t.in.Crowded() {
			t.leave(engine.End{Kind: engine.Timer, Delay: next, Aware: t.canceled})
			return
		}
		pause = min(stay.Sub(now), time.Second)
	}
	var due <-chan time.Time
	if t.in.Idle != nil {
		due = t.in.Idle(t.begun, t.attempts, next)
	} else if pause >= 0 {
		timer := time.NewTimer(pause)
		defer timer.Stop()
		due = timer.C
	}
	canceled, draining := t.in.Canceled, t.in.Draining
	if t.canceled || t.returned {
		canceled = nil
	}
	if closed(draining) {
		draining = nil
	}
	select {
	case <-t.inbox.bell:
	case <-due:
	case <-canceled:
	case <-draining:
	case <-ctx.Done():
	case <-t.in.News:
		t.look()
	}
}

// heard reports whether what had arrived at a time has been handed over to what waits
// for it, and asks for it if not: no time is over before that, as its run may have been
// nowhere, or told nothing, when it was.
func (t *turn) heard(at time.Time) bool {
	switch {
	case t.news.looking:
		t.news.again = t.news.again || t.news.asked.Before(at)
		return false
	case t.news.asked.Before(at):
		t.look()
	}
	return !t.news.looking
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// cancel ends what the body waits for. What its cleanups do goes on.
func (t *turn) cancel(key string) {
	t.canceled, t.late = true, key == keyLate
	if t.late {
		t.body.scope.cancel(errLate)
		return
	}
	t.body.scope.cancel(ErrCanceled)
}

// startNext starts what the body asked for, unless the worker is leaving.
func (t *turn) startNext() {
	f := t.queue[0]
	if closed(t.in.Draining) && f.step != nil {
		t.leave(engine.End{Kind: engine.Released})
		return
	}
	t.queue = t.queue[1:]
	if !f.done {
		f.start()
	}
}

// occurrence returns the key of the next call by a name in a branch.
func (b *branch) occurrence(name string) string {
	b.spins()
	b.names[name]++
	if n := b.names[name]; n > 1 {
		return fmt.Sprintf("%s%s#%d", b.path, name, n)
	}
	return b.path + name
}
