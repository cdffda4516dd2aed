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

// With returns the workflow with options for the runs that a body starts by it,
// with Run, Go and Start:
//
//	site, err := Portfolio.With(workflow.EnqueueOptions{Timeout: time.Hour}).Run(ctx, brief)
//
// Such a run has the tenant of the one that starts it: a Tenant is refused. A
// Priority of 0 is that of the other. A Timeout counts from the start; what it ends
// is an error that wraps [ErrTimeout]. Key is for Start, which then returns the
// run that has the key, if it has the same workflow and input, and otherwise an
// error of kind "conflict"; Run and Go refuse one, as the place of the call in the
// body already makes the child one. What is refused is a *[StepError] with an
// *[OptionError], and starts nothing. Options are not part of what a replay compares.
//
// It is for no other use: enqueues and schedules have options of their own, and
// refuse such a value with an *[OptionError].
func (w DurableWorkflow[In, Out]) With(o EnqueueOptions) DurableWorkflow[In, Out] {
	w.child = &o
	return w
}

// plain returns an error if the workflow has the options of children.
func (w DurableWorkflow[In, Out]) plain() error {
	if w.child == nil {
		return nil
	}
	return &OptionError{Option: "DurableWorkflow.With", Reason: "its options are for the runs that a body starts, with Run, Go and Start"}
}

// Go starts a child run and returns without waiting for it. The child has the
// tenant and the priority of this run, and otherwise what With says. A run waits for its children before it completes; when the
// Context is canceled, so are they.
//
// Children nest 100 deep: the call that would start one below that adds nothing,
// and its error is a *[StepError] with a *[RecordedError] of kind "depth". So
// workflows that start each other in a cycle come to an end. A run that begins
// anew is as deep as before.
func (w DurableWorkflow[In, Out]) Go(ctx Context, in In) *Future[Out] {
	return &Future[Out]{startChild(ctx, w.Name, w.child, in, false)}
}

// Start starts a run that nobody waits for: it goes on whatever becomes of this
// one, from which it has what a child has. When it returns, the run is durable.
// It is no deeper than a run that a client has enqueued, so nothing ends workflows
// that start each other in a cycle without waiting: to go on for ever, one at a
// time, is what some are for.
func (w DurableWorkflow[In, Out]) Start(ctx Context, in In) (RunID, error) {
	f := startChild(ctx, w.Name, w.child, in, true)
	return (&Future[RunID]{f}).Get(ctx)
}

// ContinueAsNew makes an error for a body to return: the run begins anew with
// another input and nothing on record, once what it has started is over, as at
// its end. For what goes on for ever, so that its history does not. A body of
// another workflow that returns it fails with a *[DefinitionError], and so does one
// whose cleanup does.
func (w DurableWorkflow[In, Out]) ContinueAsNew(in In) error {
	if err := w.plain(); err != nil {
		return err
	}
	return &continueError{w.Name, in}
}

type continueError struct {
	workflow string
	input    any
}

func (e *continueError) Error() string {
	return fmt.Sprintf("workflow: %s continues as new", e.workflow)
}

func startChild(ctx Context, name string, o *EnqueueOptions, in any, detach bool) *future {
	b, s := caller(ctx)
	b.enter()
	f := b.reserve(s, b.occurrence(keyChild+name))
	if !validName.MatchString(name) {
		b.t.resolve(f, nil, &StepError{Step: f.key, Err: &DefinitionError{Workflow: name, Reason: "bad name: " + nameRule}})
		return f
	}
	c := engine.Child{Seq: f.seq, Key: f.key, Workflow: name, Detach: detach}
	if err := o.give(&c); err != nil {
		b.t.resolve(f, nil, &StepError{Step: f.key, Err: err})
		return f
	}
	b.passes(f, "input of "+f.key, in)
	f.wait = &engine.Wait{Seq: f.seq, Key: f.key, Left: engine.Never, Child: -1}
	b.t.launch(f, func() { f.child(c) })
	return f
}

// give checks the options of a child, and gives them to it.
func (o *EnqueueOptions) give(c *engine.Child) (err error) {
	switch {
	case o == nil:
		return nil
	case o.Tenant != "":
		return &OptionError{Option: "EnqueueOptions.Tenant", Reason: "a run that a body starts has the tenant of its run"}
	case o.Key != "" && !c.Detach:
		return &OptionError{Option: "EnqueueOptions.Key", Reason: "is for Start: a child that is waited for is known by its place in the body"}
	}
	if err := checkText("EnqueueOptions.Key", o.Key); err != nil {
		return err
	}
	c.Unique = o.Key
	c.Options, err = o.encode("EnqueueOptions")
	return err
}

// child adds the child run, unless an earlier turn did.
func (f *future) child(c engine.Child) {
	t, detach := f.t, c.Detach
	c.Input = f.input
	switch {
	case detach && (f.wait.Child > 0 || f.wait.Child < -1):
		f.started(max(f.wait.Child, -f.wait.Child))
		return
	case f.wait.Child > 0:
		f.listen()
		return
	}
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
				if !f.done {
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
				f.written = true
				f.started(id)
			default:
				f.wait.Child, f.written = id, true
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
