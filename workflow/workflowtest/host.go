package workflowtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"runtime/debug"
	"slices"
	"time"

	"github.com/stepward/stepward/internal/engine"
	"github.com/stepward/stepward/workflow"
)

// Where a run is.
const (
	ready   = iota
	active  // on the worker
	waiting // until a time, or for news
	over
)

// memRun is a run, with what a worker keeps in Postgres of it. Its methods for the
// engine lock the Env; the others are called with that locked.
type memRun struct {
	e        *Env
	id       workflow.RunID
	def      *engine.Definition
	parent   *memRun
	input    []byte
	status   int
	until    time.Time
	end      engine.End // once it is over
	epoch    int
	recorded map[int]engine.Checkpoint
	attempts map[int]engine.Attempts
	retryAt  map[int]time.Time
	failures []engine.Failure
	waits    map[int]wait
	signals  []received
	shown    engine.Place
	progress map[string]setting // this and entries outlast ContinueAsNew
	entries  []appended
	late     bool // it is its deadline that has canceled it

	// Of the turn, while it is active.
	stop                context.CancelCauseFunc
	lost                bool
	canceled, news      chan struct{}
	isCanceled, unheard bool // unheard: the turn has not looked since
	idle                bool
	begun, open         int // as the turn knows
	calls, answered     int // as they are
	due                 time.Time
	wake                chan time.Time
}

type wait struct {
	engine.Wait
	until time.Time // zero: no time ends it
}

type received struct {
	engine.Signal
	by bool
}

func (e *Env) add(def *engine.Definition, parent *memRun, input []byte) *memRun {
	r := &memRun{e: e, id: workflow.RunID(len(e.runs) + 1), def: def, parent: parent, canceled: make(chan struct{}), news: make(chan struct{}, 1)}
	r.begin(input)
	e.runs = append(e.runs, r)
	return r
}

// begin empties the record.
func (r *memRun) begin(input []byte) {
	r.input, r.failures, r.shown = input, nil, engine.Place{}
	r.recorded, r.attempts = make(map[int]engine.Checkpoint), make(map[int]engine.Attempts)
	r.retryAt, r.waits = make(map[int]time.Time), make(map[int]wait)
}

// execute runs a new run, and those that it starts, until it is over.
func (e *Env) execute(def *engine.Definition, input []byte) (engine.End, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.runs, e.timers, e.failed = nil, nil, nil
	e.root = e.add(def, nil, input)
	for _, s := range e.early {
		e.root.send(s.Name, s.Payload)
	}
	e.early = nil
	if e.timeout > 0 {
		e.timers = append(e.timers, &timer{run: e.root, until: e.clock.Add(e.timeout), fire: e.root.elapse})
	}
	for e.root.status != over && e.failed == nil {
		if !e.quiet() {
			e.bell.Wait()
			continue
		}
		i := slices.IndexFunc(e.runs, func(r *memRun) bool { return r.status == ready })
		if i >= 0 {
			e.runs[i].turn()
		} else if !e.leap() {
			e.failed = fmt.Errorf("%w: %s", ErrStuck, e.root.waitsFor())
		}
	}
	for _, r := range e.runs {
		r.lose()
	}
	for slices.ContainsFunc(e.runs, func(r *memRun) bool { return r.status == active }) {
		e.bell.Wait()
	}
	if e.root.status == over {
		return e.root.end, nil
	}
	return engine.End{}, e.failed
}

// waitsFor names what a run waits for.
func (r *memRun) waitsFor() string {
	var keys []string
	for _, w := range r.waits {
		keys = append(keys, w.Key)
	}
	slices.Sort(keys)
	return fmt.Sprint(keys)
}

// Of a run that leaves the worker more often, the waits are spent in memory.
const replays = 50

