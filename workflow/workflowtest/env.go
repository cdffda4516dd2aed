package workflowtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"runtime/pprof"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stepward/stepward/internal/engine"
	"github.com/stepward/stepward/internal/history"
	"github.com/stepward/stepward/workflow"
)

// An Env is a worker and a database in memory, with a clock of its own, for the
// runs of one test. The turns are those of production: only what a worker asks of
// Postgres and of the machine's clock is replaced.
//
// The clock stands still while anything can be done, and leaps to the next time
// that somebody waits for when nothing can: a year of sleeping takes no time. A
// step's function takes no time on it either, whatever it does, but by
// [Env.Sleep].
//
// A run leaves the worker at each of its first fifty waits, and its body is
// replayed, so that a body that is not deterministic shows.
type Env struct {
	t     testing.TB
	defs  map[string]*engine.Definition
	label string // of the goroutines

	mu       sync.Mutex
	bell     *sync.Cond
	clock    time.Time
	fakes    map[string]func(context.Context, []byte) ([]byte, error)
	fakeRuns map[string]func([]byte) ([]byte, error)
	points   []*point
	early    []engine.Signal // sent before the run began
	timeout  time.Duration   // of the runs that are executed
	runs     []*memRun
	keys     map[string]*memRun // of runs that bodies started
	root     *memRun
	timers   []*timer
	failed   error
}

// A point is a place in a run where a test does something.
type point struct {
	key   string
	after bool
	fn    func()
}

var envs atomic.Int64

// New makes an Env for workflows and those of their children that are not faked.
// Of several versions of a workflow the last is used. When the test ends, it
// fails if a goroutine of a run is left. In an example t may be nil.
func New(t testing.TB, defs ...*workflow.Definition) *Env {
	e := &Env{
		t: t, defs: make(map[string]*engine.Definition), label: fmt.Sprintf("run-%d", envs.Add(1)),
		clock: time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC),
		fakes: make(map[string]func(context.Context, []byte) ([]byte, error)), fakeRuns: make(map[string]func([]byte) ([]byte, error)),
	}
	e.bell = sync.NewCond(&e.mu)
	for _, d := range defs {
		e.defs[d.Engine().Workflow] = d.Engine()
	}
	if t != nil {
		t.Helper()
		t.Cleanup(e.leaks)
	}
	return e
}

// Execute executes a run to its end and returns its output. The errors are those
// of [Run].
func Execute[In, Out any](e *Env, w workflow.DurableWorkflow[In, Out], in In) (Out, error) {
	var out Out
	def := e.defs[w.Name]
	if def == nil {
		return out, fmt.Errorf("workflowtest: no definition of %s", w.Name)
	}
	if err := errors.Join(def.Errs...); err != nil {
		return out, err
	}
	input, err := encode("input of workflow "+w.Name, in)
	if err != nil {
		return out, err
	}
	var end engine.End
	pprof.Do(context.Background(), pprof.Labels(leakLabel, e.label), func(context.Context) { end, err = e.execute(def, input) })
	if err != nil {
		return out, err
	}
	if end.Kind == engine.Completed {
		return out, json.Unmarshal(end.Output, &out)
	}
	recorded := new(workflow.RecordedError)
	if err := json.Unmarshal(end.Error, recorded); err != nil {
		return out, err
	}
	return out, fmt.Errorf("workflow: %v: %w", e.root.id, recorded)
}

func encode(what string, v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, &workflow.ValueError{Kind: "encode", What: what, Err: err}
	}
	if len(b) > engine.MaxBytesDefault {
		return nil, &workflow.ValueError{Kind: "size", What: what, Bytes: len(b), Limit: engine.MaxBytesDefault}
	}
	return b, nil
}

// Fake puts a function in the place of a step's own, whatever the kind of the
// step.
func Fake[In, Out any](e *Env, s *workflow.Step[In, Out], fn func(context.Context, In) (Out, error)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.fakes[s.Name()] = func(ctx context.Context, input []byte) ([]byte, error) {
		var in In
		if err := json.Unmarshal(input, &in); err != nil {
			return nil, &workflow.ValueError{Kind: "decode", What: "input of step " + s.Name(), Err: err}
		}
		out, err := fn(ctx, in)
		if err != nil {
			return nil, err
		}
		return encode("output of step "+s.Name(), out)
	}
}

// FakeRun puts a function in the place of child runs of a workflow.
func FakeRun[In, Out any](e *Env, w workflow.DurableWorkflow[In, Out], fn func(In) (Out, error)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.fakeRuns[w.Name] = func(input []byte) ([]byte, error) {
		var in In
		if err := json.Unmarshal(input, &in); err != nil {
			return nil, &workflow.ValueError{Kind: "decode", What: "input of workflow " + w.Name, Err: err}
		}
		out, err := fn(in)
		if err != nil {
			return nil, err
		}
		return encode("output of workflow "+w.Name, out)
	}
}

// Send sends a signal to the run that is executed, or that will be. Call it
// before [Execute], or in a function that the Env calls.
func Send[T any](e *Env, s workflow.Signal[T], v T) error {
	payload, err := encode("signal "+s.Name(), v)
	if err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.root == nil || e.root.status == over {
		e.early = append(e.early, engine.Signal{Name: s.Name(), Payload: payload})
		return nil
	}
	e.root.send(s.Name(), payload)
	return nil
}

// Before has fn called once, when a call begins: before an attempt of a step
// executes, a child run is added, or the run begins to wait. The key is that of
// [Env.Record]: "build#2", "signal:approve", "sleep:". Several functions for one key
// are called one at a time, each time that it begins.
func (e *Env) Before(key string, fn func()) { e.at(&point{key, false, fn}) }

