package rivertest

import (
	"context"
	"log/slog"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"

	"github.com/stepward/stepward/internal/testenv"
	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

// fixture is a migrated schema with a worker on it.
type fixture struct {
	pool   *pgxpool.Pool
	schema string
	client *workflow.Client
	river  *river.Client[pgx.Tx] // a plain one, which only inserts
	calls  *atomic.Int64         // how often the step was executed
}

var double = workflow.DurableWorkflow[int, int]{Name: "double"}

func newFixture(t *testing.T) fixture {
	t.Helper()
	pool, schema := testenv.Postgres(t)
	if err := workflow.Migrate(t.Context(), pool, workflow.MigrateOptions{Schema: schema}); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	f := fixture{pool: pool, schema: schema, calls: new(atomic.Int64)}
	var err error
	if f.client, err = workflow.NewClient(workflow.ClientConfig{Pool: pool, Schema: schema, Logger: log}); err != nil {
		t.Fatal(err)
	}
	if f.river, err = river.NewClient(riverpgxv5.New(pool), &river.Config{Schema: schema + "_river", Logger: log}); err != nil {
		t.Fatal(err)
	}
	step := workflow.NewStep("double", func(_ context.Context, n int) (int, error) {
		f.calls.Add(1)
		return 2 * n, nil
	}, workflow.StepOptions{})
	def := workflow.Define(double, func(ctx workflow.Context, n int) (int, error) { return step.Run(ctx, n) },
		workflow.Options{Steps: []workflow.Declared{step}})

	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- worker.Run(ctx, worker.Config{Pool: pool, Schema: schema, Workflows: []*workflow.Definition{def}, Logger: log})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("worker.Run: %v", err)
		}
	})
	return f
}

// eventually looks again and again until f reports true.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !f() {
		select {
		case <-ctx.Done():
			t.Fatalf("did not happen: %s", what)
		case <-tick.C:
		}
	}
}
