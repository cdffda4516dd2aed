package workflow_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
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

var databases = testenv.Databases{
	Migrate: func(ctx context.Context, pool *pgxpool.Pool, schema string) error {
		return workflow.Migrate(ctx, pool, workflow.MigrateOptions{Schema: schema})
	},
	Spent: "EXISTS (SELECT FROM stepward.sandbox)", // engines know a schema by its name
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	pool, schema := databases.Postgres(t)
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

// Whatever a client is asked for first, a schema that is not there, or is that of
// another program, is named.
func TestClientOfAnotherSchema(t *testing.T) {
	f := newFixture(t)
	pool := f.poolOf(1) // a transaction leaves none to look with
	foreign, err := workflow.NewClient(workflow.ClientConfig{Pool: f.pool, Schema: f.schema + "x"})
	if err != nil {
		t.Fatal(err)
	}
	f.exec("INSERT INTO stepward.migration (version) VALUES (3)")
	f.exec("ALTER TABLE stepward.run RENAME TO execution")
	f.exec("ALTER TABLE stepward.schedule RENAME TO timetable")
	ctx, id := t.Context(), workflow.RunID(1)
	news := workflow.NewSignal[int]("news")
	for name, call := range map[string]func(*workflow.Client) error{
		"Enqueue": func(c *workflow.Client) error {
			_, err := count.Enqueue(ctx, c, 1, workflow.EnqueueOptions{})
			return err
		},
		"Enqueue with a key": func(c *workflow.Client) error {
			_, err := count.Enqueue(ctx, c, 1, workflow.EnqueueOptions{Key: "k"})
			return err
		},
		"EnqueueTx": func(c *workflow.Client) error {
			return pgx.BeginFunc(ctx, f.pool, func(tx pgx.Tx) error {
				_, err := count.EnqueueTx(ctx, c, tx, 1, workflow.EnqueueOptions{})
				return err
			})
		},
		"EnqueueMany": func(c *workflow.Client) error {
			for _, err := range count.EnqueueMany(ctx, c, maps.All(map[int]workflow.EnqueueOptions{1: {}})) {
				return err
			}
			return nil
		},
		"Get": func(c *workflow.Client) error { _, err := c.Get(ctx, id); return err },
		"Runs": func(c *workflow.Client) error {
			for _, err := range c.Runs(ctx, workflow.RunFilter{}) {
				return err
			}
			return nil
		},
		"Why":       func(c *workflow.Client) error { _, err := c.Why(ctx, id); return err },
		"Fork":      func(c *workflow.Client) error { _, err := c.Fork(ctx, id, workflow.ForkOptions{}); return err },
		"Schedules": func(c *workflow.Client) error { _, err := c.Schedules(ctx); return err },
		"Status":    func(c *workflow.Client) error { _, err := c.Schedule("daily").Status(ctx); return err },
		"Pause":     func(c *workflow.Client) error { return c.Schedule("daily").Pause(ctx) },
	} {
		for _, c := range []struct {
			client *workflow.Client
			have   int
		}{{foreign, 0}, {f.client, 3}} {
			if e, ok := errors.AsType[*workflow.SchemaError](call(c.client)); !ok || e.Have != c.have || !strings.HasPrefix(e.Schema, f.schema) {
				t.Errorf("%s on version %d: got %v", name, c.have, call(c.client))
			}
			if text := call(c.client).Error(); strings.Contains(text, "SQLSTATE") || strings.Count(text, "workflow: ") != 1 {
				t.Errorf("%s on version %d says more than what is wrong: %s", name, c.have, text)
			}
		}
	}
	for name, call := range map[string]func(*workflow.Client) error{
		"Steps":    func(c *workflow.Client) error { _, err := c.Steps(ctx, id, 0); return err },
		"Result":   func(c *workflow.Client) error { _, err := count.Handle(c, id).Result(ctx); return err },
		"Cancel":   func(c *workflow.Client) error { return c.Cancel(ctx, id) },
		"Send":     func(c *workflow.Client) error { return news.Send(ctx, c, id, 1) },
		"Progress": func(c *workflow.Client) error { _, err := c.Progress(ctx, id); return err },
		"Export":   func(c *workflow.Client) error { _, err := c.Export(ctx, id); return err },
		"Stream": func(c *workflow.Client) error {
			_, _, err := (workflow.Stream[int]{Name: "s"}).Read(ctx, c, id, 0, 1)
			return err
		},
	} {
		if e, ok := errors.AsType[*workflow.SchemaError](call(foreign)); !ok || e.Have != 0 {
			t.Errorf("%s without a schema: got %v", name, call(foreign))
		}
	}
	// In a transaction of a pool without another connection the error is that of Postgres.
	alone, err := workflow.NewClient(workflow.ClientConfig{Pool: pool, Schema: f.schema + "x"})
	if err != nil {
		t.Fatal(err)
	}
	err = pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		_, err := count.EnqueueTx(ctx, alone, tx, 1, workflow.EnqueueOptions{})
		return err
	})
	if refused, ok := errors.AsType[*pgconn.PgError](err); !ok || refused.Code != "42P01" {
		t.Errorf("EnqueueTx without a connection to look with: %v", err)
	}
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
