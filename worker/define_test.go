//go:build unix

package worker_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

// run calls worker.Run and returns how it ended.
func (f *fixture) run(ctx context.Context, cfg worker.Config) <-chan error {
	cfg.Pool, cfg.Schema = f.pool, f.schema
	done := make(chan error, 1)
	go func() { done <- worker.Run(ctx, cfg) }()
	return done
}

// blocks reports whether a backend waits for a lock that tx holds.
func (f *fixture) blocks(tx pgx.Tx) bool {
	return f.count("SELECT count(*) FROM pg_stat_activity WHERE $1 = ANY(pg_blocking_pids(pid))", int32(tx.Conn().PgConn().PID())) > 0
}

// A worker that Postgres picks as the victim of a deadlock at its start writes
// its definitions again.
func TestDefineAfterDeadlock(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx := t.Context()
	// The worker stops after its first row, until the gate opens.
	f.exec("CREATE FUNCTION stepward.pause() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_xact_lock(hashtext('" + f.schema + "gate')); RETURN NULL; END $$")
	gate, other := f.begin(), f.begin()
	if _, err := gate.Exec(ctx, "SELECT pg_advisory_xact_lock(hashtext('"+f.schema+"gate'))"); err != nil {
		t.Fatal(err)
	}
	f.exec("CREATE TRIGGER pause AFTER INSERT ON stepward.definition FOR EACH ROW WHEN (new.workflow = 'a') EXECUTE FUNCTION stepward.pause()")
	hold := f.sql("INSERT INTO stepward.definition (workflow, version, requirement_id, steps) VALUES ($1, '1', 0, '')")
	// Only the worker looks for deadlocks, so that it is the victim.
	if _, err := other.Exec(ctx, "SET LOCAL deadlock_timeout = '10min'"); err != nil {
		t.Fatal(err)
	}
	if _, err := other.Exec(ctx, hold, "b"); err != nil {
		t.Fatal(err)
	}
	f.start(worker.Config{Workflows: []*workflow.Definition{sameAs("a", "1"), sameAs("b", "1")}})
	eventually(t, "the worker wrote a", func() bool { return f.blocks(gate) })
	blocked := make(chan error, 1)
	go func() { // waits for the worker's a
		_, err := other.Exec(ctx, hold, "a")
		blocked <- errors.Join(err, other.Rollback(ctx))
	}()
	eventually(t, "the other waits for a", func() bool {
		return f.count("SELECT cardinality(pg_blocking_pids($1))", int32(other.Conn().PgConn().PID())) > 0
	})
	if err := gate.Rollback(ctx); err != nil { // the worker goes on to b: a cycle
		t.Fatal(err)
	}
	if err := arrives(t, blocked); err != nil {
		t.Fatalf("the worker was not the victim: %v", err)
	}
	run, err := workflow.DurableWorkflow[int, int]{Name: "a"}.Enqueue(ctx, f.client, 7, workflow.EnqueueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if out, err := outcome(t, f.client, run); err != nil || out != 7 {
		t.Fatalf("got %d, %v", out, err)
	}
}

// Who holds the row of a workflow delays a worker's start. The wait ends with
// Run's context, and with StartTimeout.
func TestDefineWaits(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	held := f.begin()
	if _, err := held.Exec(t.Context(), f.sql("INSERT INTO stepward.definition (workflow, version, requirement_id, steps) VALUES ('a', '1', 0, '')")); err != nil {
		t.Fatal(err)
	}
	t.Run("until canceled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		done := f.run(ctx, worker.Config{Workflows: []*workflow.Definition{sameAs("a", "1")}, StartTimeout: time.Hour})
		eventually(t, "the worker waits", func() bool { return f.blocks(held) })
		cancel()
		if err := arrives(t, done); err != nil {
			t.Errorf("got %v", err)
		}
	})
	t.Run("until the timeout", func(t *testing.T) {
		var late *worker.StartError
		err := arrives(t, f.run(t.Context(), worker.Config{Workflows: []*workflow.Definition{sameAs("a", "1")}, StartTimeout: 200 * time.Millisecond}))
		if !errors.As(err, &late) || late.After != 200*time.Millisecond {
			t.Errorf("got %v", err)
		}
	})
}

