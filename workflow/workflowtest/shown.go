package workflowtest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/stepward/stepward/internal/engine"
	"github.com/stepward/stepward/workflow"
)

// Progress returns the value that the run that was executed last has set last,
// and when; the zero time when it has set none. The error is a
// *[workflow.ValueError].
func Progress[T any](e *Env, p workflow.Progress[T]) (v T, at time.Time, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.root == nil {
		return v, at, nil
	}
	stored, ok := e.root.progress[p.Name]
	if !ok {
		return v, at, nil
	}
	if err := json.Unmarshal(stored.value, &v); err != nil {
		return v, at, &workflow.ValueError{Kind: "decode", What: "progress " + p.Name, Err: err}
	}
	return v, stored.at, nil
}

// Entries returns what the run that was executed last has appended to a stream.
// The error is a *[workflow.ValueError], of the first entry that is not
// returned.
func Entries[T any](e *Env, s workflow.Stream[T]) (entries []workflow.StreamEntry[T], err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.root == nil {
		return nil, nil
	}
	for i, stored := range e.root.entries {
		if stored.Stream != s.Name {
			continue
		}
		out := workflow.StreamEntry[T]{Offset: int64(i + 1), At: stored.at, Step: stored.Step, Attempt: stored.Attempt}
		if err := json.Unmarshal(stored.Payload, &out.Value); err != nil {
			return entries, &workflow.ValueError{Kind: "decode", What: fmt.Sprintf("entry %d of stream %s", out.Offset, s.Name), Err: err}
		}
		entries = append(entries, out)
	}
	return entries, nil
}

// setting is a value of progress.
type setting struct {
	at    time.Time
	value []byte
}

// appended is an entry of a stream.
type appended struct {
	at time.Time
	engine.Entry
}

// shows keeps what a commit shows.
func (r *memRun) shows(b engine.Batch) {
	for _, p := range b.Progress {
		if r.progress == nil {
			r.progress = make(map[string]setting)
		}
		r.progress[p.Name] = setting{r.e.clock, p.Value}
	}
	r.tag(b.Attributes)
	for _, x := range b.Entries {
		x.Payload = bytes.Clone(x.Payload)
		r.entries = append(r.entries, appended{r.e.clock, x})
	}
}

// outlet takes what the function of a step shows.
type outlet struct {
	r    *memRun
	a    engine.Attempt
	over bool // with the Env locked
}

// Append implements engine.Outlet.
func (o *outlet) Append(_ context.Context, stream string, payload []byte) error {
	return o.show(engine.Batch{Entries: []engine.Entry{{Stream: stream, Step: o.a.Key, Attempt: o.a.Number, Payload: payload}}})
}

// Progress implements engine.Outlet.
func (o *outlet) Progress(name string, value []byte) error {
	return o.show(engine.Batch{Progress: []engine.Progress{{Name: name, Value: value}}})
}

func (o *outlet) show(b engine.Batch) error {
	o.r.e.mu.Lock()
	defer o.r.e.mu.Unlock()
	switch {
	case o.over:
		return fmt.Errorf("workflowtest: attempt %d of step %s has ended", o.a.Number, o.a.Key)
	case o.r.lost:
		return engine.ErrLeaseLost
	}
	o.r.shows(b)
	return nil
}
