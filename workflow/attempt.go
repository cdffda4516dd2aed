package workflow

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/stepward/stepward/internal/engine"
)

// call reserves a call of a step.
func (b *branch) call(s *scope, step *engine.Step, key string, in any) *future {
	f := b.reserve(s, key)
	f.step = step
	if step.Deadline > 0 {
		f.wait = &engine.Wait{Seq: f.seq, Key: key, Left: step.Deadline}
	}
	if b.t.steps[step.Name] != step {
		b.park("undeclared_step", &DefinitionError{Workflow: b.t.def.Workflow, Step: step.Name, Reason: fmt.Sprintf("the body of version %q calls it, and Options.Steps does not list it", b.t.def.Version)})
	}
	if f.attempts = b.t.in.Attempts[f.seq]; f.attempts.Key != key {
		f.attempts = engine.Attempts{Last: f.attempts.Last} // the number is taken
	}
	b.passes(f, "input of step "+key, in)
	return f
}

// begin starts the first attempt of this turn, after what is left of the wait.
func (f *future) begin() {
	t := f.t
	if mode := Mode(f.step.Mode); !mode.supported() {
		t.park("mode", &DefinitionError{Workflow: t.def.Workflow, Step: f.step.Name, Reason: fmt.Sprintf("mode %v cannot be executed yet", mode)})
		return
	}
	if f.wait != nil {
		f.deadline = t.in.Now().Add(f.wait.Left)
		if f.attempts.Wait >= f.wait.Left {
			t.settle(f, f.overdue(f.checkpoint(nil, nil), nil))
			return
		}
	}
	if f.attempts.Wait > 0 {
		t.arm(f, f.attempts.Wait)
		return
	}
	f.try()
}

// errOverdue is the cause of an attempt's end when its step's deadline passes.
var errOverdue = errors.New("workflow: the step's deadline has passed")

// overdue makes the checkpoint of a step whose deadline has passed, or would
// before another attempt; err is what the last attempt ended with.
func (f *future) overdue(c *engine.Checkpoint, err error) *engine.Checkpoint {
	e := &RecordedError{Message: fmt.Sprintf("the step did not succeed within %v", f.step.Deadline), Kind: "timeout", Permanent: true}
	if err != nil {
		e.Message, e.Type = e.Message+": "+err.Error(), fmt.Sprintf("%T", err)
	}
	c.Mode, c.Attempt, c.Output, c.Error = f.step.Mode, f.attempts.Last, nil, e.encode()
	return c
}

// try executes one attempt on a goroutine of its own.
func (f *future) try() {
	t := f.t
	sandbox, began := f.attempts.Sandbox, f.attempts.Began
	if sandbox == "" {
		f.attempts.Last++
	}
	f.attempts.Wait, f.attempts.Sandbox = 0, ""
	number, failed, input, details := f.attempts.Last, f.attempts.Failed, f.input, f.attempts.Details
	ctx, cancel := context.WithCancelCause(t.ctx)
	f.cancel = cancel
	t.attempts++
	t.begun++
	t.group.Go(func() {
		defer cancel(nil)
		ctx := ctx
		if f.wait != nil {
			var done context.CancelFunc
			ctx, done = context.WithTimeoutCause(ctx, f.deadline.Sub(t.in.Now()), errOverdue) // on a clock of a test, too
			defer done()
		}
		started := t.in.Now()
		if sandbox != "" {
			started = began
		}
		out, err := t.in.Host.Attempt(ctx, engine.Attempt{
			Step: f.step, Run: t.in.Run, Seq: f.seq, Key: f.key, Number: number, Unique: t.unique(f.key), Input: input, Details: details, Sandbox: sandbox, Began: began,
		})
		c := &engine.Checkpoint{Seq: f.seq, Key: f.key, Mode: f.step.Mode, Attempt: number, InputHash: f.hash,
			Started: started, Elapsed: t.in.Now().Sub(started), Output: out.Output}
		if err == nil && t.in.MaxBytes > 0 && len(out.Output) > t.in.MaxBytes {
			err = &ValueError{Kind: "size", What: "output of step " + f.key, Bytes: len(out.Output), Limit: t.in.MaxBytes}
			out.Drop(context.WithoutCancel(ctx))
			out = engine.Outcome{Details: out.Details}
		}
		post := func() { t.succeed(f, c, out, failed) }
		if err != nil {
			post = f.fail(ctx, c, failed, out.Details, err)
		}
		t.inbox.post(func() {
			t.attempts--
			f.cancel = nil
			if post != nil && !f.done {
				post()
			} else {
				out.Drop(context.WithoutCancel(ctx))
			}
		})
	})
}

