package workflow

import (
	"context"
	"fmt"
	"reflect"
	"time"

	"github.com/stepward/stepward/internal/engine"
)

// A Future is the result of something that was started: a step, a branch, a
// child run.
type Future[Out any] struct{ f *future }

// Get waits for the result. Its errors are those of what was started; when the
// Context is canceled first, [ErrCanceled] or [ErrTimeout].
func (f *Future[Out]) Get(ctx Context) (Out, error) {
	b, s := caller(ctx)
	b.enter()
	of := f.of(b)
	if err := of.get(b, s); err != nil {
		out, _ := of.value.(Out) // what a branch returned beside its error
		return out, err
	}
	return result[Out](b, of)
}

// of returns what a branch that has a Future asks for with it.
func (f *Future[Out]) of(b *branch) *future {
	b.needs(f != nil && f.f != nil, "Future", "it is nil, or its zero value: want what Go returns")
	b.needs(f.f.t == b.t, "Future", "it is of another run, or of this one before it was replayed: a body keeps nothing outside of itself")
	return f.f
}

// get waits until the future is resolved, or the scope is canceled.
func (f *future) get(b *branch, s *scope) error {
	if !f.done {
		f.watch(b)
		s.watchers = append(s.watchers, b)
		b.await(func() bool { return f.done || s.err != nil })
		s.watchers = remove(s.watchers, b)
	}
	if !f.done {
		return &StepError{Step: f.key, Err: s.err}
	}
	return f.err
}

func remove(bs []*branch, b *branch) []*branch {
	for i := range bs {
		if bs[i] == b {
			return append(bs[:i], bs[i+1:]...)
		}
	}
	return bs
}

// result decodes what a future resolved to. A recorded output that does not
// decode parks the run: a deploy can cure it.
func result[Out any](b *branch, f *future) (Out, error) {
	var out Out
	if f.local || f.err != nil {
		out, _ = f.value.(Out)
		return out, f.err
	}
	if err := decode(f.what(reflect.TypeFor[Out]()), f.output, &out); err != nil {
		b.park("undecodable", err)
	}
	return out, nil
}

// what names the result of a call, for an error.
func (f *future) what(as reflect.Type) string {
	switch {
	case f.wait != nil && f.wait.Signal != "":
		return fmt.Sprintf("signal %s, which call %s received as %v", f.wait.Signal, f.key, as)
	case f.step == nil:
		return "output of " + f.key
	}
	return "output of step " + f.key
}

// A future is one call at one place of a run.
type future struct {
	t    *turn
	step *engine.Step // of a step
	wait *engine.Wait // of what waits for time, a signal or a child, and of a step with a deadline
	seq  int
	key  string
	hash uint64

	input    []byte
	start    func() // does what was asked for, once all before it is durable
	launched bool
	written  bool // the wait is on record
	began    time.Time
	due      time.Time // when what it waits for is over by itself; zero: never
	armedAt  time.Time
	cancel   context.CancelCauseFunc // of its attempt
	deadline time.Time               // of a step with one, from when it begins
	attempts engine.Attempts
	scope    *scope
	watchers []watcher

	done    bool
	attempt int
	output  []byte
	err     error
	local   bool // the result is value, and was never encoded
	value   any
}

// A watcher is told when a future is resolved.
type watcher interface{ resolved(*future) }

func (f *future) watch(w watcher) {
	if g, ok := w.(*group); ok && g == nil {
		return
	}
	f.watchers = append(f.watchers, w)
}

// reserve gives a call its place in the run, in a scope.
func (b *branch) reserve(s *scope, key string) *future {
	t := b.t
	if t.seq++; t.seq > maxCalls {
		b.park("too_many", errManyCalls)
	}
	f := &future{t: t, seq: t.seq, key: key, scope: s, began: t.in.Now()}
	t.unresolved[f.seq] = f
	if c, ok := t.recorded[f.seq]; ok && c.Key != key {
		b.park("nondeterminism", &NonDeterminismError{Seq: f.seq, Recorded: c.Key, Attempted: key})
	}
	s.futures[f] = struct{}{}
	return f
}

