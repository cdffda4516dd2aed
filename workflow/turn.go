package workflow

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/stepward/stepward/internal/engine"
)

// A turn is one stay of a run on a worker. The body runs on a goroutine of its
// own and is the only one that issues steps; each step's attempts run on
// another. A result is handed to the body before it is written: a body has no
// effects, and its next step waits for the commit. So the last checkpoint and
// the end of the run share one.
type turn struct {
	def   *engine.Definition
	steps map[string]*engine.Step
	in    engine.Turn
	ctx   context.Context // of the attempts; ends with the lease, the cancelation or the end of the run
	stop  context.CancelCauseFunc
	owner string // the body's goroutine

	mu       sync.Mutex
	wake     chan struct{} // tells the body that something changed
	left     chan struct{} // closed when end is set
	attempts sync.WaitGroup
	seq      int
	names    map[string]int // occurrences so far
	recorded map[int]engine.Checkpoint
	pending  []engine.Checkpoint // finished, not yet written
	running  int                 // attempts that execute, or wait in memory
	waiting  map[*future]time.Time
	canceled bool
	end      *engine.End // set once: why the turn leaves
}

var (
	errRunEnds    = errors.New("workflow: the run ends")
	errForeign    = errors.New("workflow: the body's Context was used on another goroutine; a body does not start goroutines: use Step.Go or Map")
	errBodyGoexit = errors.New("workflow: the body ended its goroutine (runtime.Goexit, or FailNow of a test)")
)

type bodyFunc func(ctx Context, input []byte, limit int) ([]byte, error)

// newTurn returns the function that runs one turn of a definition.
func newTurn(def *engine.Definition, steps map[string]*engine.Step, body bodyFunc) func(context.Context, engine.Turn) engine.End {
	return func(ctx context.Context, in engine.Turn) engine.End {
		t := &turn{
			def: def, steps: steps, in: in,
			wake: make(chan struct{}, 1), left: make(chan struct{}),
			names: make(map[string]int), recorded: make(map[int]engine.Checkpoint, len(in.Steps)), waiting: make(map[*future]time.Time),
		}
		for _, c := range in.Steps {
			t.recorded[c.Seq] = c
		}
		t.in.Steps = nil
		t.ctx, t.stop = context.WithCancelCause(ctx)
		defer t.stop(errRunEnds)
		return t.run(ctx, body)
	}
}

// run owns the turn: it starts the body, watches what comes from outside and
// waits for every goroutine that listens.
func (t *turn) run(ctx context.Context, body bodyFunc) engine.End {
	gone := make(chan struct{})
	go t.runBody(ctx, body, gone)
	canceled, draining, done := t.in.Canceled, t.in.Draining, ctx.Done()
	for {
		select {
		case <-gone:
			return *t.end
		case <-canceled:
			canceled = nil
			t.mu.Lock()
			t.canceled = true
			t.mu.Unlock()
			t.stop(ErrCanceled)
			t.poke()
		case <-draining:
			draining = nil
			t.poke()
		case <-done:
			done = nil
			t.mu.Lock()
			t.leave(interrupted(context.Cause(ctx)))
			t.mu.Unlock()
		}
	}
}

// runBody is the body's goroutine. It leaves t.end set, and no goroutine behind.
func (t *turn) runBody(ctx context.Context, body bodyFunc, gone chan<- struct{}) {
	var (
		output   []byte
		err      error
		returned bool
	)
	defer close(gone)
	defer func() {
		p := recover()
		t.mu.Lock()
		switch {
		case t.end != nil: // unwound, or overtaken by an end from outside
		case p != nil:
			t.leave(parked("panic", &engine.Fault{Kind: "panic", Message: fmt.Sprintf("workflow: the body panicked: %v", p), Stack: string(debug.Stack())}))
		case !returned:
			t.leave(parked("goexit", errBodyGoexit))
		default:
			t.finish(ctx, output, err)
		}
		if t.end.Kind == engine.Parked {
			t.stop(errRunEnds)
		}
		t.mu.Unlock()
		t.attempts.Wait()
		t.mu.Lock()
		defer t.mu.Unlock()
		if !t.end.Final() && t.end.Kind != engine.Lost && len(t.pending) > 0 {
			t.flush(context.WithoutCancel(ctx))
		}
	}()
	t.owner = goroutineID()
	output, err = body(bodyContext{t}, t.in.Input, t.in.MaxBytes)
	t.mu.Lock()
	if err != nil {
		t.stop(errRunEnds) // what still runs is of no use to a run that fails
	}
	t.await(func() bool { return t.running == 0 && len(t.waiting) == 0 })
	t.mu.Unlock()
	returned = true
}

