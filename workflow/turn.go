package workflow

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
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
	misused atomic.Bool // a Context was used on a foreign goroutine

	yield    chan struct{} // gives the baton back
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
	canceled   bool
	late       bool        // it is its deadline that has canceled it
	left       *engine.End // set once: why the turn ends
	output     []byte      // of the body
	err        error
	returned   bool

	group sync.WaitGroup // of the goroutines that post
	inbox inbox
}

// inbox takes what other goroutines have for the turn.
type inbox struct {
	mu    sync.Mutex
	items []func()
	bell  chan struct{}
}

func (i *inbox) post(f func()) {
	i.mu.Lock()
	i.items = append(i.items, f)
	i.mu.Unlock()
	select {
	case i.bell <- struct{}{}:
	default:
	}
}

func (i *inbox) take() func() {
	i.mu.Lock()
	defer i.mu.Unlock()
	if len(i.items) == 0 {
		return nil
	}
	f := i.items[0]
	i.items = i.items[1:]
	return f
}

var (
	errRunEnds    = errors.New("workflow: the turn ends")
	errPaused     = errors.New("workflow: run paused")
	errForeign    = errors.New("workflow: a Context was used on another goroutine than the one that it was made for; a body starts no goroutines: use Go, Step.Go or Map")
	errBodyGoexit = errors.New("workflow: the body ended its goroutine (runtime.Goexit, or FailNow of a test)")
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
		t.returned = true
		if v, ok := errors.AsType[*ValueError](t.err); ok && v.Kind == "decode" && t.seq == 0 { // the input: the body was not called
			t.body.park("undecodable", t.err)
		}
		if t.err != nil { // what still runs is of no use to a run that fails
			t.body.scope.cancel(ErrCanceled)
		}
		t.body.await(func() bool { return len(t.branches) == 1 && len(t.unresolved) == 0 })
	}, func(c Context) {
		for i := len(t.cleanups) - 1; i >= 0; i-- {
			if err := t.cleanups[i](c); err != nil && t.err == nil {
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
	if len(t.replay) > 0 {
		t.handOver(t.replay[0])
		return
	}
	if t.in.Verify {
		t.verify()
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
	if t.match() {
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
func (t *turn) paused() bool { return t.in.Paused != nil && !t.canceled && t.in.Paused() }

// pause waits for what executes, and leaves.
func (t *turn) pause(ctx context.Context) {
	if t.attempts == 0 {
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
	for _, f := range t.armed {
		if f.step == nil && waitsForOthers(f.wait) && f.armedAt.Add(t.in.Sticky).After(stay) {
			stay = f.armedAt.Add(t.in.Sticky)
		}
		if f.due.IsZero() {
			continue
		}
		left := f.due.Sub(now)
		if left <= 0 {
			t.fire(f)
			return
		}
		if next < 0 || left < next {
			next = left
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
		t.body.scope.cancel(ErrTimeout)
		return
	}
	t.body.scope.cancel(ErrCanceled)
}

// handOver gives the body a result that an earlier turn recorded.
func (t *turn) handOver(c *engine.Checkpoint) {
	if c.Seq == 0 {
		t.consume(c)
		t.cancel(c.Key)
		return
	}
	f := t.unresolved[c.Seq]
	if f == nil || !f.launched {
		t.park("nondeterminism", &NonDeterminismError{Seq: c.Seq, Recorded: c.Key})
		return
	}
	if !t.opened(c) {
		return
	}
	t.consume(c)
	f.attempt = c.Attempt
	t.resolve(f, c.Output, f.failure(c))
}

// consume takes a checkpoint off those that are replayed: the next one, but for
// an instant of a fork (see instant).
func (t *turn) consume(c *engine.Checkpoint) {
	i := slices.Index(t.replay, c)
	if i == 0 {
		t.replay = t.replay[1:]
	} else {
		t.replay = slices.Delete(t.replay, i, i+1)
	}
	delete(t.recorded, c.Seq)
	t.shows.handed = max(t.shows.handed, c.Done)
}

// record numbers a new checkpoint and keeps it for the next commit.
func (t *turn) record(c *engine.Checkpoint) {
	t.done++
	c.Done, t.shows.handed = t.done, t.done
	if c.Error != nil || c.Seq == 0 || strings.HasPrefix(c.Key[strings.LastIndexByte(c.Key, '/')+1:], keyTimeout) {
		c.Calls = t.seq
	}
	if c.Elapsed == 0 {
		c.Elapsed = max(t.in.Now().Sub(c.Started), 0)
	}
	t.pending.Checkpoints = append(t.pending.Checkpoints, *c)
}

// prepare writes down what is about to be waited for.
func (t *turn) prepare() {
	for _, f := range t.fresh {
		if f.done || f.written || f.step == nil && f.wait.Signal == "" && f.wait.Left <= t.in.Patience {
			continue
		}
		f.written = true
		t.pending.Waits = append(t.pending.Waits, *f.wait)
	}
	t.fresh = nil
}

// flush writes what is pending.
func (t *turn) flush(ctx context.Context) {
	b := t.pending
	t.pending, t.shows.bytes = engine.Batch{}, 0
	if err := t.in.Host.Write(context.WithoutCancel(ctx), b); err != nil {
		t.leave(refused(err))
	}
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

// finish writes the end of the run together with its last checkpoints.
func (t *turn) finish(ctx context.Context) {
	var renew *continueError
	end := engine.End{Kind: engine.Completed, Output: t.output}
	switch {
	case t.err == nil:
	case t.late:
		rec := record(t.err)
		rec.Message, rec.Kind = "the run did not end in time: "+rec.Message, "timeout"
		end = engine.End{Kind: engine.Failed, Error: rec.encode(), Err: t.err}
	case t.canceled:
		end = engine.End{Kind: engine.Canceled, Error: record(t.err).encode(), Err: t.err}
	case errors.As(t.err, &renew):
		input, err := encode("input of workflow "+t.def.Workflow, renew.input, t.in.MaxBytes)
		if err == nil {
			t.leave(engine.End{Kind: engine.Renewed, Output: input})
			return
		}
		end = engine.End{Kind: engine.Failed, Error: record(err).encode(), Err: err}
	default:
		end = engine.End{Kind: engine.Failed, Error: record(t.err).encode(), Err: t.err}
	}
	b := t.pending
	b.End = &end
	for seq, w := range t.in.Waits { // of another version: nothing waited for them here
		b.Dropped = append(b.Dropped, seq)
		if w.Child > 0 {
			b.Cancel = append(b.Cancel, w.Child)
		}
	}
	t.pending = engine.Batch{}
	if err := t.in.Host.Write(context.WithoutCancel(ctx), b); err != nil {
		t.leave(refused(err))
		return
	}
	t.leave(end)
}

// leave sets why the turn ends, once.
func (t *turn) leave(e engine.End) {
	if t.left == nil {
		t.left = &e
	}
}

func (t *turn) park(reason string, err error) { t.leave(parked(reason, err)) }

// leaves unwinds the branches, and waits for what still executes: its result is
// written, unless the run has ended or is somebody else's.
func (t *turn) leaves(ctx context.Context) engine.End {
	if t.left.Kind != engine.Released { // of those, steps go on to their end
		t.stop(errRunEnds)
	}
	for len(t.branches) > 0 {
		t.branches[len(t.branches)-1].run()
	}
	t.group.Wait()
	t.stop(errRunEnds)
	for post := t.inbox.take(); post != nil; post = t.inbox.take() {
		post()
	}
	if !t.left.Final() && t.left.Kind != engine.Lost && !t.in.Verify && !t.pending.Empty() {
		end := *t.left
		t.left = nil
		t.flush(ctx)
		t.leave(end)
	}
	return *t.left
}

// refused turns the error of a write into the end of the turn.
func refused(err error) engine.End {
	var park *engine.ParkError
	switch {
	case errors.Is(err, engine.ErrLeaseLost):
		return engine.End{Kind: engine.Lost, Err: err}
	case errors.As(err, &park):
		return parked(park.Reason, park.Err)
	}
	return parked("storage", err)
}

func parked(reason string, err error) engine.End {
	return engine.End{Kind: engine.Parked, Reason: reason, Error: record(err).encode(), Err: err}
}

// interrupted is the end of a turn whose context was ended from outside.
func interrupted(cause error) engine.End {
	if errors.Is(cause, engine.ErrHandBack) {
		return engine.End{Kind: engine.Released}
	}
	return engine.End{Kind: engine.Lost, Err: cause}
}

// occurrence returns the key of the next call by a name in a branch.
func (b *branch) occurrence(name string) string {
	b.names[name]++
	if n := b.names[name]; n > 1 {
		return fmt.Sprintf("%s%s#%d", b.path, name, n)
	}
	return b.path + name
}
