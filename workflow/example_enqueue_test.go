package workflow_test

import (
	"context"

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