// turn begins a turn.
func (r *memRun) turn() {
	e := r.e
	r.epoch++
	r.status, r.lost, r.idle, r.unheard = active, false, false, false
	r.begun, r.open, r.calls, r.answered = 0, 0, 0, 0
	select {
	case <-r.news:
	default:
	}
	t := engine.Turn{
		Run: int64(r.id), Epoch: r.epoch, Seed: int64(r.id), Input: r.input, Canceled: r.canceled, News: r.news, Now: e.Now, Idle: r.rests,
		MaxBytes: engine.MaxBytesDefault, Host: r, Logger: slog.Default(), Attempts: make(map[int]engine.Attempts), Waits: make(map[int]engine.Wait),
	}
	if r.epoch > replays {
		t.Patience, t.Sticky = math.MaxInt64/4, math.MaxInt64/4
	}
	for _, c := range r.recorded {
		t.Steps = append(t.Steps, c)
	}
	for seq, a := range r.attempts {
		a.Wait = max(r.retryAt[seq].Sub(e.clock), 0)
		t.Attempts[seq] = a
	}
	for seq, w := range r.waits {
		if w.Left = -1; !w.until.IsZero() {
			w.Left = max(w.until.Sub(e.clock), 0)
		}
		t.Waits[seq] = w.Wait
	}
	ctx, stop := context.WithCancelCause(context.Background())
	r.stop = stop
	go func() {
		end := r.def.Run(ctx, t)
		stop(nil)
		e.mu.Lock()
		defer e.mu.Unlock()
		r.leaves(end)
		e.bell.Broadcast()
	}()
}

// leaves ends a turn.
func (r *memRun) leaves(end engine.End) {
	r.status = ready
	switch {
	case r.end.Kind != 0: // it was over before the turn was lost
		r.status = over
	case r.lost:
	case end.Kind == engine.Timer:
		if !r.arrived() {
			r.status, r.until = waiting, time.Time{}
			if end.Delay >= 0 {
				r.until = r.e.clock.Add(end.Delay)
			}
		}
	case end.Kind == engine.Renewed:
		r.begin(end.Output)
	default:
		r.e.failed = fmt.Errorf("workflowtest: the run would park (%s): %w", end.Reason, end.Err)
		if r != r.e.root {
			r.e.failed = fmt.Errorf("workflowtest: child %s would park (%s): %w", r.def.Workflow, end.Reason, end.Err)
		}
	}
}

// arrived reports whether something has arrived that the run waits for.
func (r *memRun) arrived() bool {
	if r.isCanceled && r.recorded[0].Key == "" {
		return true
	}
	for _, w := range r.waits {
		if w.Child > 0 && r.e.runs[w.Child-1].end.Kind != 0 {
			return true
		}
		if w.Signal != "" && slices.ContainsFunc(r.signals, func(s received) bool { return s.Name == w.Signal && !s.by }) {
			return true
		}
	}
	return false
}

// tell lets a run look for news.
func (r *memRun) tell() {
	switch {
	case r.status == waiting && r.arrived():
		r.status = ready
	case r.status == active:
		r.idle = false
		select {
		case r.news <- struct{}{}:
		default:
		}
	}
	r.e.bell.Broadcast()
}

func (r *memRun) send(name string, payload []byte) {
	r.signals = append(r.signals, received{Signal: engine.Signal{ID: int64(len(r.signals) + 1), Name: name, Payload: payload}})
	r.tell()
}

func (r *memRun) cancel() {
	if r.isCanceled || r.end.Kind != 0 {
		return
	}
	r.isCanceled, r.unheard = true, true
	close(r.canceled)
	r.rouse()
	r.tell()
}

// elapse lets the deadline pass.
func (r *memRun) elapse() {
	if !r.isCanceled {
		r.late = true
		r.cancel()
	}
}

// lose ends a turn as if its worker had died.
func (r *memRun) lose() {
	if r.status == active && !r.lost {
		r.lost = true
		r.stop(engine.ErrLeaseLost)
		r.e.bell.Broadcast()
	}
}

// rouse lets a turn look again.
func (r *memRun) rouse() {
	r.idle = false
	select {
	case r.wake <- r.e.clock:
	default:
	}
}

// rests implements engine.Turn.Idle.
func (r *memRun) rests(begun, open int, next time.Duration) <-chan time.Time {
	r.e.mu.Lock()
	defer r.e.mu.Unlock()
	r.begun, r.open, r.due = begun, open, time.Time{}
	if next >= 0 {
		r.due = r.e.clock.Add(next)
	}
	r.wake = make(chan time.Time, 1)
	r.idle = len(r.news) == 0
	if r.unheard {
		r.unheard = false
		r.rouse()
	}
	r.e.bell.Broadcast()
	return r.wake
}

// call counts a call of the turn; what it returns, its answer.
func (r *memRun) call() (answer func()) {
	r.e.mu.Lock()
	defer r.e.mu.Unlock()
	r.calls++
	return func() {
		r.e.mu.Lock()
		defer r.e.mu.Unlock()
		r.answered++
		r.e.bell.Broadcast()
	}
}

