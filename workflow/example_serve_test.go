package workflow_test

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/stepward/stepward/internal/testenv"
	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

// serve gives an example a schema of its own, a client and, if it has definitions,
// a worker. Tables that the example makes through the pool are in that schema.
func serve(ctx context.Context, defs ...*workflow.Definition) (client *workflow.Client, pool *pgxpool.Pool, stop func()) {
	return serveWith(ctx, nil, defs...)
}

// serveWith is serve with a store for large values.
func serveWith(ctx context.Context, store workflow.BlobStore, defs ...*workflow.Definition) (client *workflow.Client, pool *pgxpool.Pool, stop func()) {
	pool, schema, end, err := testenv.ExamplePostgres(ctx, "example")
	if err != nil {
		panic(err)
	}
	if err := workflow.Migrate(ctx, pool, workflow.MigrateOptions{Schema: schema}); err != nil {
		panic(err)
	}
	if client, err = workflow.NewClient(workflow.ClientConfig{Pool: pool, Schema: schema, Blobs: store}); err != nil {
		panic(err)
	}
	if len(defs) == 0 {
		return client, pool, end
	}
	ctx, cancel := context.WithCancel(ctx)
	stopped := make(chan error)
	var health worker.Health
	go func() {
		stopped <- worker.Run(ctx, worker.Config{Pool: pool, Schema: schema, Blobs: store, Workflows: defs, Logger: slog.New(slog.DiscardHandler), Health: &health})
	}()
	until(func() bool { return health.Check(ctx) == nil }) // it has defined the workflows
	return client, pool, func() {
		cancel()
		if err := <-stopped; err != nil {
			fmt.Println(err)
		}
		end()
	}
}

// schemaOf is where an example has its tables.
func schemaOf(ctx context.Context, pool *pgxpool.Pool) (schema string) {
	if err := pool.QueryRow(ctx, "SELECT current_schema()").Scan(&schema); err != nil {
		panic(err)
	}
	return schema
}

// reaches waits until a run is in a state.
func reaches(ctx context.Context, client *workflow.Client, id workflow.RunID, want workflow.State) {
	until(func() bool {
		s, err := client.Get(ctx, id)
		return err == nil && s.State == want
	})
}

// records waits until the result of a step is on record.
func records(ctx context.Context, client *workflow.Client, id workflow.RunID, step string) {
	until(func() bool {
		steps, err := client.Steps(ctx, id, 0)
		return err == nil && slices.ContainsFunc(steps, func(s workflow.StepStatus) bool { return s.Step == step && s.Recorded })
	})
}

func until(done func() bool) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for range 18000 { // three minutes at least: the machine may be busy
		if done() {
			return
		}
		<-tick.C
	}
	panic("it does not happen")
}