// finish writes the end of the run together with its last checkpoints. The
// turn is locked.
func (t *turn) finish(ctx context.Context, output []byte, err error) {
	var undecodable *DecodeError
	if errors.As(err, &undecodable) && t.seq == 0 { // the input: the body was not called
		t.leave(parked("undecodable", err))
		return
	}
	if len(t.recorded) > 0 && !t.canceled { // a canceled run need not come back to all
		c := t.recorded[slices.Min(slices.Collect(maps.Keys(t.recorded)))]
		t.leave(parked("nondeterminism", &NonDeterminismError{Seq: c.Seq, Recorded: c.Key}))
		return
	}
	end := engine.End{Kind: engine.Completed, Output: output}
	switch {
	case err == nil:
	case t.canceled:
		end = engine.End{Kind: engine.Canceled, Error: record(err).encode(), Err: err}
	default:
		end = engine.End{Kind: engine.Failed, Error: record(err).encode(), Err: err}
	}
	pending := t.pending
	t.pending = nil
	t.mu.Unlock()
	werr := t.in.Host.Write(context.WithoutCancel(ctx), pending, nil, &end)
	t.mu.Lock()
	if werr != nil {
		t.leave(t.refused(werr))
		return
	}
	t.leave(end)
}

// refused turns the error of a write into the end of the turn.
func (t *turn) refused(err error) engine.End {
	if errors.Is(err, engine.ErrLeaseLost) {
		return engine.End{Kind: engine.Lost, Err: err}
	}
	return parked("storage", err)
}

func parked(reason string, err error) engine.End {
	return engine.End{Kind: engine.Parked, Reason: reason, Error: record(err).encode(), Err: err}
}

// enter begins a durable call: it locks the turn and checks who calls.
func (t *turn) enter() {
	if id := goroutineID(); id != t.owner {
		t.mu.Lock()
		t.leave(parked("goroutine", errForeign))
		t.mu.Unlock()
		runtime.Goexit()
	}
	t.mu.Lock()
	t.exitIfLeft()
}

// exitIfLeft unwinds the body when the turn has to leave. Goexit, not a panic:
// a recover in the body cannot stop it. The turn is locked.
func (t *turn) exitIfLeft() {
	if t.end != nil {
		t.mu.Unlock()
		runtime.Goexit()
	}
}

// leave sets why the turn ends, once. The turn is locked.
func (t *turn) leave(e engine.End) {
	if t.end == nil {
		t.end = &e
		close(t.left)
		t.poke()
	}
}

func (t *turn) poke() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// await blocks the body until ok, writing what finishes meanwhile. With nothing
// left but long waits, the run leaves. The turn is locked.
func (t *turn) await(ok func() bool) {
	for {
		t.exitIfLeft()
		if ok() {
			return
		}
		switch {
		case len(t.pending) > 0:
			t.flush(context.WithoutCancel(t.ctx))
		case t.running == 0 && len(t.waiting) > 0:
			first := time.Time{}
			for _, at := range t.waiting {
				if first.IsZero() || at.Before(first) {
					first = at
				}
			}
			t.leave(engine.End{Kind: engine.Timer, Delay: max(time.Until(first), 0)})
		default:
			t.mu.Unlock()
			<-t.wake
			t.mu.Lock()
		}
	}
}

