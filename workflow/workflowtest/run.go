package workflowtest

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"time"

	"github.com/stepward/stepward/internal/engine"
	"github.com/stepward/stepward/workflow"
)

// memRun is a run, with what a worker keeps in Postgres of it. Its methods for the
// engine lock the Env; the others are called with that locked.
type memRun struct {
	e        *Env
	id       workflow.RunID
	def      *engine.Definition
	workflow string
	began    time.Time // when it was started
	ended    time.Time
	options  engine.Options
	tags     map[string]any // attributes: those that it was started with, and what its body has set
	parent   *memRun
	first    []byte // the input that it was started with
	input    []byte
	deadline *timer
	status   int
	until    time.Time
	end      engine.End // once it is over
	epoch    int
	seed     int64
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
	r.seed = int64(r.id)
	r.first, r.began = input, e.clock
	if def != nil {
		r.workflow = def.Workflow
	}
	r.begin(input)
	e.runs = append(e.runs, r)
	return r
}

// depth is how deep the run is nested.
func (r *memRun) depth() (n int) {
	for ; r.parent != nil; r = r.parent {
		n++
	}
	return n
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
	e.runs, e.timers, e.failed, e.keys = nil, nil, nil, make(map[string]*memRun)
	e.root = e.add(def, nil, input)
	for _, s := range e.early {
		e.root.send(s.Name, s.Payload)
	}
	e.early = nil
	if e.timeout > 0 {
		e.limit(e.root, e.timeout)
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

// limit gives a run a deadline.
func (e *Env) limit(r *memRun, d time.Duration) {
	r.deadline = &timer{run: r, until: e.clock.Add(d), fire: r.elapse}
	e.timers = append(e.timers, r.deadline)
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
		Run: int64(r.id), Epoch: r.epoch, Seed: r.seed, Input: r.input, Canceled: r.canceled, News: r.news, Now: e.Now, Idle: r.rests,
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
		if w.Left = engine.Never; !w.until.IsZero() {
			w.Left = w.until.Sub(e.clock)
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
		r.seed = int64(r.epoch)<<32 | int64(r.id) // other chance, and other idempotency keys
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

// Where a run is.
const (
	ready   = iota
	active  // on the worker
	waiting // until a time, or for news
	over
)
