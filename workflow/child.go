package workflow

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/stepward/stepward/internal/engine"
)

// Run executes another workflow as a child of this run and waits for its output.
// The error is a *[StepError] with what the child failed with, or wraps
// [ErrCanceled].
func (w DurableWorkflow[In, Out]) Run(ctx Context, in In) (Out, error) {
	return w.Go(ctx, in).Get(ctx)
}

// Go starts a child run and returns without waiting for it. The child has the
// tenant and the priority of this run; a limit, a timeout and attributes it has
// none. A run waits for its children before it completes; when the
// Context is canceled, so are they.
//
// Children nest 100 deep: the call that would start one below that adds nothing,
// and its error is a *[StepError] with a *[RecordedError] of kind "depth". So
// workflows that start each other in a cycle come to an end. A run that begins
// anew is as deep as before.
func (w DurableWorkflow[In, Out]) Go(ctx Context, in In) *Future[Out] {
	return &Future[Out]{startChild(ctx, w.Name, in, false)}
}

// Start starts a run that nobody waits for: it goes on whatever becomes of this
// one, from which it has what a child has. When it returns, the run is durable.
// It is no deeper than a run that a client has enqueued, so nothing ends workflows
// that start each other in a cycle without waiting: to go on for ever, one at a
// time, is what some are for.
func (w DurableWorkflow[In, Out]) Start(ctx Context, in In) (RunID, error) {
	f := startChild(ctx, w.Name, in, true)
	return (&Future[RunID]{f}).Get(ctx)
}

// ContinueAsNew makes an error for a body to return: the run begins anew with
// another input and nothing on record, once what it has started is over, as at
// its end. For what goes on for ever, so that its history does not. A body of
// another workflow that returns it fails with a *[DefinitionError].
func (w DurableWorkflow[In, Out]) ContinueAsNew(in In) error {
	return &continueError{w.Name, in}
}

type continueError struct {
	workflow string
	input    any
}

func (e *continueError) Error() string {
	return fmt.Sprintf("workflow: %s continues as new", e.workflow)
}

func startChild(ctx Context, name string, in any, detach bool) *future {
	b, s := ctx.at()
	b.enter()
	f := b.reserve(s, b.occurrence(keyChild+name))
	if !validName.MatchString(name) {
		b.t.resolve(f, nil, &StepError{Step: f.key, Err: &DefinitionError{Workflow: name, Reason: "bad name: " + nameRule}})
		return f
	}
	b.passes(f, "input of "+f.key, in)
	f.wait = &engine.Wait{Seq: f.seq, Key: f.key, Left: -1, Child: -1}
	f.written = true // Host.Child does that
	b.t.launch(f, func() { f.child(name, detach) })
	return f
}

// child adds the child run, unless an earlier turn did.
func (f *future) child(name string, detach bool) {
	t := f.t
	switch {
	case detach && (f.wait.Child > 0 || f.wait.Child < -1):
		f.started(max(f.wait.Child, -f.wait.Child))
		return
	case f.wait.Child > 0:
		f.listen()
		return
	}
	c := engine.Child{Seq: f.seq, Key: f.key, Workflow: name, Input: f.input, Detach: detach}
	t.attempts++
	t.begun++
	t.starting++
	t.group.Go(func() {
		id, err := t.in.Host.Child(t.ctx, c)
		t.inbox.post(func() {
			t.attempts--
			t.starting--
			fault, impossible := errors.AsType[*engine.Fault](err)
			switch {
			case err != nil && t.ctx.Err() != nil:
				return
			case impossible:
				if f.written = false; !f.done {
					t.settle(f, f.checkpoint(nil, record(fault)))
				}
				return
			case err != nil:
				t.leave(refused(err))
				return
			}
			switch {
			case f.done: // it was canceled meanwhile
				t.pending.Dropped = append(t.pending.Dropped, f.seq)
				if !detach {
					t.pending.Cancel = append(t.pending.Cancel, id)
				}
			case detach:
				f.started(id)
			default:
				f.wait.Child = id
				f.listen()
			}
		})
	})
}

// started hands over the id of a run that nobody waits for.
func (f *future) started(id int64) {
	out, err := json.Marshal(RunID(id))
	if err != nil {
		f.t.park("undecodable", err)
		return
	}
	f.t.settle(f, f.checkpoint(out, nil))
}

// ended makes the record of the end of a child, whose result has been opened.
func (f *future) ended(c engine.ChildEnd) *engine.Checkpoint {
	switch c.Kind {
	case engine.Completed:
		return f.checkpoint(c.Output, nil)
	case engine.Canceled:
		return f.checkpoint(nil, &RecordedError{Message: fmt.Sprintf("%v was canceled", RunID(c.Run)), Kind: "canceled"})
	default:
		return f.checkpoint(nil, decodeError(c.Error))
	}
}
