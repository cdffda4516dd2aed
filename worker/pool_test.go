//go:build unix

package worker_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/stepward/stepward/internal/testenv"
	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

// A few of medley that a body can do.
var medley = part{Op: "seq", Parts: []part{
	{Op: "plus", N: 1}, {Op: "odd", N: 2}, {Op: "coin"}, {Op: "map", N: 9}, {Op: "nap", N: 5}, {Op: "never"},
	{Op: "each", Parts: []part{{Op: "plus", N: 4}, {Op: "coin"}, {Op: "late", N: 3}}},
	{Op: "ready", Parts: []part{{Op: "plus", N: 3}, {Op: "child", Parts: []part{{Op: "map", N: 3}}}}},
}}

// Workers and clients do their work whatever lies between them and Postgres:
// a pooler in transaction mode with few connections, or a pool of two, also when
// their turns read what is on record by the piece.
func TestConnections(t *testing.T) {
	two := func(t *testing.T) *pgxpool.Config {
		cfg := parsePool(t, databases.URL(t))
		cfg.MaxConns = 2
		return cfg
	}
	for _, test := range []struct {
		name  string
		pool  func(t *testing.T) *pgxpool.Config
		pages bool
	}{
		{"PgBouncer/exec", func(t *testing.T) *pgxpool.Config {
			cfg := parsePool(t, testenv.PgBouncer(t, databases.URL(t), 4))
			cfg.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeExec
			return cfg
		}, false},
		{"PgBouncer/describe", func(t *testing.T) *pgxpool.Config {
			cfg := parsePool(t, testenv.PgBouncer(t, databases.URL(t), 4))
			cfg.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
			return cfg
		}, false},
		{"two", two, false},
		{"two/pages", two, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			f.exec("CREATE TABLE stepward.account (run text NOT NULL)")
			f.appTables()
			open := func() *pgxpool.Pool {
				pool, err := pgxpool.NewWithConfig(t.Context(), test.pool(t))
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(pool.Close)
				return pool
			}
			pool := open()
			client, err := workflow.NewClient(workflow.ClientConfig{Pool: pool, Schema: f.schema})
			if err != nil {
				t.Fatal(err)
			}
			pay := workflow.NewTxStep("pay", func(ctx context.Context, tx pgx.Tx, n int) (int, error) {
				info, _ := workflow.StepInfoFrom(ctx)
				_, err := tx.Exec(ctx, f.sql("INSERT INTO stepward.account VALUES ($1)"), info.Run.String())
				return n, err
			}, workflow.StepOptions{})
			paid := workflow.DurableWorkflow[int, int]{Name: "paid"}
			paidV1 := workflow.Define(paid, passes(double, pay, double), workflow.Options{Steps: []workflow.Declared{double, pay}})
			for _, name := range []string{"one", "two"} {
				cfg := worker.Config{Name: name, Pool: open(), HeartbeatURL: databases.URL(t), LeaseTTL: 5 * time.Second,
					Workflows: []*workflow.Definition{randomV1, childV1, paidV1}}
				if test.pages {
					cfg = cfg.WithHistory(1).WithPage(2)
				}
				f.start(cfg)
			}
			in := program{App: f.schema, Part: medley}
			want := in.model()
			var runs []workflow.Run[int]
			var payments []workflow.Run[int]
			for range 8 {
				run, err := random.Enqueue(t.Context(), client, in, workflow.EnqueueOptions{})
				if err != nil {
					t.Fatal(err)
				}
				runs = append(runs, run)
				if run, err = paid.Enqueue(t.Context(), client, 1, workflow.EnqueueOptions{}); err != nil {
					t.Fatal(err)
				}
				payments = append(payments, run)
			}
			if test.pages { // the next turns have something to read
				for _, run := range runs {
					f.waits(run.ID)
				}
			}
			for range want.coins {
				for _, run := range runs {
					if err := coin.Send(t.Context(), client, run.ID, 1); err != nil {
						t.Fatal(err)
					}
				}
			}
			for _, run := range runs {
				ends(t, f.client, run, want.value)
			}
			for _, run := range payments {
				ends(t, f.client, run, 4)
			}
			if n := f.count("SELECT count(DISTINCT run) FROM stepward.account"); n != len(payments) || n != f.count("SELECT count(*) FROM stepward.account") {
				t.Errorf("%d runs of %d paid", n, len(payments))
			}
			if n := f.count("SELECT count(*) FROM stepward.event WHERE kind = 'run.recovered'"); n != 0 {
				t.Errorf("%d runs lost their worker", n)
			}
		})
	}
}