var errTimedOut = errors.New("timeout")

// Attempt implements engine.Host.
func (r *memRun) Attempt(ctx context.Context, a engine.Attempt) (out engine.Outcome, err error) {
	e := r.e
	defer r.call()()
	e.reach(a.Key, false)
	e.mu.Lock()
	fn, lost := e.fakes[a.Step.Name], r.lost
	e.mu.Unlock()
	switch {
	case lost:
		return out, engine.ErrLeaseLost
	case fn != nil:
	case a.Step.Tool:
		return out, &engine.ParkError{Reason: "no_backend", Err: fmt.Errorf("step %s: %w", a.Key, ErrToolStep)}
	case a.Step.CallTx != nil:
		return out, &engine.ParkError{Reason: "no_database", Err: fmt.Errorf("step %s: %w", a.Key, ErrTxStep)}
	default:
		fn = a.Step.Call
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if a.Step.Timeout > 0 { // on the clock, and in fact
		defer time.AfterFunc(a.Step.Timeout, func() { cancel(errTimedOut) }).Stop()
		e.mu.Lock()
		limit := &timer{run: r, until: e.clock.Add(a.Step.Timeout), fire: func() { cancel(errTimedOut) }}
		e.timers = append(e.timers, limit)
		e.mu.Unlock()
		defer func() {
			e.mu.Lock()
			defer e.mu.Unlock()
			e.timers = slices.DeleteFunc(e.timers, func(t *timer) bool { return t == limit })
		}()
	}
	shown := &outlet{r: r, a: a}
	a.Outlet = shown
	var silence *time.Timer
	if a.Step.Heartbeat > 0 {
		silence = time.AfterFunc(a.Step.Heartbeat, func() { cancel(errSilent) })
		defer silence.Stop()
	}
	var details []byte
	a.Beat = func(d []byte) {
		e.mu.Lock()
		defer e.mu.Unlock()
		details = d
		if silence != nil {
			silence.Reset(a.Step.Heartbeat)
		}
	}
	out.Output, err = inline(engine.WithAttempt(ctx, a), fn, a.Input)
	switch cause := context.Cause(ctx); {
	case err == nil:
	case errors.Is(cause, errSilent):
		err = &engine.Fault{Kind: "timeout", Message: fmt.Sprintf("attempt sent no heartbeat for %v: %v", a.Step.Heartbeat, err), Type: fmt.Sprintf("%T", err), Err: workflow.ErrTimeout}
	case errors.Is(cause, errTimedOut):
		err = &engine.Fault{Kind: "timeout", Message: fmt.Sprintf("attempt took longer than %v: %v", a.Step.Timeout, err), Type: fmt.Sprintf("%T", err), Err: workflow.ErrTimeout}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	shown.over = true
	if r.lost {
		return engine.Outcome{}, engine.ErrLeaseLost
	}
	out.Details = details
	return out, err
}

var errSilent = errors.New("no heartbeat")

// leniency is how long a function may go on after its context is done.
const leniency = time.Second

// inline calls the function on a goroutine of its own, as a worker does: it may
// panic, end its goroutine (FailNow of a test does) or ignore its context.
func inline(ctx context.Context, fn func(context.Context, []byte) ([]byte, error), input []byte) ([]byte, error) {
	type result struct {
		out []byte
		err error
	}
	done := make(chan result, 1)
	go func() {
		r := result{err: &engine.Fault{Kind: "goexit", Message: "the step's function ended its goroutine (runtime.Goexit)"}}
		defer func() {
			if p := recover(); p != nil {
				r = result{err: &engine.Fault{Kind: "panic", Message: fmt.Sprintf("panic: %v", p), Type: fmt.Sprintf("%T", p), Stack: string(debug.Stack())}}
			}
			done <- r
		}()
		out, err := fn(ctx, input)
		r = result{out, err}
	}()
	select {
	case r := <-done:
		return r.out, r.err
	case <-ctx.Done():
	}
	late := time.NewTimer(leniency)
	defer late.Stop()
	select {
	case r := <-done:
		return r.out, r.err
	case <-late.C:
		return nil, fmt.Errorf("the function did not return: %w", context.Cause(ctx))
	}
}

// Write implements engine.Host.
func (r *memRun) Write(_ context.Context, b engine.Batch) error {
	e := r.e
	e.mu.Lock()
	if r.lost {
		e.mu.Unlock()
		return engine.ErrLeaseLost
	}
	for _, c := range b.Checkpoints {
		r.recorded[c.Seq] = c
		delete(r.attempts, c.Seq)
	}
	for _, f := range b.Failures {
		r.failures = append(r.failures, f)
		a := engine.Attempts{Last: f.Attempt, Failed: r.attempts[f.Seq].Failed + 1, Details: f.Details}
		if a.Details == nil {
			a.Details = r.attempts[f.Seq].Details
		}
		r.attempts[f.Seq] = a
		r.retryAt[f.Seq] = e.clock.Add(f.Delay)
	}
	for _, w := range b.Waits {
		x := wait{Wait: w}
		if w.Left >= 0 {
			x.until = e.clock.Add(w.Left)
		}
		r.waits[w.Seq] = x
	}
	for _, seq := range b.Dropped {
		delete(r.waits, seq)
	}
	for _, id := range b.Received {
		r.signals[id-1].by = true
	}
	for _, id := range b.Cancel {
		e.runs[id-1].cancel()
	}
	r.shows(b)
	if b.Shown != (engine.Place{}) {
		r.shown = b.Shown
	}
	if b.End != nil {
		r.finish(*b.End)
	}
	e.mu.Unlock()
	for _, c := range b.Checkpoints {
		e.reach(c.Key, true)
	}
	for _, w := range b.Waits {
		e.reach(w.Key, false)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if r.lost {
		return engine.ErrLeaseLost
	}
	return nil
}

// finish ends a run and tells its parent.
func (r *memRun) finish(end engine.End) {
	r.end = end
	if r.status != active {
		r.status = over
	}
	for _, c := range r.e.runs {
		if c.parent == r && end.Kind == engine.Canceled {
			c.cancel()
		}
	}
	if r.parent != nil {
		r.parent.tell()
	}
}

// Child implements engine.Host.
func (r *memRun) Child(_ context.Context, c engine.Child) (int64, error) {
	e := r.e
	defer r.call()()
	e.reach(c.Key, false)
	e.mu.Lock()
	defer e.mu.Unlock()
	if r.lost {
		return 0, engine.ErrLeaseLost
	}
	if w, ok := r.waits[c.Seq]; ok {
		return w.Child, nil
	}
	parent := r
	if c.Detach {
		parent = nil
	}
	def, fake := e.defs[c.Workflow], e.fakeRuns[c.Workflow]
	if def == nil && fake == nil {
		return 0, &engine.ParkError{Reason: "child", Err: fmt.Errorf("workflowtest: no definition and no fake of workflow %s, which %s calls", c.Workflow, c.Key)}
	}
	child := e.add(def, parent, c.Input)
	r.waits[c.Seq] = wait{Wait: engine.Wait{Seq: c.Seq, Key: c.Key, Left: -1, Child: int64(child.id)}}
	if fake != nil {
		e.mu.Unlock()
		out, err := fake(c.Input)
		e.mu.Lock()
		end := engine.End{Kind: engine.Completed, Output: out}
		if err != nil {
			text, merr := json.Marshal(&workflow.RecordedError{Message: err.Error(), Type: fmt.Sprintf("%T", err)})
			if merr != nil {
				return 0, merr
			}
			end = engine.End{Kind: engine.Failed, Error: text}
		}
		child.status = over
		child.finish(end)
	}
	return int64(child.id), nil
}

// Shown implements engine.Host.
func (r *memRun) Shown(context.Context) (engine.Place, error) {
	r.e.mu.Lock()
	defer r.e.mu.Unlock()
	return r.shown, nil
}

// Late implements engine.Host.
func (r *memRun) Late(context.Context) (bool, error) {
	r.e.mu.Lock()
	defer r.e.mu.Unlock()
	return r.late, nil
}

// Look implements engine.Host.
func (r *memRun) Look(_ context.Context, after int64, children []int64) (n engine.News, err error) {
	e := r.e
	defer r.call()()
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, s := range r.signals {
		if s.ID > after && !s.by {
			n.Signals = append(n.Signals, s.Signal)
		}
	}
	for _, id := range children {
		if c := e.runs[id-1]; c.end.Kind != 0 {
			n.Children = append(n.Children, engine.ChildEnd{Run: id, Kind: c.end.Kind, Output: c.end.Output, Error: c.end.Error})
		}
	}
	return n, nil
}