// After has fn called once, when the result of a call is on record, before the
// body goes on.
func (e *Env) After(key string, fn func()) { e.at(&point{key, true, fn}) }

func (e *Env) at(p *point) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.points = append(e.points, p)
}

// reach calls the function of a point, if there is one.
func (e *Env) reach(key string, after bool) {
	e.mu.Lock()
	i := slices.IndexFunc(e.points, func(p *point) bool { return p.key == key && p.after == after })
	var fn func()
	if i >= 0 {
		fn = e.points[i].fn
		e.points = slices.Delete(e.points, i, i+1)
	}
	e.mu.Unlock()
	if fn != nil {
		fn()
	}
}

// Crash loses the worker with all that it has not recorded: another one replays
// the runs. In Before, the step has not executed; called by the fake of a step, it
// has, and its result is lost; in After, the result is on record.
func (e *Env) Crash() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, r := range e.runs {
		r.lose()
	}
}

// Cancel cancels the run that is executed, as [workflow.Client.Cancel] does.
func (e *Env) Cancel() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.root != nil {
		e.root.cancel()
	}
}

// Timeout gives the runs that [Execute] executes from now on a deadline, as
// [workflow.EnqueueOptions].Timeout does. 0 is none.
func (e *Env) Timeout(d time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.timeout = d
}

// Now returns the time of the clock. It begins at 2000-01-01, 0:00 UTC.
func (e *Env) Now() time.Time {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.clock
}

// SetNow sets the clock, before a run is executed.
func (e *Env) SetNow(at time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.clock = at
}

// Steps returns what is on record of the run that was executed last, by place and
// attempt, as [workflow.Client.Steps] does. Times are those of the clock.
func (e *Env) Steps() []workflow.StepStatus {
	e.mu.Lock()
	defer e.mu.Unlock()
	var all []workflow.StepStatus
	if e.root == nil {
		return nil
	}
	for _, f := range e.root.failures {
		all = append(all, workflow.StepStatus{Seq: f.Seq, Step: f.Key, Mode: workflow.Mode(f.Mode), Attempt: f.Attempt, Started: f.Started,
			Elapsed: f.Elapsed, Err: recorded(f.Error), RetryAt: f.Started.Add(f.Elapsed + f.Delay)})
	}
	for _, c := range e.root.recorded {
		all = append(all, workflow.StepStatus{Seq: c.Seq, Step: c.Key, Mode: workflow.Mode(c.Mode), Attempt: c.Attempt, Recorded: true, Started: c.Started,
			Elapsed: c.Elapsed, Output: c.Output, Err: recorded(c.Error)})
	}
	slices.SortFunc(all, func(a, b workflow.StepStatus) int {
		if a.Seq != b.Seq {
			return a.Seq - b.Seq
		}
		return a.Attempt - b.Attempt
	})
	return all
}

// recorded returns a recorded error.
func recorded(b []byte) *workflow.RecordedError {
	if b == nil {
		return nil
	}
	rec := new(workflow.RecordedError)
	if err := json.Unmarshal(b, rec); err != nil {
		rec.Message = string(b)
	}
	return rec
}

// Record returns the same as text: a line per result, in program order, with its
// key, the number of the attempt unless it is the first, and the output or error.
func (e *Env) Record() string {
	var b strings.Builder
	for _, s := range e.Steps() {
		b.WriteString(s.Step)
		if s.Attempt > 1 || !s.Recorded {
			fmt.Fprintf(&b, " attempt %d", s.Attempt)
		}
		switch {
		case s.Err != nil:
			fmt.Fprintf(&b, " failed: %s", s.Err.Message)
		case len(s.Output) > 0:
			fmt.Fprintf(&b, " = %s", s.Output)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// History returns the record of the run that was executed last as a document for
// [Replay].
func (e *Env) History() ([]byte, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.root == nil {
		return nil, errors.New("workflowtest: no run was executed")
	}
	r := e.root
	states := map[engine.EndKind]string{engine.Completed: "completed", engine.Failed: "failed", engine.Canceled: "canceled"}
	state, ok := states[r.end.Kind]
	if !ok {
		state = "live"
	}
	h := &history.History{Run: r.id.String(), Workflow: r.def.Workflow, Version: r.def.Version, State: state, Input: r.input, Output: r.end.Output, Error: r.end.Error}
	if r.seed != int64(r.id) {
		h.Origin = workflow.RunID(r.seed).String()
	}
	for _, seq := range slices.Sorted(maps.Keys(r.recorded)) {
		h.Steps = append(h.Steps, r.recorded[seq])
	}
	return h.Marshal()
}

const leakLabel = "workflowtest"

// leaks reports goroutines that runs have started, and that do not end. They
// inherit the label of who started them.
func (e *Env) leaks() {
	e.t.Helper()
	var left string
	for pause := time.Millisecond; pause < time.Second; pause *= 2 {
		if left = e.goroutines(); left == "" {
			return
		}
		time.Sleep(pause)
	}
	e.t.Errorf("workflowtest: goroutines that a run has started do not end:\n%s", left)
}

func (e *Env) goroutines() string {
	var b bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&b, 1); err != nil {
		return ""
	}
	var mine []string
	for _, part := range strings.Split(b.String(), "\n\n") {
		if strings.Contains(part, fmt.Sprintf("%q:%q", leakLabel, e.label)) {
			mine = append(mine, part)
		}
	}
	return strings.Join(mine, "\n\n")
}
