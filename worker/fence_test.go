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
	if who := <-began; who != "first" {
		t.Fatalf("began on %s", who)
	}
	if _, err := f.pool.Exec(t.Context(), "UPDATE "+f.schema+".worker SET lease_until = 'epoch'"); err != nil {
		t.Fatal(err)
	}
	f.start(worker.Config{Name: "second", Workflows: []*workflow.Definition{define("second")}})
	if who := <-began; who != "second" {
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
	if out, err := run.Result(t.Context()); err != nil || out != "second" {
		t.Fatalf("got %q, %v", out, err)
	}
}

// TestReapWhileEnding: a run ends in the moment in which its worker is declared
// dead. The reaper, which waits for the run's row, must leave it alone then:
// found by TestModel.
func TestReapWhileEnding(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	run := f.enqueue(1)
	const dead = 4711
	f.exec("INSERT INTO stepward.worker (session, name, lease_until, lease_s, requirements, backends) VALUES ($1, 'dead', 'epoch', 10, '{}', '{}')", dead)
	f.exec("DELETE FROM stepward.ready")
	f.exec("UPDATE stepward.run SET session = $1, epoch = 1", dead)
	f.exec("INSERT INTO stepward.turn (run_id, session, epoch) VALUES ($1, $2, 1)", run.ID, dead)

	tx := f.begin()
	for _, sql := range []string{"UPDATE stepward.run SET state = 'completed', output = '1', finished_at = now()", "DELETE FROM stepward.turn"} {
		if _, err := tx.Exec(t.Context(), f.sql(sql)); err != nil {
			t.Fatal(err)
		}
	}
	f.start(worker.Config{Workflows: []*workflow.Definition{defines(passes(keep), keep)}})
	eventually(t, "the reaper waits for the run", func() bool { return f.blocks(tx) })
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the reaper is through", func() bool {
		return f.count("SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '/* stepward TurnReap%"+f.schema+"%'") == 0
	})
	if s := f.state(run.ID); s.State != workflow.StateCompleted || s.Turns != 1 {
		t.Errorf("the run is %+v", s)
	}
	if n := f.count("SELECT count(*) FROM stepward.ready") + f.count("SELECT count(*) FROM stepward.turn"); n != 0 {
		t.Errorf("%d rows make a run claimable that has ended", n)
	}
}