// flush writes the pending checkpoints. The turn is locked, but not meanwhile.
func (t *turn) flush(ctx context.Context) {
	pending := t.pending
	t.pending = nil
	t.mu.Unlock()
	err := t.in.Host.Write(ctx, pending, nil, nil)
	t.mu.Lock()
	if err != nil {
		t.leave(t.refused(err))
	}
}

// occurrence returns the key of the next call of a step. The turn is locked.
func (t *turn) occurrence(name string) string {
	t.names[name]++
	if n := t.names[name]; n > 1 {
		return fmt.Sprintf("%s#%d", name, n)
	}
	return name
}

// reserve gives a call its place in the run. The turn is locked.
func (t *turn) reserve(s *engine.Step, key string, in any) *future {
	t.seq++
	f := &future{step: s, seq: t.seq, key: key}
	if t.steps[s.Name] != s {
		t.park("undeclared_step", &UndeclaredStepError{Workflow: t.def.Workflow, Version: t.def.Version, Step: s.Name})
	}
	var err error
	f.input, err = encode("input of step "+key, in, t.in.MaxBytes)
	if err != nil {
		f.resolve(0, nil, &StepError{Step: key, Err: err})
		return f
	}
	f.hash = hashInput(f.input)
	if c, ok := t.recorded[f.seq]; ok && (c.Key != key || c.InputHash != f.hash) {
		t.park("nondeterminism", &NonDeterminismError{Seq: f.seq, Recorded: c.Key, Attempted: key, SameKey: c.Key == key})
	}
	return f
}

// park leaves with a reason and unwinds the body. The turn is locked.
func (t *turn) park(reason string, err error) {
	t.leave(parked(reason, err))
	t.exitIfLeft()
}

// start executes a reserved call, unless it is recorded. The turn is locked.
func (t *turn) start(f *future) {
	if f.done {
		return
	}
	if c, ok := t.recorded[f.seq]; ok {
		delete(t.recorded, f.seq)
		var err error
		if c.Error != nil {
			err = &StepError{Step: f.key, Attempt: c.Attempt, Err: decodeError(c.Error)}
		}
		f.resolve(c.Attempt, c.Output, err)
		return
	}
	if mode := Mode(f.step.Mode); !mode.supported() {
		t.park("mode", &ModeError{Workflow: t.def.Workflow, Step: f.step.Name, Mode: mode})
	}
	for len(t.pending) > 0 && t.end == nil {
		t.flush(context.WithoutCancel(t.ctx))
	}
	t.exitIfLeft()
	if t.canceled {
		f.resolve(0, nil, &StepError{Step: f.key, Err: ErrCanceled})
		return
	}
	select {
	case <-t.in.Draining:
		t.leave(engine.End{Kind: engine.Released})
		t.exitIfLeft()
	default:
	}
	t.running++
	t.attempts.Add(1)
	go t.execute(f, t.in.Attempts[f.seq])
}

