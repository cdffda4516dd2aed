//go:build unix

package worker_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/stepward/stepward/internal/testenv"
	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

// newClockFixture is a fixture whose database clock can be set: functions of the
// names that Postgres has stand before those of Postgres.
func newClockFixture(t *testing.T) (f *fixture, set func(interval string), open func(*line) *pgxpool.Pool) {
	t.Helper()
	f = &fixture{t: t}
	f.pool, f.schema = testenv.Postgres(t)
	set, open = f.withClock(testenv.PostgresURL(t))
	return f, set, open
}

// withClock makes the schema, with such a clock, and the client.
func (f *fixture) withClock(url string) (set func(interval string), open func(*line) *pgxpool.Pool) {
	t := f.t
	t.Helper()
	clock := f.schema + "_clock"
	f.exec("CREATE SCHEMA " + clock)
	t.Cleanup(func() { // before the pool is closed
		if _, err := f.pool.Exec(context.Background(), "DROP SCHEMA "+clock+" CASCADE"); err != nil {
			t.Error(err)
		}
	})
	f.exec("CREATE TABLE " + clock + ".ahead AS SELECT interval '0' AS by")
	for _, name := range []string{"clock_timestamp", "statement_timestamp", "now"} {
		f.exec("CREATE FUNCTION " + clock + "." + name + "() RETURNS timestamptz LANGUAGE sql STABLE AS $$ SELECT pg_catalog." + name + "() + by FROM " + clock + ".ahead $$")
	}
	open = func(l *line) *pgxpool.Pool {
		cfg := parsePool(t, url)
		cfg.ConnConfig.RuntimeParams["search_path"] = clock + ", pg_catalog"
		if l != nil {
			cfg.ConnConfig.DialFunc = l.dial
		}
		pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(pool.Close)
		return pool
	}
	if err := workflow.Migrate(t.Context(), open(nil), workflow.MigrateOptions{Schema: f.schema}); err != nil {
		t.Fatal(err)
	}
	var err error
	if f.client, err = workflow.NewClient(workflow.ClientConfig{Pool: open(nil), Schema: f.schema}); err != nil {
		t.Fatal(err)
	}
	return func(interval string) { f.exec("UPDATE "+clock+".ahead SET by = $1::text::interval", interval) }, open
}

// When the clock of Postgres leaps an hour ahead, all leases have run out at once:
// runs change hands, and no more happens. When it is set back by an hour, a worker
// that has just died is still missed within seconds.
func TestClockSteps(t *testing.T) {
	t.Parallel()
	f, set, open := newClockFixture(t)
	began, release := make(chan int, 8), make(chan struct{})
	hold := workflow.NewStep("hold", func(ctx context.Context, n int) (int, error) {
		began <- n
		select {
		case <-release:
			return n, nil
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}, workflow.StepOptions{})
	def := defines(passes(double, hold, double), double, hold)
	l, _ := newLine(t, true)
	alone := f.start(worker.Config{Name: "one", Pool: open(l), LeaseTTL: 2 * time.Second, DrainTimeout: time.Millisecond, Workflows: []*workflow.Definition{def}})
	run := f.enqueue(3)
	arrives(t, began)
	// Its worker has a new session, or another one has the run. A heartbeat may come
	// before anybody looks, and the lease goes on: then it leaps again.
	leaps := time.NewTicker(time.Second)
	defer leaps.Stop()
	for hours, again := 1, false; !again; hours++ {
		set(fmt.Sprint(hours, " hours"))
		select {
		case <-began:
			again = true
		case <-leaps.C:
		}
	}
	if n := f.state(run.ID).Turns; n < 2 {
		t.Errorf("the run began again in turn %d", n)
	}
	eventually(t, "the worker's lease is of the new time", func() bool {
		return f.count("SELECT count(*) FROM stepward.worker WHERE state = 'live' AND lease_until > pg_catalog.clock_timestamp() + interval '59 minutes'") == 1
	})
	l.cut()
	set("0")
	f.start(worker.Config{Name: "two", Pool: open(nil), LeaseTTL: 2 * time.Second, Workflows: []*workflow.Definition{def}})
	eventually(t, "the other worker holds the run", func() bool { return f.state(run.ID).Worker == "two" })
	close(release)
	ends(t, f.client, run, 12)
	l.mend()
	alone()
	if n := f.count("SELECT count(*) FROM stepward.step"); n != 3 {
		t.Errorf("%d checkpoints", n)
	}
}

// A clock that is set back does not hold back what has a limit of its rate.
func TestClockStepsBackOverLimit(t *testing.T) {
	t.Parallel()
	f, set, open := newClockFixture(t)
	f.start(worker.Config{Pool: open(nil), Workflows: []*workflow.Definition{chainV1}})
	for _, at := range []string{"1 hour", "0"} {
		set(at)
		run, err := chain.Enqueue(t.Context(), f.client, 1, workflow.EnqueueOptions{Limit: workflow.Limit{Key: "rare", Rate: 1}})
		if err != nil {
			t.Fatal(err)
		}
		if out, err := outcome(t, f.client, run); err != nil || out != 2 {
			t.Fatalf("got %d, %v", out, err)
		}
	}
}
