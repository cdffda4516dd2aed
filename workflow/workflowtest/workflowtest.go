// Package workflowtest runs workflows in unit tests, in memory: no Postgres, no
// worker, no sandbox.
package workflowtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"github.com/stepward/stepward/internal/engine"
	"github.com/stepward/stepward/workflow"
)

// ErrToolStep reports a tool step: it needs a real sandbox, which a unit test
// does not have.
var ErrToolStep = errors.New("workflowtest: a tool step cannot run without a sandbox")

// ErrTxStep reports a step in a transaction: it needs a real database.
var ErrTxStep = errors.New("workflowtest: a step in a transaction cannot run without a database")

// ErrStuck reports a run that waits for what nobody sends.
var ErrStuck = errors.New("workflowtest: the run waits for a signal without a timeout")

// run is the id of every run here.
const run = workflow.RunID(1)

// Run executes a run of the workflow to its end and returns its output. Every
// step's function runs in this process, whatever its mode; waits take no
// time; the Timeout of a step holds. The input, the outputs and
// the errors of steps pass through their encodings as they do in production.
//
// The error is a *[workflow.RunError] when the run failed, and another one when
// the definition is wrong or the run would have parked.
func Run[In, Out any](w workflow.DurableWorkflow[In, Out], d *workflow.Definition, in In) (Out, error) {
	var out Out
	def := d.Engine()
	if def.Workflow != w.Name {
		return out, fmt.Errorf("workflowtest: the definition is of %s, not of %s", def.Workflow, w.Name)
	}
	if err := errors.Join(def.Errs...); err != nil {
		return out, err
	}
	input, err := json.Marshal(in)
	if err != nil {
		return out, &workflow.EncodeError{What: "input of workflow " + w.Name, Err: err}
	}
	if len(input) > workflow.MaxBytesDefault {
		return out, &workflow.SizeError{What: "input of workflow " + w.Name, Bytes: len(input), Limit: workflow.MaxBytesDefault}
	}
	h := &host{clock: time.Now(), recorded: make(map[int]engine.Checkpoint), failed: make(map[int]engine.Attempts), waits: make(map[int]waiting)}
	for epoch := 1; ; epoch++ {
		end := def.Run(context.Background(), h.turn(epoch, input))
		switch end.Kind {
		case engine.Timer: // a wait is over at once
			if end.Delay < 0 {
				return out, ErrStuck
			}
			h.clock = h.clock.Add(end.Delay)
		case engine.Renewed:
			input = end.Output
			h.recorded, h.failed, h.waits = make(map[int]engine.Checkpoint), make(map[int]engine.Attempts), make(map[int]waiting)
		case engine.Completed:
			return out, json.Unmarshal(end.Output, &out)
		case engine.Failed:
			recorded := new(workflow.RecordedError)
			if err := json.Unmarshal(end.Error, recorded); err != nil {
				return out, err
			}
			return out, &workflow.RunError{Run: run, Err: recorded}
		default:
			return out, fmt.Errorf("workflowtest: the run would park (%s): %w", end.Reason, end.Err)
		}
	}
}

// host keeps in memory what a worker keeps in Postgres.
type host struct {
	mu       sync.Mutex
	recorded map[int]engine.Checkpoint
	failed   map[int]engine.Attempts
	waits    map[int]waiting
	clock    time.Time // of the run: it leaps over waits
}

type waiting struct {
	wait  engine.Wait
	until time.Time // zero: no time ends it
}

func (h *host) now() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.clock
}

func (h *host) turn(epoch int, input []byte) engine.Turn {
	h.mu.Lock()
	defer h.mu.Unlock()
	t := engine.Turn{Run: int64(run), Epoch: epoch, Seed: int64(run), Input: input, MaxBytes: workflow.MaxBytesDefault, Host: h, Logger: slog.Default(),
		Attempts: make(map[int]engine.Attempts), Waits: make(map[int]engine.Wait), Now: h.now}
	for _, c := range h.recorded {
		t.Steps = append(t.Steps, c)
	}
	for seq, a := range h.failed {
		t.Attempts[seq] = a
	}
	for seq, w := range h.waits {
		if w.wait.Left = -1; !w.until.IsZero() {
			w.wait.Left = max(w.until.Sub(h.clock), 0)
		}
		t.Waits[seq] = w.wait
	}
	return t
}

// Attempt implements engine.Host.
func (h *host) Attempt(ctx context.Context, a engine.Attempt) (out engine.Outcome, err error) {
	switch {
	case a.Step.Tool:
		return out, &engine.ParkError{Reason: "no_backend", Err: fmt.Errorf("step %s: %w", a.Key, ErrToolStep)}
	case a.Step.CallTx != nil:
		return out, &engine.ParkError{Reason: "no_database", Err: fmt.Errorf("step %s: %w", a.Key, ErrTxStep)}
	}
	if a.Step.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, a.Step.Timeout)
		defer cancel()
	}
	out.Output, err = inline(engine.WithAttempt(ctx, a), a)
	if err != nil && ctx.Err() != nil {
		err = &engine.Fault{Kind: "timeout", Message: fmt.Sprintf("attempt took longer than %v: %v", a.Step.Timeout, err), Type: fmt.Sprintf("%T", err), Err: workflow.ErrTimeout}
	}
	return out, err
}

// leniency is how long a function may go on after its context is done.
const leniency = time.Second

// inline calls the function on a goroutine of its own, as a worker does: it may
// panic, end its goroutine (FailNow of a test does) or ignore its context.
func inline(ctx context.Context, a engine.Attempt) ([]byte, error) {
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
		out, err := a.Step.Call(ctx, a.Input)
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
func (h *host) Write(_ context.Context, b engine.Batch) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, c := range b.Checkpoints {
		c.Started = time.Time{}
		h.recorded[c.Seq] = c
	}
	for _, f := range b.Failures {
		h.failed[f.Seq] = engine.Attempts{Last: f.Attempt, Failed: h.failed[f.Seq].Failed + 1}
	}
	for _, w := range b.Waits {
		x := waiting{wait: w}
		if w.Left >= 0 {
			x.until = h.clock.Add(w.Left)
		}
		h.waits[w.Seq] = x
	}
	for _, seq := range b.Dropped {
		delete(h.waits, seq)
	}
	return nil
}

// Child implements engine.Host.
func (h *host) Child(_ context.Context, c engine.Child) (int64, error) {
	return 0, &engine.ParkError{Reason: "child", Err: fmt.Errorf("workflowtest: child runs are not supported: %s", c.Key)}
}

// Shown implements engine.Host. What a run shows goes nowhere here.
func (h *host) Shown(context.Context) (engine.Place, error) { return engine.Place{}, nil }

// Look implements engine.Host.
func (h *host) Look(context.Context, int64, []int64) (engine.News, error) {
	return engine.News{}, nil
}

// Replay compares a definition with the recorded history of a run, as
// [workflow.Client.Export] writes it: no step is executed. Keep histories of real
// runs beside the code, and let a test replay each: it fails when a deploy would
// park such a run. The errors are those of [workflow.Client.Replay], and a
// *[workflow.DecodeError] for what is no history.
func Replay(d *workflow.Definition, history []byte) error { return d.Engine().Replay(history) }
