package workflow

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"github.com/stepward/stepward/internal/engine"
)

// settled reports whether a body that has returned has nothing left to wait for.
// Signals and times that no branch can ask for any more, such as what lost a race,
// are given up: but once all else has ended, as a time may limit it, and unless
// what came of them is on record.
func (t *turn) settled() bool {
	if len(t.branches) > 1 {
		return false
	}
	var idle []*future
	for _, f := range t.unresolved {
		_, recorded := t.recorded[f.seq]
		if recorded || f.step != nil || f.wait == nil || f.wait.Child != 0 {
			return false
		}
		idle = append(idle, f)
	}
	slices.SortFunc(idle, func(a, b *future) int { return cmp.Compare(a.seq, b.seq) })
	for _, f := range idle {
		t.abandon(f, ErrCanceled)
	}
	return true
}

// finish writes the end of the run together with its last checkpoints.
func (t *turn) finish(ctx context.Context) {
	var renew *continueError
	end := engine.End{Kind: engine.Completed, Output: t.output}
	switch {
	case t.err == nil:
	case t.late:
		rec := record(t.err)
		rec.Message, rec.Kind = "the run did not end in time: "+rec.Message, "timeout"
		end = engine.End{Kind: engine.Failed, Error: rec.encode(), Err: t.err}
	case t.canceled:
		end = engine.End{Kind: engine.Canceled, Error: record(t.err).encode(), Err: t.err}
	case errors.As(t.err, &renew):
		input, err := encode("input of workflow "+t.def.Workflow, renew.input, t.in.MaxBytes)
		if err == nil {
			t.dropRest(&t.pending)
			t.leave(engine.End{Kind: engine.Renewed, Output: input})
			return
		}
		end = engine.End{Kind: engine.Failed, Error: record(err).encode(), Err: err}
	default:
		rec := record(t.err)
		if rec.Kind == "canceled" { // a child was, alone: the run itself was not
			rec.Kind = ""
		}
		end = engine.End{Kind: engine.Failed, Error: rec.encode(), Err: t.err}
	}
	b := t.pending
	b.End = &end
	t.dropRest(&b)
	t.pending = engine.Batch{}
	if err := t.in.Host.Write(context.WithoutCancel(ctx), b); err != nil {
		t.leave(refused(err))
		return
	}
	t.leave(end)
}

// dropRest ends the waits of another version: nothing waited for them here.
func (t *turn) dropRest(b *engine.Batch) {
	for seq, w := range t.in.Waits {
		b.Dropped = append(b.Dropped, seq)
		if w.Child > 0 {
			b.Cancel = append(b.Cancel, w.Child)
		}
	}
}

// leave sets why the turn ends, once.
func (t *turn) leave(e engine.End) {
	if t.left == nil {
		t.left = &e
	}
}

func (t *turn) park(reason string, err error) { t.leave(parked(reason, err)) }

// leaves unwinds the branches, and waits for what still executes: its result is
// written, unless the run has ended or is somebody else's. In the middle of a replay
// nothing has executed: what the body did since comes again with the next one, and
// if the body does not fit, must not come at all.
func (t *turn) leaves(ctx context.Context) engine.End {
	if t.left.Kind != engine.Released { // of those, steps go on to their end
		t.stop(cmp.Or(t.lost(), errRunEnds))
	}
	for len(t.branches) > 0 {
		t.branches[len(t.branches)-1].run()
	}
	t.group.Wait()
	t.stop(errRunEnds)
	for post := t.inbox.take(); post != nil; post = t.inbox.take() {
		post()
	}
	if len(t.replay) > 0 {
		t.pending = engine.Batch{}
	}
	if !t.left.Final() && t.left.Kind != engine.Lost && !t.in.Verify && !t.pending.Empty() {
		end := *t.left
		t.left = nil
		t.flush(ctx)
		t.leave(end)
	}
	return *t.left
}

// lost is the cause of what ends with a turn whose run is somebody else's.
func (t *turn) lost() error {
	if t.left.Kind == engine.Lost {
		return engine.ErrLeaseLost
	}
	return nil
}

// refused turns the error of a write into the end of the turn.
func refused(err error) engine.End {
	var park *engine.ParkError
	switch {
	case errors.Is(err, engine.ErrLeaseLost):
		return engine.End{Kind: engine.Lost, Err: err}
	case errors.Is(err, engine.ErrHandBack):
		return engine.End{Kind: engine.Released, Err: err}
	case errors.As(err, &park):
		return parked(park.Reason, park.Err)
	}
	return parked("storage", err)
}

func parked(reason string, err error) engine.End {
	return engine.End{Kind: engine.Parked, Reason: reason, Error: record(err).encode(), Err: err}
}

// interrupted is the end of a turn whose context was ended from outside.
func interrupted(cause error) engine.End {
	if errors.Is(cause, engine.ErrHandBack) {
		return engine.End{Kind: engine.Released}
	}
	return engine.End{Kind: engine.Lost, Err: cause}
}
