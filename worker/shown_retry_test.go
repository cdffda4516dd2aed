//go:build unix

package worker_test

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

// A fork has results whose numbers leave some out, and Retry may take back the
// one that comes first. What is shown after a new result with a lower number,
// which a step in a transaction commits alone, is not on record when the worker
// dies then.
func TestShownAfterRetryOfFork(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	var refuse, halt atomic.Bool
	refuse.Store(true)
	recorded, halted, release := make(chan struct{}), make(chan struct{}), make(chan struct{})
	pay := workflow.NewTxStep("pay", func(_ context.Context, _ pgx.Tx, n int) (int, error) {
		<-recorded
		if refuse.Load() {
			return 0, workflow.Permanent(errors.New("no money"))
		}
		return n, nil
	}, workflow.StepOptions{})
	other := workflow.NewStep("other", func(_ context.Context, n int) (int, error) {
		if !refuse.Load() { // it ends later than pay
			<-release
		}
		return n, nil
	}, workflow.StepOptions{})
	def := defines(func(ctx workflow.Context, n int) (int, error) {
		paid := pay.Go(ctx, n)
		other.Go(ctx, n)
		out, err := paid.Get(ctx)
		if err != nil {
			return 0, errors.Join(err, lines.Append(ctx, "refused"))
		}
		if err := lines.Append(ctx, "paid"); err != nil {
			return 0, err
		}
		if halt.CompareAndSwap(true, false) {
			close(halted)
			<-release
		}
		return out, nil
	}, pay, other)
	stop := f.start(worker.Config{Workflows: []*workflow.Definition{def}})
	run := f.enqueue(5)
	eventually(t, "the other step is recorded", func() bool { return f.count("SELECT count(*) FROM stepward.step WHERE key = 'other'") == 1 })
	close(recorded)
	failure(t, f.client, run)
	id, err := f.client.Fork(t.Context(), run.ID, workflow.ForkOptions{From: "other"})
	if err != nil {
		t.Fatal(err)
	}
	fork := changing.Handle(f.client, id)
	failure(t, f.client, fork)
	stop()

	refuse.Store(false)
	halt.Store(true)
	f.start(worker.Config{Name: "first", LeaseTTL: time.Hour, Workflows: []*workflow.Definition{def}})
	if err := f.client.Retry(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	arrives(t, halted) // with a result on record, and "paid" not
	f.expire("first")
	f.start(worker.Config{Name: "second", Workflows: []*workflow.Definition{def}})
	eventually(t, "the second worker has it", func() bool { return f.state(id).Worker == "second" })
	close(release)
	ends(t, f.client, fork, 5)
	if got := f.values(id); !slices.Equal(got, []string{"refused", "paid"}) {
		t.Errorf("it has shown %q", got)
	}
}
