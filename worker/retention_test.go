//go:build unix

package worker_test

import (
	"errors"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stepward/stepward/audit"
	"github.com/stepward/stepward/internal/enqueue"
	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

var (
	mother   = workflow.DurableWorkflow[int, int]{Name: "mother"}
	motherV1 = workflow.Define(mother, chain.Run, workflow.Options{})
)

// passOver runs a worker that executes nothing until it has deleted a run that
// ended after all others: so it has looked at them, too.
func (f *fixture) passOver(r worker.Retention) {
	f.t.Helper()
	last, err := chain.Enqueue(f.t.Context(), f.client, 0, workflow.EnqueueOptions{Key: "last"})
	if err != nil {
		f.t.Fatal(err)
	}
	stop := f.start(worker.Config{Workflows: []*workflow.Definition{chainV1}})
	ends(f.t, f.client, last, 1)
	stop()
	stop = f.start(worker.Config{Workflows: []*workflow.Definition{changingNothing}, Retention: r})
	eventually(f.t, "the last run is deleted", func() bool {
		_, err := f.client.Get(f.t.Context(), last.ID)
		return errors.Is(err, workflow.ErrNotFound)
	})
	stop()
}

var changingNothing = workflow.Define(workflow.DurableWorkflow[int, int]{Name: "nothing"}, func(_ workflow.Context, n int) (int, error) { return n, nil }, workflow.Options{})

// Runs are deleted with all that is theirs once they have ended for long enough,
// by their state; never one that is live, nor a child whose parent has not got its
// result.
func TestRetention(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx := t.Context()
	parent, err := mother.Enqueue(ctx, f.client, 3, workflow.EnqueueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	stop := f.start(worker.Config{Workflows: []*workflow.Definition{motherV1}})
	f.waits(parent.ID)
	stop()
	o := workflow.EnqueueOptions{Key: "once"}
	done, err := bird.Enqueue(ctx, f.client, large, o)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{canary, large} {
		if err := tweet.Send(ctx, f.client, done.ID, s); err != nil {
			t.Fatal(err)
		}
	}
	failed, err := chick.Enqueue(ctx, f.client, canary, workflow.EnqueueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	live, err := relay.Enqueue(ctx, f.client, "a", workflow.EnqueueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	canceled, err := relay.Enqueue(ctx, f.client, "a", workflow.EnqueueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	stop = f.start(worker.Config{Workflows: []*workflow.Definition{birdV1, chickV1, relayV1, chainV1}})
	ends(t, f.client, done, large)
	f.waits(live.ID)
	f.waits(canceled.ID)
	if err := canceled.Cancel(ctx); err != nil {
		t.Fatal(err)
	}
	for _, run := range []workflow.Run[string]{failed, canceled} {
		if _, err := outcome(t, f.client, run); err == nil {
			t.Fatal("it did not fail")
		}
	}
	child := f.count("SELECT id FROM stepward.run WHERE parent_id = $1", parent.ID)
	eventually(t, "the child ends", func() bool { return f.state(workflow.RunID(child)).State == workflow.StateCompleted })
	stop()

	f.passOver(worker.Retention{Completed: time.Millisecond, Failed: time.Hour})
	for id, want := range map[workflow.RunID]workflow.State{parent.ID: workflow.StateReady, workflow.RunID(child): workflow.StateCompleted,
		failed.ID: workflow.StateFailed, canceled.ID: workflow.StateCanceled, live.ID: workflow.StateWaiting} {
		if s := f.state(id).State; s != want && s != workflow.StateWaiting {
			t.Errorf("%v is %s, not %s", id, s, want)
		}
	}
	if n := f.count("SELECT count(*) FROM stepward.run WHERE workflow = 'chick' AND state = 'completed'") + f.left(done.ID); n != 0 {
		t.Errorf("%d rows are left of a run that was deleted, and its child", n)
	}
	if _, err := outcome(t, f.client, done); !errors.Is(err, workflow.ErrNotFound) {
		t.Errorf("got %v", err)
	}
	again, err := bird.Enqueue(ctx, f.client, canary, o) // the key died with its run
	if err != nil || again.ID == done.ID {
		t.Errorf("enqueued again: %v, %v", again.ID, err)
	}
	if err := again.Cancel(ctx); err != nil {
		t.Fatal(err)
	}
	events, err := audit.Events(ctx, f.pool, audit.Filter{Schema: f.schema, Kinds: []string{audit.RunsDeleted}})
	if err != nil || len(events) == 0 || !strings.Contains(string(events[0].Detail), `"runs"`) {
		t.Errorf("events: %+v, %v", events, err)
	}

	stop = f.start(worker.Config{Workflows: []*workflow.Definition{motherV1, relayV1}})
	ends(t, f.client, parent, 8)
	if err := tweet.Send(ctx, f.client, live.ID, "b"); err != nil {
		t.Fatal(err)
	}
	ends(t, f.client, live, "aabaab")
	stop()
	f.passOver(worker.Retention{Completed: time.Millisecond, Failed: time.Millisecond, Canceled: time.Millisecond})
	if n := f.count("SELECT count(*) FROM stepward.run"); n != 0 {
		t.Errorf("%d runs are left", n)
	}
	f.noBlobLeft()
	if n := f.count("SELECT count(*) FROM stepward.blob"); n != 0 {
		t.Errorf("%d blobs are left", n)
	}
}

// tablesOfRuns are those that have rows of a run.
func (f *fixture) tablesOfRuns() []string {
	f.t.Helper()
	rows, err := f.pool.Query(f.t.Context(), `SELECT c.table_name FROM information_schema.columns c JOIN pg_tables t ON t.schemaname = c.table_schema AND t.tablename = c.table_name
		WHERE c.table_schema = $1 AND c.column_name = 'run_id'`, f.schema)
	if err != nil {
		f.t.Fatal(err)
	}
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || len(tables) < 10 {
		f.t.Fatal(tables, err)
	}
	return tables
}

// left counts the rows of a run in all tables.
func (f *fixture) left(id workflow.RunID) (n int) {
	f.t.Helper()
	for _, table := range f.tablesOfRuns() {
		n += f.count("SELECT count(*) FROM stepward."+table+" WHERE run_id = $1", id)
	}
	return n
}

// Every table that has rows of runs is one that the deletion knows, or one in
// which a run that has ended has none.
func TestRetentionCoversEveryTable(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	var text string
	if err := f.pool.QueryRow(t.Context(), "SELECT pg_get_functiondef(to_regproc($1))", f.schema+".expire_runs").Scan(&text); err != nil {
		t.Fatal(err)
	}
	none := map[string]string{"ready": "", "turn": "", "timer": "", "parked": "", "notice": "taken within a second, whether or not its run is there"}
	for _, table := range f.tablesOfRuns() {
		_, ok := none[table]
		if deleted := regexp.MustCompile(`DELETE FROM "?` + f.schema + `"?\.` + table + `\b`).MatchString(text); deleted == ok {
			t.Errorf("table %s: rows are deleted: %v", table, deleted)
		}
	}
}

// A run stays until no broker has to end its leases any more: what is on record of them would go with it. That is not for ever, as
// the broker that can may be gone.
func TestRetentionKeepsLeases(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	run, err := chain.Enqueue(t.Context(), f.client, 0, workflow.EnqueueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	stop := f.start(worker.Config{Workflows: []*workflow.Definition{chainV1}})
	if _, err := outcome(t, f.client, run); err != nil {
		t.Fatal(err)
	}
	stop()
	f.exec(`INSERT INTO stepward.issue (id, run_id, seq, attempt, step, sandbox_id, level, revocation, pins, renewal, leases)
		VALUES ('e', $1, 1, 1, 's', 's', 'L1', 0, '{}', '', 'sealed')`, int64(run.ID))
	pass := func(want int, what string) {
		t.Helper()
		f.passOver(worker.Retention{Completed: time.Millisecond})
		if n := f.count("SELECT count(*) FROM stepward.run") + f.count("SELECT count(*) FROM stepward.issue"); n != want {
			t.Errorf("%s: %d rows are left", what, n)
		}
	}
	pass(2, "open")
	f.exec("UPDATE stepward.issue SET closed_at = clock_timestamp(), lease_state = 'pending'")
	pass(2, "closed")
	f.exec("UPDATE stepward.issue SET closed_at = closed_at - interval '8 days'")
	pass(2, "its run ended a moment ago")
	f.exec("UPDATE stepward.run SET finished_at = finished_at - interval '8 days'")
	pass(0, "a week later")

	run, err = chain.Enqueue(t.Context(), f.client, 0, workflow.EnqueueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	stop = f.start(worker.Config{Workflows: []*workflow.Definition{chainV1}})
	if _, err := outcome(t, f.client, run); err != nil {
		t.Fatal(err)
	}
	stop()
	f.exec(`INSERT INTO stepward.issue (id, run_id, seq, attempt, step, sandbox_id, level, revocation, pins, renewal, closed_at, lease_state)
		VALUES ('e', $1, 1, 1, 's', 's', 'L1', 0, '{}', '', clock_timestamp(), 'revoked')`, int64(run.ID))
	pass(0, "they have ended")
}

// idleLimit adds a limit that no run has.
func (f *fixture) idleLimit(key string) {
	f.t.Helper()
	f.exec("INSERT INTO stepward.run_limit (key, concurrency, rate, per_s, tokens, filled_at) VALUES ($1, 1, 0, 1, 0, clock_timestamp() - interval '1 day')", key)
}

// A limit goes with its last run, but not while an enqueue is about to use it;
// an enqueue that comes too late for that makes it anew.
func TestRetentionOfLimits(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	c := f.claims()
	ctx := t.Context()
	for _, key := range []string{"gone", "asked", "late"} {
		f.idleLimit(key)
	}
	insert := func(tx pgx.Tx, key string) error {
		_, err := enqueue.Insert(ctx, tx, c.q, []enqueue.Item{{Workflow: chain.Name, Input: []byte("0"), Limit: enqueue.Limit{Key: key, Concurrency: 1, Per: time.Second}}})
		return err
	}
	c.add(1, enqueue.Item{Limit: enqueue.Limit{Key: "used", Concurrency: 1, Per: time.Second}})
	f.exec("UPDATE stepward.run_limit SET filled_at = clock_timestamp() - interval '1 day'")
	asks, late := f.begin(), f.begin()
	if err := insert(asks, "asked"); err != nil {
		t.Fatal(err)
	}
	drops := f.begin()
	rows, err := drops.Query(ctx, c.q.LimitIdle)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || !slices.Equal(keys, []string{"gone", "late"}) {
		t.Fatalf("limits that no run has: %v, %v", keys, err)
	}
	done := make(chan error, 1)
	go func() { done <- insert(late, "late") }()
	eventually(t, "the enqueue waits", func() bool { return f.blocks(drops) })
	if err := asks.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := drops.Exec(ctx, c.q.LimitDelete, append(keys, "asked")); err != nil { // as if asked had been locked after its enqueue
		t.Fatal(err)
	}
	if err := errors.Join(drops.Commit(ctx), arrives(t, done), late.Commit(ctx)); err != nil {
		t.Fatal(err)
	}
	if n := f.count("SELECT count(*) FROM stepward.run_limit WHERE key IN ('asked', 'late', 'used')"); n != 3 || f.count("SELECT count(*) FROM stepward.run_limit") != 3 {
		t.Errorf("%d of the limits with runs are left", n)
	}
	f.idleLimit("idle")
	f.start(worker.Config{Workflows: []*workflow.Definition{chainV1}, Retention: worker.Retention{Failed: time.Hour}})
	eventually(t, "the limit is gone", func() bool { return f.count("SELECT count(*) FROM stepward.run_limit WHERE key = 'idle'") == 0 })
}