// succeed records what an attempt came to. A step in a transaction is committed
// here, where its place among the results is known: all before it is durable
// then, and nothing is handed over meanwhile.
func (t *turn) succeed(f *future, c *engine.Checkpoint, out engine.Outcome, failed int) {
	t.pending.Progress = append(t.pending.Progress, out.Progress...)
	if out.Commit == nil {
		t.settle(f, c)
		return
	}
	ctx := context.WithoutCancel(t.ctx)
	if t.left == nil && !t.pending.Empty() {
		t.flush(ctx)
	}
	if t.left != nil {
		out.Drop(ctx)
		return
	}
	c.Done = t.done + 1
	err := out.Commit(ctx, *c)
	if err == nil {
		t.done++
		t.resulted(f)
		t.shows.handed = t.done
		f.attempt = c.Attempt
		t.resolve(f, c.Output, nil)
		return
	}
	c.Output = nil
	f.fail(ctx, c, failed, out.Details, err)()
}

// fail returns what the turn has to do about an attempt that did not succeed. A
// failure that is to be repeated is durable when it returns.
func (f *future) fail(ctx context.Context, c *engine.Checkpoint, failed int, details []byte, err error) func() {
	t := f.t
	var park *engine.ParkError
	switch {
	case errors.Is(context.Cause(ctx), errOverdue):
		return func() { t.settle(f, f.overdue(c, err)) }
	case ctx.Err() != nil: // interrupted: neither a success nor a failure
		return nil
	case errors.As(err, &park) && engine.Passing(park.Reason):
		return func() { t.stuck = new(parked(park.Reason, park.Err)) }
	case errors.As(err, &park):
		return func() { t.park(park.Reason, park.Err) }
	case errors.Is(err, engine.ErrLeaseLost):
		return func() { t.leave(engine.End{Kind: engine.Lost, Err: err}) }
	}
	fault, _ := errors.AsType[*engine.Fault](err)
	orphan := fault != nil && fault.Orphan
	if fault != nil && fault.Kind == "sandbox" {
		err = f.step.Lost(fault)
	}
	if !orphan {
		failed++
	}
	rec := record(err)
	if fault != nil && !f.step.Again(fault) {
		rec.Permanent = true
	}
	c.Output = nil
	if rec.Permanent || failed >= f.step.MaxAttempts {
		c.Error = rec.encode()
		return func() { t.settle(f, c) }
	}
	wait, ok := suggested(err)
	if !ok && !orphan {
		wait = f.step.Delay(failed)
	}
	if f.wait != nil && !t.in.Now().Add(wait).Before(f.deadline) {
		return func() { t.settle(f, f.overdue(c, err)) }
	}
	err = t.in.Host.Write(context.WithoutCancel(ctx), engine.Batch{Failures: []engine.Failure{{
		Seq: f.seq, Key: f.key, Mode: f.step.Mode, Attempt: c.Attempt, Started: c.Started, Elapsed: c.Elapsed, Error: rec.encode(), Delay: wait, Orphan: orphan, Details: details,
	}}})
	if err != nil {
		return func() { t.leave(refused(err)) }
	}
	return func() {
		if details == nil {
			details = f.attempts.Details
		}
		f.attempts = engine.Attempts{Last: c.Attempt, Failed: failed, Wait: wait, Details: details}
		t.arm(f, wait)
	}
}

// arm keeps a future until its time has come; engine.Never: until news end it.
func (t *turn) arm(f *future, left time.Duration) {
	f.armedAt, f.due = t.in.Now(), time.Time{}
	if left != engine.Never {
		f.due = f.armedAt.Add(left)
	}
	t.armed = append(t.armed, f)
}

// fire is called when the time of an armed future has come.
func (t *turn) fire(f *future) {
	for i, a := range t.armed {
		if a == f {
			t.armed = append(t.armed[:i], t.armed[i+1:]...)
			break
		}
	}
	switch {
	case f.step != nil:
		f.try()
	case waitsForOthers(f.wait):
		t.settle(f, f.checkpoint(nil, &RecordedError{Message: "nothing arrived in time", Kind: "timeout"}))
	default:
		t.settle(f, f.checkpoint(nil, nil))
	}
}

// unique makes the idempotency key of a step. A run that is a fork, or that has begun
// anew, has its seed in it.
func (t *turn) unique(key string) string {
	if t.in.Seed != t.in.Run {
		return fmt.Sprintf("%v.%x/%s", RunID(t.in.Run), t.in.Seed, key)
	}
	return fmt.Sprintf("%v/%s", RunID(t.in.Run), key)
}
