package workflow_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/stepward/stepward/internal/testenv"
	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

// fixture is a schema of the test's own, and a client.
type fixture struct {
	t      *testing.T
	pool   *pgxpool.Pool
	schema string
	client *workflow.Client
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	pool, schema := testenv.Postgres(t)
	if err := workflow.Migrate(t.Context(), pool, workflow.MigrateOptions{Schema: schema}); err != nil {
		t.Fatal(err)
	}
	f := &fixture{t: t, pool: pool, schema: schema}
	f.client = f.newClient(pool)
	return f
}

func (f *fixture) newClient(pool *pgxpool.Pool) *workflow.Client {
	f.t.Helper()
	c, err := workflow.NewClient(workflow.ClientConfig{Pool: pool, Schema: f.schema})
	if err != nil {
		f.t.Fatal(err)
	}
	return c
}

// poolOf returns a pool of n connections to the fixture's database.
func (f *fixture) poolOf(n int32) *pgxpool.Pool {
	f.t.Helper()
	cfg := f.pool.Config()
	cfg.MaxConns, cfg.MinConns = n, 0
	pool, err := pgxpool.NewWithConfig(f.t.Context(), cfg)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(pool.Close)
	return pool
}

// elsewhere reports whether an error says that a run had to be in a state, and
// was in another one.
func elsewhere(err error, want workflow.State) bool {
	e, ok := errors.AsType[*workflow.StateError](err)
	return ok && e.State != want && slices.Contains(e.Want, want)
}

// finished reports whether an error says that a run has ended.
func finished(err error) bool {
	e, ok := errors.AsType[*workflow.StateError](err)
	return ok && e.State.Ended()
}

// runs lists runs.
func (f *fixture) runs(filter workflow.RunFilter) (runs []workflow.RunStatus) {
	f.t.Helper()
	for s, err := range f.client.Runs(f.t.Context(), filter) {
		if err != nil {
			f.t.Fatal(err)
		}
		runs = append(runs, s)
	}
	return runs
}

// work runs a worker until the test ends.
func (f *fixture) work(cfg worker.Config) {
	f.t.Helper()
	cfg.Schema = f.schema
	if cfg.Pool == nil {
		cfg.Pool = f.pool
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- worker.Run(ctx, cfg) }()
	f.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			f.t.Errorf("worker.Run: %v", err)
		}
	})
}

func (f *fixture) exec(sql string, args ...any) {
	f.t.Helper()
	if _, err := f.pool.Exec(f.t.Context(), f.sql(sql), args...); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) sql(text string) string {
	return strings.NewReplacer("stepward_river.", f.schema+"_river.", "stepward.", f.schema+".").Replace(text)
}

// traces counts what an enqueued run leaves: itself, its ready row, its ticket,
// its key and its audit event.
func (f *fixture) traces() (counts string) {
	f.t.Helper()
	var run, ready, ticket, key, event int
	err := f.pool.QueryRow(f.t.Context(), f.sql(`SELECT (SELECT count(*) FROM stepward.run), (SELECT count(*) FROM stepward.ready),
		(SELECT count(*) FROM stepward_river.river_job WHERE kind = 'stepward_ticket'), (SELECT count(*) FROM stepward.idempotency),
		(SELECT count(*) FROM stepward.audit_event WHERE kind = 'run.enqueued')`)).Scan(&run, &ready, &ticket, &key, &event)
	if err != nil {
		f.t.Fatal(err)
	}
	return fmt.Sprintf("%d run, %d ready, %d ticket, %d key, %d event", run, ready, ticket, key, event)
}

func (f *fixture) want(traces string) {
	f.t.Helper()
	if got := f.traces(); got != traces {
		f.t.Errorf("there are %s, want %s", got, traces)
	}
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	deadline, tick := time.Now().Add(time.Minute), time.NewTicker(5*time.Millisecond)
	defer tick.Stop()
	for !f() {
		if time.Now().After(deadline) {
			t.Fatalf("did not happen: %s", what)
		}
		<-tick.C
	}
}

var increment = workflow.NewStep("increment", func(_ context.Context, n int) (int, error) { return n + 1, nil }, workflow.StepOptions{})

var count = workflow.DurableWorkflow[int, int]{Name: "count"}

// countV1 adds two.
var countV1 = workflow.Define(count, func(ctx workflow.Context, n int) (int, error) {
	n, err := increment.Run(ctx, n)
	if err != nil {
		return 0, err
	}
	return increment.Run(ctx, n)
}, workflow.Options{Steps: []workflow.Declared{increment}})

func (f *fixture) enqueue(n int, o workflow.EnqueueOptions) workflow.Run[int] {
	f.t.Helper()
	run, err := count.Enqueue(f.t.Context(), f.client, n, o)
	if err != nil {
		f.t.Fatal(err)
	}
	return run
}

// A client needs one connection, and one more than the application holds while
// it enqueues.
func TestClientWithSmallPool(t *testing.T) {
	f := newFixture(t)
	f.work(worker.Config{Workflows: []*workflow.Definition{countV1}})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, size := range []int32{1, 2} {
		pool := f.poolOf(size)
		client := f.newClient(pool)
		done := make(chan error)
		for range 20 { // enqueues and waits on the same pool
			go func() {
				run, err := count.Enqueue(ctx, client, 1, workflow.EnqueueOptions{})
				if err == nil {
					_, err = run.Result(ctx)
				}
				done <- err
			}()
		}
		for range 20 {
			if err := <-done; err != nil {
				t.Errorf("pool of %d: %v", size, err)
			}
		}
		tx, err := pool.Begin(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := count.EnqueueTx(ctx, client, tx, 1, workflow.EnqueueOptions{}); err != nil {
			t.Errorf("pool of %d: %v", size, err)
		}
		if size > 1 {
			if _, err := count.Enqueue(ctx, client, 1, workflow.EnqueueOptions{}); err != nil {
				t.Errorf("beside an open transaction: %v", err)
			}
		} else { // nobody can help: but it is no hang
			short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
			if _, err := count.Enqueue(short, client, 1, workflow.EnqueueOptions{}); err == nil {
				t.Error("an enqueue without a connection went through")
			}
			cancel()
		}
		if err := tx.Commit(ctx); err != nil {
			t.Error(err)
		}
	}
}

// A worker shares even a single connection between its parts.
func TestWorkerWithSmallPool(t *testing.T) {
	for _, size := range []int32{2, 4} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			f := newFixture(t)
			f.work(worker.Config{Pool: f.poolOf(size), Workflows: []*workflow.Definition{countV1}})
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			var runs []workflow.Run[int]
			for i := range 50 {
				runs = append(runs, f.enqueue(i, workflow.EnqueueOptions{}))
			}
			for i, run := range runs {
				if out, err := run.Result(ctx); err != nil || out != i+2 {
					t.Fatalf("got %d, %v", out, err)
				}
			}
		})
	}
}
