package workflow_test

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/stepward/stepward/workflow"
)

// The rows of the application and the checkpoint are one commit. Whatever becomes
// of the worker, the money has been moved once, or not yet.
func ExampleNewTxStep() {
	ctx := context.Background()
	type transfer struct {
		From, To string
		Cents    int
	}
	move := workflow.NewTxStep("move", func(ctx context.Context, tx pgx.Tx, t transfer) (left int, err error) {
		if _, err := tx.Exec(ctx, "UPDATE account SET cents = cents + $2 WHERE owner = $1", t.To, t.Cents); err != nil {
			return 0, err
		}
		err = tx.QueryRow(ctx, "UPDATE account SET cents = cents - $2 WHERE owner = $1 RETURNING cents", t.From, t.Cents).Scan(&left)
		if err == nil && left < 0 {
			err = workflow.Permanent(fmt.Errorf("%s lacks %d", t.From, -left)) // nothing is moved
		}
		return left, err
	}, workflow.StepOptions{})
	pay := workflow.DurableWorkflow[transfer, int]{Name: "pay"}
	client, pool, stop := serve(ctx, workflow.Define(pay, func(ctx workflow.Context, t transfer) (int, error) {
		return move.Run(ctx, t)
	}, workflow.Options{Steps: []workflow.Declared{move}}))
	defer stop()
	if _, err := pool.Exec(ctx, "CREATE TABLE account (owner, cents) AS VALUES ('ada', 100), ('grace', 0)"); err != nil {
		fmt.Println(err)
	}

	for _, key := range []string{"rent-may", "rent-may", "rent-june"} { // the second call finds the first one's run
		run, err := pay.Enqueue(ctx, client, transfer{"ada", "grace", 70}, workflow.EnqueueOptions{Key: key})
		if err != nil {
			fmt.Println(err)
			return
		}
		left, err := run.Result(ctx)
		fmt.Println(key, left, err != nil)
	}
	// Output:
	// rent-may 30 false
	// rent-may 30 false
	// rent-june 0 true
}
