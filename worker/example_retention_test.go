package worker_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/stepward/stepward/internal/testenv"
	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

// Runs that have completed are deleted after a while, with all that is on record
// of them; those that have failed are kept for ever.
func ExampleRetention() {
	ctx, stop := context.WithTimeout(context.Background(), time.Minute)
	defer stop()
	pool, schema, client, end := store(ctx)
	defer end()
	odd := workflow.DurableWorkflow[int, int]{Name: "odd"}
	definition := workflow.Define(odd, func(_ workflow.Context, n int) (int, error) {
		if n%2 == 0 {
			return 0, errors.New("an even number")
		}
		return n, nil
	}, workflow.Options{})
	config := worker.Config{Pool: pool, Schema: schema, Workflows: []*workflow.Definition{definition}, Logger: slog.New(slog.DiscardHandler)}
	pause := work(ctx, config)
	var runs []workflow.Run[int]
	for n := 1; n <= 2; n++ {
		run, err := odd.Enqueue(ctx, client, n, workflow.EnqueueOptions{})
		if err != nil {
			fmt.Println(err)
			return
		}
		out, err := run.Result(ctx)
		fmt.Println(out, err != nil)
		runs = append(runs, run)
	}
	pause()

	config.Retention = worker.Retention{Completed: time.Millisecond} // or 30*24*time.Hour
	defer work(ctx, config)()
	var err error
	for tick := time.Tick(10 * time.Millisecond); err == nil; <-tick {
		_, err = client.Get(ctx, runs[0].ID)
	}
	fmt.Println("completed: gone", errors.Is(err, workflow.ErrNotFound))
	kept, err := client.Get(ctx, runs[1].ID)
	fmt.Println("failed:", kept.State, err)
	// Output:
	// 1 false
	// 0 true
	// completed: gone true
	// failed: failed <nil>
}

// work runs a worker until stop is called.
func work(ctx context.Context, cfg worker.Config) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	stopped := make(chan error)
	go func() { stopped <- worker.Run(ctx, cfg) }()
	return func() {
		cancel()
		if err := <-stopped; err != nil {
			fmt.Println(err)
		}
	}
}

// store gives an example a schema of its own.
func store(ctx context.Context) (pool *pgxpool.Pool, schema string, client *workflow.Client, end func()) {
	pool, schema, end, err := testenv.ExamplePostgres(ctx, "example")
	if err != nil {
		panic(err)
	}
	if err := workflow.Migrate(ctx, pool, workflow.MigrateOptions{Schema: schema}); err != nil {
		panic(err)
	}
	if client, err = workflow.NewClient(workflow.ClientConfig{Pool: pool, Schema: schema}); err != nil {
		panic(err)
	}
	return pool, schema, client, end
}
