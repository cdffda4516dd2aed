package workflowtest

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/stepward/stepward/internal/engine"
	"github.com/stepward/stepward/workflow"
)

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
		before := r.attempts[f.Seq]
		if before.Key != f.Key {
			before = engine.Attempts{}
		}
		a := engine.Attempts{Key: f.Key, Last: f.Attempt, Failed: before.Failed + 1, Details: f.Details}
		if a.Details == nil {
			a.Details = before.Details
		}
		r.attempts[f.Seq] = a
		r.retryAt[f.Seq] = e.clock.Add(f.Delay)
	}
	for _, w := range b.Waits {
		x := wait{Wait: w}
		if w.Left != engine.Never {
			x.until = e.clock.Add(w.Left)
		}
		r.waits[w.Seq] = x
	}
	for _, seq := range b.Dropped {
		delete(r.waits, seq)
	}
	for _, s := range b.Received {
		r.signals[s.ID-1].by = true
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
	r.end, r.ended = end, r.e.clock
	if r.status != active {
		r.status = over
	}
	r.e.timers = slices.DeleteFunc(r.e.timers, func(t *timer) bool { return t == r.deadline })
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
		return max(w.Child, -w.Child), nil
	}
	parent := r
	if c.Detach {
		parent = nil
	} else if r.depth() >= engine.MaxDepth {
		return 0, engine.TooDeep(r.def.Workflow, c.Workflow)
	}
	def, fake := e.defs[c.Workflow], e.fakeRuns[c.Workflow]
	if def == nil && fake == nil {
		return 0, &engine.ParkError{Reason: "child", Err: fmt.Errorf("workflowtest: no definition and no fake of workflow %s, which %s calls", c.Workflow, c.Key)}
	}
	child, earlier := e.keys[c.Unique]
	switch {
	case !earlier:
		child = e.add(def, parent, c.Input)
		child.workflow, child.options = c.Workflow, c.Options
		child.options.Priority = cmp.Or(c.Options.Priority, r.options.Priority)
		child.tag(c.Options.Attributes)
		if c.Unique != "" {
			e.keys[c.Unique] = child
		}
		if c.Options.Timeout > 0 {
			e.limit(child, c.Options.Timeout)
		}
	case child.workflow != c.Workflow || !bytes.Equal(child.first, c.Input):
		err := &workflow.KeyConflictError{Key: c.Unique, Run: child.id}
		return 0, &engine.Fault{Kind: "conflict", Message: err.Error(), Type: fmt.Sprintf("%T", err), Permanent: true}
	}
	w := engine.Wait{Seq: c.Seq, Key: c.Key, Left: engine.Never, Child: int64(child.id)}
	if c.Detach { // as in Postgres
		w.Child = -w.Child
	}
	r.waits[c.Seq] = wait{Wait: w}
	if fake != nil && !earlier {
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
func (r *memRun) Look(_ context.Context, after map[string]int64, children []int64) (n engine.News, err error) {
	e := r.e
	defer r.call()()
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, s := range r.signals {
		if last, ok := after[s.Name]; ok && s.ID > last && !s.by {
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
