package workflow

import (
	"fmt"

	"github.com/stepward/stepward/internal/engine"
)

// A Future is the result of a step that was started.
type Future[Out any] struct{ f *future }

// Get waits for the step. Its errors are those of [Step.Run].
func (f *Future[Out]) Get(ctx Context) (Out, error) {
	t := ctx.turn()
	t.enter()
	t.await(func() bool { return f.f.done })
	out, err := result[Out](t, f.f)
	t.mu.Unlock()
	return out, err
}

// result decodes what a future resolved to. A recorded output that no longer
// decodes parks the run: a deploy can cure it. The turn is locked.
func result[Out any](t *turn, f *future) (Out, error) {
	var out Out
	if f.err != nil {
		return out, f.err
	}
	if err := decode("output of step "+f.key, f.output, &out); err != nil {
		t.park("undecodable", err)
	}
	return out, nil
}

// MapOptions configures [Map].
type MapOptions struct {
	// Limit is how many items run at once. Defaults to 8.
	Limit int
}

// Map executes a step for every item and returns the outputs in the order of
// the items. Once one has failed no further item starts; those that run are
// waited for; then Map returns the error of the failed item with the lowest
// index, a *[StepError] whose Step names it, and the outputs that there are.
func Map[In, Out any](ctx Context, items []In, s *Step[In, Out], o MapOptions) ([]Out, error) {
	if o.Limit <= 0 {
		o.Limit = 8
	}
	t := ctx.turn()
	t.enter()
	name := t.occurrence(s.core.Name)
	g := &group{}
	fs := make([]*future, len(items))
	for i, item := range items {
		fs[i] = t.reserve(s.core, fmt.Sprintf("%s[%d]", name, i), item)
		fs[i].group = g
		if fs[i].done { // its input was refused
			g.failed++
		}
	}
	next := 0
	for ; next < len(fs); next++ {
		t.await(func() bool { return g.active < o.Limit || g.failed > 0 })
		if g.failed > 0 {
			break
		}
		g.active++
		t.start(fs[next])
	}
	t.await(func() bool { return g.active == 0 })
	for _, f := range fs[next:] { // never started, here or in an earlier turn
		delete(t.recorded, f.seq)
	}
	outs := make([]Out, len(items))
	var failed error
	for i, f := range fs {
		if !f.done {
			continue
		}
		out, err := result[Out](t, f)
		if err != nil && failed == nil {
			failed = err
		}
		outs[i] = out
	}
	t.mu.Unlock()
	return outs, failed
}

// group counts the futures of one Map.
type group struct{ active, failed int }

// A future is a step at one place of a run.
type future struct {
	step  *engine.Step
	seq   int
	key   string
	input []byte
	hash  uint64
	group *group

	done    bool
	attempt int
	output  []byte
	err     error
}

// resolve ends the future. The turn is locked.
func (f *future) resolve(attempt int, output []byte, err error) {
	f.done, f.attempt, f.output, f.err, f.input = true, attempt, output, err, nil
	if f.group != nil {
		f.group.active--
		if err != nil {
			f.group.failed++
		}
	}
}