// A deploy that was taken back strands nothing: while no live worker lists the
// newest version, runs get the newest that one has. A worker that lists it and has
// no backend for it counts: less is no replacement.
func TestDefineTakenBack(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	a := workflow.DurableWorkflow[int, int]{Name: "a"}
	version := func() string {
		t.Helper()
		run, err := a.Enqueue(t.Context(), f.client, 1, workflow.EnqueueOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return f.state(run.ID).Version
	}
	boxed := workflow.NewStep("boxed", keepIt, workflow.StepOptions{Mode: workflow.Sandboxed})
	third := workflow.Define(a, func(ctx workflow.Context, n int) (int, error) { return boxed.Run(ctx, n) },
		workflow.Options{Version: "3", Steps: []workflow.Declared{boxed}})
	begin := func(defs ...*workflow.Definition) (stop func()) {
		t.Helper()
		ctx, cancel := context.WithCancel(t.Context())
		h := &worker.Health{}
		done := f.run(ctx, worker.Config{Workflows: defs, Health: h, Backends: []sandbox.Backend{}})
		eventually(t, "the worker runs", func() bool { return h.Check(t.Context()) == nil })
		return func() {
			t.Helper()
			cancel()
			if err := arrives(t, done); err != nil {
				t.Error(err)
			}
		}
	}
	stop1 := begin(sameAs("a", "1"))
	stop2 := begin(sameAs("a", "2"))
	if v := version(); v != "2" {
		t.Errorf("with both, a run got version %s", v)
	}
	stop2()
	if v := version(); v != "1" {
		t.Errorf("after version 2 was taken back, a run got version %s", v)
	}
	stop3 := begin(third)
	if v := version(); v != "3" {
		t.Errorf("with a worker that cannot meet version 3, a run got version %s", v)
	}
	stop3()
	stop1()
	if v := version(); v != "3" {
		t.Errorf("without a worker, a run got version %s", v)
	}
}

// Of several versions in one Config the last is the newest, however they sort.
func TestDefineOrderOfVersions(t *testing.T) {
	t.Parallel()
	for _, versions := range [][2]string{{"9", "10"}, {"10", "9"}} {
		f := newFixture(t)
		f.start(worker.Config{Workflows: []*workflow.Definition{sameAs("a", versions[0]), sameAs("a", versions[1])}})
		eventually(t, "the versions are defined", func() bool { return f.count("SELECT count(*) FROM stepward.definition") == 2 })
		run, err := workflow.DurableWorkflow[int, int]{Name: "a"}.Enqueue(t.Context(), f.client, 1, workflow.EnqueueOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if s := f.state(run.ID); s.Version != versions[1] {
			t.Errorf("of %v the run got %s", versions, s.Version)
		}
	}
}

// What a step lists of a tenant's names, and its time limit, are in its definition, for the broker to read.
func TestDefineSecrets(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	step := workflow.NewStep("publish", func(context.Context, int) (int, error) { return 0, nil },
		workflow.StepOptions{Mode: workflow.Identity, Secrets: []string{"DEPLOY_TOKEN", "REGION?"}, Timeout: 3 * time.Hour})
	f.start(worker.Config{Workflows: []*workflow.Definition{workflow.Define(workflow.DurableWorkflow[int, int]{Name: "secret"},
		func(workflow.Context, int) (int, error) { return 0, nil }, workflow.Options{Steps: []workflow.Declared{step}})}})
	eventually(t, "the definition is written", func() bool {
		return f.count(`SELECT count(*) FROM stepward.definition WHERE workflow = 'secret' AND convert_from(steps, 'UTF8')::jsonb -> 0 @> '{"secrets": ["DEPLOY_TOKEN", "REGION?"], "timeout_ns": 10800000000000}'`) == 1
	})
}