func parsePool(t *testing.T, url string) *pgxpool.Config {
	t.Helper()
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// Steps that keep their transactions open for long, more of them than there are
// connections, do not keep the worker from recording other steps.
func TestOpenTransactions(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	cfg := parsePool(t, databases.URL(t))
	cfg.MaxConns = 3
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	began, release := make(chan struct{}, 8), make(chan struct{})
	long := workflow.NewTxStep("long", func(_ context.Context, _ pgx.Tx, n int) (int, error) {
		began <- struct{}{}
		<-release
		return n, nil
	}, workflow.StepOptions{})
	holds := workflow.DurableWorkflow[int, int]{Name: "holds"}
	f.start(worker.Config{Pool: pool, Workflows: []*workflow.Definition{
		workflow.Define(holds, passes(long), workflow.Options{Steps: []workflow.Declared{long}}), defines(passes(double), double)}})
	var runs []workflow.Run[int]
	for range 6 {
		run, err := holds.Enqueue(t.Context(), f.client, 7, workflow.EnqueueOptions{})
		if err != nil {
			t.Fatal(err)
		}
		runs = append(runs, run)
	}
	arrives(t, began)
	arrives(t, began) // as many as may be open
	ends(t, f.client, f.enqueue(5), 10)
	close(release)
	for _, run := range runs {
		ends(t, f.client, run, 7)
	}
}

// Of several workers on one pool, the steps that keep their transactions open
// leave a connection to all of them.
func TestOpenTransactionsOfTwoWorkers(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	cfg := parsePool(t, databases.URL(t))
	cfg.MaxConns = 3
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	began, release := make(chan struct{}, 8), make(chan struct{})
	long := workflow.NewTxStep("long", func(_ context.Context, _ pgx.Tx, n int) (int, error) {
		began <- struct{}{}
		<-release
		return n, nil
	}, workflow.StepOptions{})
	const steps, each = 50, 2
	holds := workflow.DurableWorkflow[int, int]{Name: "holds"}
	def := workflow.Define(holds, func(ctx workflow.Context, n int) (int, error) {
		held := long.Go(ctx, n)
		for range steps {
			if _, err := double.Run(ctx, n); err != nil {
				return 0, err
			}
		}
		return held.Get(ctx)
	}, workflow.Options{Steps: []workflow.Declared{long, double}})
	for _, name := range []string{"one", "two"} {
		f.start(worker.Config{Name: name, Pool: pool, MaxRuns: each, Workflows: []*workflow.Definition{def}})
	}
	end := sync.OnceFunc(func() { close(release) })
	t.Cleanup(end) // before the workers'
	var runs []workflow.Run[int]
	for range 2 * each {
		run, err := holds.Enqueue(t.Context(), f.client, 7, workflow.EnqueueOptions{})
		if err != nil {
			t.Fatal(err)
		}
		runs = append(runs, run)
	}
	arrives(t, began)
	arrives(t, began) // as many as may be open
	eventually(t, "the other steps of all runs are recorded", func() bool {
		return f.count("SELECT count(*) FROM stepward.step") >= 2*each*steps
	})
	end()
	for _, run := range runs {
		ends(t, f.client, run, 7)
	}
}

func TestOneConnection(t *testing.T) {
	cfg := parsePool(t, databases.URL(t))
	cfg.MaxConns = 1
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	err = worker.Run(t.Context(), worker.Config{Pool: pool, Workflows: []*workflow.Definition{randomV1}})
	if err == nil || !strings.Contains(err.Error(), "at least 2") {
		t.Errorf("a pool of one connection: %v", err)
	}
}
