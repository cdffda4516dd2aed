package workflow_test

import (
	"context"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/stepward/stepward/internal/engine"
	"github.com/stepward/stepward/workflow"
)

// unheard is the host of a run that adds a child, loses its lease before it hears of
// that, and goes on elsewhere.
type unheard struct {
	memory
	until string // the step that is on record when the lease is lost
	lose  context.CancelCauseFunc

	adding, recorded, lost chan struct{}
	steps                  []engine.Checkpoint
	canceled               []int64
	dropped                []int
}

func (h *unheard) Late(context.Context) (bool, error) { return false, nil }

func (h *unheard) Child(context.Context, engine.Child) (int64, error) {
	close(h.adding)
	<-h.recorded
	h.lose(engine.ErrLeaseLost)
	close(h.lost)
	return 0, engine.ErrLeaseLost
}

func (h *unheard) Write(_ context.Context, b engine.Batch) error {
	h.steps = append(h.steps, b.Checkpoints...)
	if b.End == nil { // not as late as that
		h.canceled, h.dropped = append(h.canceled, b.Cancel...), append(h.dropped, b.Dropped...)
	}
	if slices.ContainsFunc(b.Checkpoints, func(c engine.Checkpoint) bool { return c.Key == h.until }) {
		close(h.recorded)
		<-h.lost
	}
	return nil
}

// A child that was added, of which its run did not hear before it gave it up and
// went on, is canceled by the turn that finds it.
func TestChildAddedUnheard(t *testing.T) {
	kid := workflow.DurableWorkflow[int, int]{Name: "kid"}
	type body = func(workflow.Context, int) (int, error)
	twice := func(ctx workflow.Context) (int, error) {
		if n, err := inc.Run(ctx, 1); err != nil {
			return n, err
		}
		return inc.Run(ctx, 2)
	}
	cleaning := func(call body) body {
		return func(ctx workflow.Context, n int) (int, error) {
			ctx.Finally(func(ctx workflow.Context) error { _, err := twice(ctx); return err })
			return call(ctx, n)
		}
	}
	for _, x := range []struct {
		name   string
		body   body
		cancel bool   // the run
		until  string // the last step that is on record
		seq    int    // of the child
		child  int64  // as its wait has it
		end    engine.EndKind
	}{
		{name: "the run is canceled", body: cleaning(kid.Run), cancel: true, until: "inc", seq: 1, child: 77, end: engine.Canceled},
		{name: "a time limit passes", body: func(ctx workflow.Context, n int) (int, error) {
			limited, cancel := ctx.WithTimeout(time.Millisecond)
			defer cancel()
			kid.Run(limited, n)
			return twice(ctx)
		}, until: "inc", seq: 2, child: 77, end: engine.Completed},
		{name: "the body cancels it", body: func(ctx workflow.Context, n int) (int, error) {
			some, cancel := ctx.WithCancel()
			kid.Go(some, n)
			inc.Run(ctx, 0)
			cancel()
			return twice(ctx)
		}, until: "inc#2", seq: 1, child: 77, end: engine.Completed},
		{name: "nobody waits for it", body: cleaning(func(ctx workflow.Context, n int) (int, error) {
			_, err := kid.Start(ctx, n)
			return 0, err
		}), cancel: true, until: "inc", seq: 1, child: -77, end: engine.Canceled},
	} {
		t.Run(x.name, func(t *testing.T) {
			def := workflow.Define(fuzzed, x.body, workflow.Options{Steps: []workflow.Declared{inc}})
			ctx, lose := context.WithCancelCause(t.Context())
			h := &unheard{until: x.until, lose: lose, adding: make(chan struct{}), recorded: make(chan struct{}), lost: make(chan struct{})}
			turn := engine.Turn{Run: 1, Epoch: 1, Input: []byte("1"), MaxBytes: 1 << 20, Host: h, Now: time.Now, Logger: slog.New(slog.DiscardHandler),
				Attempts: map[int]engine.Attempts{}, Waits: map[int]engine.Wait{}}
			if x.cancel {
				turn.Canceled = h.adding
			}
			if end := def.Engine().Run(ctx, turn); end.Kind != engine.Lost || len(h.canceled) > 0 {
				t.Fatalf("the first turn ended as %+v, children canceled: %v", end, h.canceled)
			}
			next := &unheard{}
			turn.Epoch, turn.Host, turn.Steps = 3, next, h.steps
			turn.Waits = map[int]engine.Wait{x.seq: {Seq: x.seq, Key: "child:kid", Left: engine.Never, Child: x.child}}
			if end := def.Engine().Run(t.Context(), turn); end.Kind != x.end {
				t.Errorf("the second turn ended as %+v", end)
			}
			var want []int64
			if x.child > 0 {
				want = []int64{x.child}
			}
			if !slices.Equal(next.canceled, want) || !slices.Equal(next.dropped, []int{x.seq}) {
				t.Errorf("children canceled: %v, waits dropped: %v; want %v and [%d]", next.canceled, next.dropped, want, x.seq)
			}
		})
	}
}
