package workflow_test

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stepward/stepward/workflow"
)

// A run that is part of a transaction of the application exists when that
// commits. The key makes a repetition return the same run. (Compiled, not run: it
// needs Postgres.)
func ExampleDurableWorkflow_EnqueueTx() {
	greeting := workflow.DurableWorkflow[string, string]{Name: "greeting"}

	signUp := func(ctx context.Context, pool *pgxpool.Pool, client *workflow.Client, name string) (run workflow.Run[string], err error) {
		err = pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, "INSERT INTO customer (name) VALUES ($1)", name); err != nil {
				return err
			}
			run, err = greeting.EnqueueTx(ctx, client, tx, name, workflow.EnqueueOptions{Tenant: "acme", Key: "sign-up-" + name})
			return err
		})
		return run, err
	}
	_ = signUp
}

// A run that has to be over in time. (Compiled, not run: it needs Postgres.)
func ExampleEnqueueOptions_timeout() {
	order := workflow.DurableWorkflow[string, string]{Name: "order"}
	enqueue := func(ctx context.Context, c *workflow.Client) (string, error) {
		run, err := order.Enqueue(ctx, c, "tea", workflow.EnqueueOptions{Key: "order-7", Timeout: 24 * time.Hour})
		if err != nil {
			return "", err
		}
		out, err := run.Result(ctx)
		if errors.Is(err, workflow.ErrTimeout) {
			return "too late, and cleaned up", nil
		}
		return out, err
	}
	_ = enqueue
}
