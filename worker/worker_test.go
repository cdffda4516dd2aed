package worker_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
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

// fixture is what a test of the worker stands on: a schema of its own, a client,
// and workers that end with the test.
type fixture struct {
	t      *testing.T
	pool   *pgxpool.Pool
	schema string
	client *workflow.Client
}

// databases are those of all fixtures. Engines know a schema by its name, so what they may
// still have sandboxes of is used once.
var databases = testenv.Databases{
	Migrate: func(ctx context.Context, pool *pgxpool.Pool, schema string) error {
		return workflow.Migrate(ctx, pool, workflow.MigrateOptions{Schema: schema})
	},
	Spent: "EXISTS (SELECT FROM stepward.sandbox)",
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	pool, schema := databases.Postgres(t)
	client, err := workflow.NewClient(workflow.ClientConfig{Pool: pool, Schema: schema})
	if err != nil {
		t.Fatal(err)
	}
	return &fixture{t: t, pool: pool, schema: schema, client: client}
}

// start runs a worker and returns what stops it and waits.
func (f *fixture) start(cfg worker.Config) (stop func()) {
	f.t.Helper()
	cfg.Schema = f.schema
	if cfg.Pool == nil {
		cfg.Pool = f.pool
	}
	if cfg.Logger == nil {
		level := slog.LevelWarn
		if testing.Verbose() {
			level = slog.LevelDebug
		}
		cfg.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- worker.Run(ctx, cfg) }()
	return testenv.Stopper(f.t, "worker.Run", cancel, done)
}

// sql puts the names of the fixture's schemas where a statement says stepward or
// stepward_river.
func (f *fixture) sql(text string) string {
	return strings.ReplaceAll(strings.ReplaceAll(text, "stepward_river.", f.schema+"_river."), "stepward.", f.schema+".")
}

func (f *fixture) exec(sql string, args ...any) {
	f.t.Helper()
	if _, err := f.pool.Exec(f.t.Context(), f.sql(sql), args...); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) count(sql string, args ...any) (n int) {
	f.t.Helper()
	if err := f.pool.QueryRow(f.t.Context(), f.sql(sql), args...).Scan(&n); err != nil {
		f.t.Fatal(err)
	}
	return n
}

// begin opens a transaction that ends with the test at the latest.
func (f *fixture) begin() pgx.Tx {
	f.t.Helper()
	tx, err := f.pool.Begin(f.t.Context())
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = tx.Rollback(context.Background()) }) // most have ended
	return tx
}

func sum(ns []int) (total int) {
	for _, n := range ns {
		total += n
	}
	return total
}

// expire lets the leases of workers with a name run out, so that a test need not
// wait for it.
func (f *fixture) expire(name string) {
	f.t.Helper()
	f.exec("UPDATE stepward.worker SET lease_until = clock_timestamp() - interval '1 hour' WHERE name = $1", name)
}

// state returns where a run is.
func (f *fixture) state(id workflow.RunID) workflow.RunStatus {
	f.t.Helper()
	s, err := f.client.Get(f.t.Context(), id)
	if err != nil {
		f.t.Fatal(err)
	}
	return s
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

const patience = testenv.Patience

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	testenv.Eventually(t, what, f)
}

// arrives receives from a channel what must come.
func arrives[T any](t *testing.T, from <-chan T) T {
	t.Helper()
	return testenv.Receive(t, from)
}

// outcome is the run's Result. A run that does not end, as one that parks does not, fails
// the test, which says why it does not: Result would wait for ever.
func outcome[Out any](t *testing.T, c *workflow.Client, run workflow.Run[Out]) (Out, error) {
	t.Helper()
	return outcomeIn(t, patience, c, run)
}

func outcomeIn[Out any](t *testing.T, wait time.Duration, c *workflow.Client, run workflow.Run[Out]) (Out, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	defer cancel()
	out, err := run.Result(ctx)
	if err != nil && ctx.Err() != nil && t.Context().Err() == nil {
		why, werr := c.Why(t.Context(), run.ID)
		if werr != nil {
			t.Error(werr)
		}
		t.Errorf("run %v has not ended in %v: %v", run.ID, wait, why)
	}
	return out, err
}

var double = workflow.NewStep("double", func(ctx context.Context, n int) (int, error) { return 2 * n, nil }, workflow.StepOptions{})

var chain = workflow.DurableWorkflow[int, int]{Name: "chain"}

// chainV1 doubles as often as its input says.
var chainV1 = workflow.Define(chain, func(ctx workflow.Context, n int) (int, error) {
	v := 1
	for range n {
		var err error
		if v, err = double.Run(ctx, v); err != nil {
			return 0, err
		}
	}
	return v, nil
}, workflow.Options{Steps: []workflow.Declared{double}})

func TestRunCompletes(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.start(worker.Config{Workflows: []*workflow.Definition{chainV1}})
	run, err := chain.Enqueue(t.Context(), f.client, 10, workflow.EnqueueOptions{Tenant: "acme"})
	if err != nil {
		t.Fatal(err)
	}
	out, err := outcome(t, f.client, run)
	if err != nil || out != 1024 {
		t.Fatalf("got %d, %v", out, err)
	}
	steps, err := f.client.Steps(t.Context(), run.ID, 0)
	if err != nil {
		t.Fatal(err)
	}
	if len(steps) != 10 || steps[9].Step != "double#10" || !steps[9].Recorded || string(steps[9].Output) != "1024" {
		t.Fatalf("steps: %+v", steps)
	}
}

func TestRetryAndFailure(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	var calls sync.Map
	flaky := workflow.NewStep("flaky", func(ctx context.Context, n int) (int, error) {
		info, _ := workflow.StepInfoFrom(ctx)
		calls.Store(info.Attempt, true)
		if info.Attempt <= n {
			return 0, fmt.Errorf("not yet: %d", info.Attempt)
		}
		return info.Attempt, nil
	}, workflow.StepOptions{Retry: workflow.Retry{MaxAttempts: 3, Backoff: time.Millisecond}})
	w := workflow.DurableWorkflow[int, int]{Name: "flaky"}
	def := workflow.Define(w, func(ctx workflow.Context, n int) (int, error) { return flaky.Run(ctx, n) }, workflow.Options{Steps: []workflow.Declared{flaky}})
	f.start(worker.Config{Workflows: []*workflow.Definition{def}})

	run, err := w.Enqueue(t.Context(), f.client, 2, workflow.EnqueueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if out, err := outcome(t, f.client, run); err != nil || out != 3 {
		t.Fatalf("got %d, %v", out, err)
	}
	steps, err := f.client.Steps(t.Context(), run.ID, 0)
	if err != nil || len(steps) != 3 || steps[0].Err == nil || !steps[2].Recorded {
		t.Fatalf("steps: %+v, %v", steps, err)
	}

	run, err = w.Enqueue(t.Context(), f.client, 9, workflow.EnqueueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = outcome(t, f.client, run)
	var failed *workflow.RecordedError
	if !errors.As(err, &failed) || failed.Step != "flaky" || failed.Attempt != 3 {
		t.Fatalf("got %v", err)
	}
}