// execute runs attempts until one succeeds or none is left.
func (t *turn) execute(f *future, before engine.Attempts) {
	defer t.attempts.Done()
	number, failed, wait := before.Last, before.Failed, before.Wait
	for {
		if wait > 0 && !t.pause(f, wait) {
			return
		}
		number++
		started := time.Now()
		output, err := t.in.Host.Attempt(t.ctx, engine.Attempt{Step: f.step, Run: t.in.Run, Seq: f.seq, Key: f.key, Number: number, Input: f.input})
		c := engine.Checkpoint{Seq: f.seq, Key: f.key, Mode: f.step.Mode, Attempt: number, InputHash: f.hash, Started: started, Elapsed: time.Since(started)}
		if err == nil && t.in.MaxBytes > 0 && len(output) > t.in.MaxBytes {
			err = &SizeError{What: "output of step " + f.key, Bytes: len(output), Limit: t.in.MaxBytes}
		}
		var park *engine.ParkError
		switch {
		case err == nil:
			c.Output = output
			t.deliver(f, c, nil)
			return
		case t.ctx.Err() != nil: // interrupted: neither a success nor a failure
			t.interrupt(f)
			return
		case errors.As(err, &park):
			t.mu.Lock()
			t.leave(parked(park.Reason, park.Err))
			t.mu.Unlock()
			t.interrupt(f)
			return
		case errors.Is(err, engine.ErrLeaseLost):
			t.mu.Lock()
			t.leave(engine.End{Kind: engine.Lost, Err: err})
			t.mu.Unlock()
			t.interrupt(f)
			return
		}
		failed++
		rec := record(err)
		if rec.Permanent || failed >= f.step.MaxAttempts {
			c.Error = rec.encode()
			t.deliver(f, c, &StepError{Step: f.key, Attempt: number, Err: decodeError(c.Error)})
			return
		}
		wait = f.step.Delay(failed)
		werr := t.in.Host.Write(context.WithoutCancel(t.ctx), nil, []engine.Failure{{
			Seq: f.seq, Key: f.key, Mode: f.step.Mode, Attempt: number, Started: started, Elapsed: c.Elapsed, Error: rec.encode(), Delay: wait,
		}}, nil)
		if werr != nil {
			t.mu.Lock()
			t.leave(t.refused(werr))
			t.mu.Unlock()
			t.interrupt(f)
			return
		}
	}
}

// deliver hands a result to the body.
func (t *turn) deliver(f *future, c engine.Checkpoint, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.running--
	t.pending = append(t.pending, c)
	f.resolve(c.Attempt, c.Output, err)
	t.poke()
}

// interrupt ends a step that has no result. In a canceled run its waiter gets
// an error. In one that has to leave, the body must not see it: it would take
// the interruption for a failure of the step.
func (t *turn) interrupt(f *future) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.running--
	cause := context.Cause(t.ctx)
	if cause != nil && !errors.Is(cause, ErrCanceled) && !errors.Is(cause, errRunEnds) {
		t.leave(interrupted(cause))
	}
	f.resolve(0, nil, &StepError{Step: f.key, Err: cause})
	t.poke()
}

// interrupted is the end of a turn whose context was ended from outside.
func interrupted(cause error) engine.End {
	if errors.Is(cause, engine.ErrHandBack) {
		return engine.End{Kind: engine.Released}
	}
	return engine.End{Kind: engine.Lost, Err: cause}
}

// pause waits before the next attempt, in memory when it is short. It reports
// false when the turn left or the run was canceled meanwhile.
func (t *turn) pause(f *future, wait time.Duration) bool {
	long := wait > t.in.Patience
	if long {
		t.mu.Lock()
		t.running--
		t.waiting[f] = time.Now().Add(wait)
		t.poke()
		t.mu.Unlock()
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	stopped := false
	select {
	case <-timer.C:
	case <-t.left:
		stopped = true
	case <-t.ctx.Done():
		stopped = true
	}
	if long {
		t.mu.Lock()
		delete(t.waiting, f)
		t.running++
		t.mu.Unlock()
	}
	if stopped {
		t.interrupt(f)
	}
	return !stopped
}

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

// replayFilter drops log records while the body only repeats what is recorded.
type replayFilter struct {
	slog.Handler
	t *turn
}

func (h replayFilter) Enabled(ctx context.Context, l slog.Level) bool {
	h.t.mu.Lock()
	replaying := len(h.t.recorded) > 0
	h.t.mu.Unlock()
	return !replaying && h.Handler.Enabled(ctx, l)
}

func (h replayFilter) WithAttrs(a []slog.Attr) slog.Handler {
	return replayFilter{h.Handler.WithAttrs(a), h.t}
}

func (h replayFilter) WithGroup(name string) slog.Handler {
	return replayFilter{h.Handler.WithGroup(name), h.t}
}
