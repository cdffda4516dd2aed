//go:build unix

package worker_test

import (
	"context"
	"testing"
	"time"

	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

// TestLateWriteIsRefused: a worker that was declared dead while its step ran
// finishes that step. Its checkpoint must not stand, as another worker holds the
// run by then.
func TestLateWriteIsRefused(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	began := make(chan string, 2)
	release := map[string]chan struct{}{"first": make(chan struct{}), "second": make(chan struct{})}
	w := workflow.DurableWorkflow[int, string]{Name: "held"}
	// Each worker has a definition of its own, whose step knows where it runs.
	define := func(who string) *workflow.Definition {
		step := workflow.NewStep("hold", func(ctx context.Context, _ int) (string, error) {
			began <- who
			<-release[who]
			return who, nil
		}, workflow.StepOptions{})
		return workflow.Define(w, func(ctx workflow.Context, n int) (string, error) { return step.Run(ctx, n) },
			workflow.Options{Steps: []workflow.Declared{step}})
	}
	var first worker.Health
	f.start(worker.Config{Name: "first", Health: &first, LeaseTTL: time.Hour, Workflows: []*workflow.Definition{define("first")}})
	run, err := w.Enqueue(t.Context(), f.client, 1, workflow.EnqueueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if who := arrives(t, began); who != "first" {
		t.Fatalf("began on %s", who)
	}
	if _, err := f.pool.Exec(t.Context(), "UPDATE "+f.schema+".worker SET lease_until = 'epoch'"); err != nil {
		t.Fatal(err)
	}
	f.start(worker.Config{Name: "second", Workflows: []*workflow.Definition{define("second")}})
	if who := arrives(t, began); who != "second" {
		t.Fatalf("taken over by %s", who)
	}

	close(release["first"]) // the zombie has a result now, and the run is not its any more
	eventually(t, "the zombie's turn ends", func() bool {
		r, _ := first.Report()
		return r.Runs == 0
	})
	if steps, err := f.client.Steps(t.Context(), run.ID, 0); err != nil || len(steps) != 0 {
		t.Fatalf("the zombie wrote %+v, %v", steps, err)
	}
	close(release["second"])
	if out, err := outcome(t, f.client, run); err != nil || out != "second" {
		t.Fatalf("got %q, %v", out, err)
	}
}

// TestReapWhileEnding: a run ends in the moment in which its worker is declared
// dead. The reaper must leave it alone then, and it does not wait for the run's
// row: another run of that worker is recovered meanwhile. The first part was found
// by TestModel.
func TestReapWhileEnding(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	run, other := f.enqueue(1), f.enqueue(2)
	f.heldBy(4711, "dead")

	tx := f.begin()
	for _, sql := range []string{"UPDATE stepward.run SET state = 'completed', output = '1', finished_at = now() WHERE id = $1", "DELETE FROM stepward.turn WHERE run_id = $1"} {
		if _, err := tx.Exec(t.Context(), f.sql(sql), run.ID); err != nil {
			t.Fatal(err)
		}
	}
	stop := f.start(worker.Config{Workflows: []*workflow.Definition{defines(passes(keep), keep)}})
	ends(t, f.client, other, 2)
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	stop()
	if s := f.state(run.ID); s.State != workflow.StateCompleted || s.Turns != 1 {
		t.Errorf("the run is %+v", s)
	}
	if n := f.count("SELECT count(*) FROM stepward.ready") + f.count("SELECT count(*) FROM stepward.turn"); n != 0 {
		t.Errorf("%d rows make a run claimable that has ended", n)
	}
}