// passes encodes the input of a call, and compares it with the recorded one. With
// one that is sealed, handOver does: until then, no result need be in memory.
func (b *branch) passes(f *future, what string, in any) {
	var err error
	if f.input, err = encode(what, in, b.t.in.MaxBytes); err != nil {
		b.t.resolve(f, nil, &StepError{Step: f.key, Err: err})
		return
	}
	f.hash = hashInput(f.input)
	if c, ok := b.t.recorded[f.seq]; ok && c.InputHash != 0 && c.InputHash != f.hash {
		b.park("nondeterminism", f.otherInput(c))
	}
}

// otherInput says that a call is on record with another input.
func (f *future) otherInput(c *engine.Checkpoint) error {
	return &NonDeterminismError{Seq: f.seq, Recorded: c.Key, Attempted: f.key, SameKey: true}
}

// launch asks for a reserved call. One that is on record is not made again.
func (t *turn) launch(f *future, start func()) {
	if f.done {
		return
	}
	f.launched = true
	if t.underWay++; t.underWay > maxOpen {
		t.park("too_many", errManyOpen) // the next call exits
		return
	}
	if _, ok := t.recorded[f.seq]; ok {
		t.spun--
		f.input = nil
		return
	}
	if f.scope.err != nil {
		t.abandon(f, f.scope.err)
		return
	}
	t.spun--
	f.start = start
	t.queue = append(t.queue, f)
	if f.wait != nil {
		if saved, ok := t.in.Waits[f.seq]; ok && saved.Key == f.key {
			f.wait.Left, f.wait.Child, f.written = saved.Left, saved.Child, true
			delete(t.in.Waits, f.seq)
		}
		t.fresh = append(t.fresh, f)
	}
}

// forget takes back a call that was reserved and never made.
func (t *turn) forget(f *future) {
	delete(t.unresolved, f.seq)
	delete(f.scope.futures, f)
}

// resolve ends a future and tells who waits for it.
func (t *turn) resolve(f *future, output []byte, err error) {
	if f.done {
		return
	}
	f.done, f.output, f.err, f.input, f.start = true, output, err, nil, nil
	delete(t.unresolved, f.seq)
	if f.launched {
		t.underWay--
	}
	if f.scope != nil {
		delete(f.scope.futures, f)
	}
	for i, a := range t.armed {
		if a == f {
			t.armed = append(t.armed[:i], t.armed[i+1:]...)
			break
		}
	}
	for _, w := range f.watchers {
		w.resolved(f)
	}
	f.watchers = nil
	t.ended()
}

// checkpoint makes the record of a future's result.
func (f *future) checkpoint(output []byte, err *RecordedError) *engine.Checkpoint {
	c := &engine.Checkpoint{Seq: f.seq, Key: f.key, InputHash: f.hash, Started: f.began, Output: output}
	if err != nil {
		c.Error = err.encode()
	}
	return c
}

// failure returns the error that a checkpoint holds, as the body sees it.
func (f *future) failure(c *engine.Checkpoint) error {
	if c.Error == nil {
		return nil
	}
	return &StepError{Step: f.key, Attempt: c.Attempt, Err: decodeError(c.Error)}
}

// settle records the result of a future and hands it over.
func (t *turn) settle(f *future, c *engine.Checkpoint) {
	t.record(c)
	t.resulted(f)
	f.attempt = c.Attempt
	t.resolve(f, c.Output, f.failure(c))
}

// resulted takes what a future waited for off the record.
func (t *turn) resulted(f *future) {
	if f.wait != nil && f.written {
		t.pending.Dropped = append(t.pending.Dropped, f.seq)
	}
}

// instant makes a call whose result is there at once. On a replay it is found by
// its place alone. Beyond all that is on record it is new, even while results of
// earlier calls are still to be handed over: a fork has such, as it keeps what was
// called before a place, and not what was called after it and was ready sooner.
func (b *branch) instant(s *scope, key string, live func() []byte) []byte {
	t := b.t
	f := b.reserve(s, key)
	f.launched = true
	t.underWay++
	if c, ok := t.recorded[f.seq]; ok {
		if !t.opened(c) {
			b.exitIfLeft()
		}
		t.resolve(f, t.consume(c).Output, nil)
		return f.output
	}
	if f.seq < t.lastSeq { // it would be on record: something else was here, and has no result yet
		b.park("nondeterminism", &NonDeterminismError{Seq: f.seq, Attempted: key})
	}
	if t.in.Verify && (len(t.replay) == 0 || t.in.Ended != 0) {
		t.verify()
		b.exitIfLeft()
	}
	t.settle(f, f.checkpoint(live(), nil))
	return f.output
}
