package workflow_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stepward/stepward/workflow"
	"github.com/stepward/stepward/workflow/workflowtest"
)

// A decision is waited for, but not for ever. The run costs nothing meanwhile.
func ExampleSignal_Receive() {
	expense := workflow.DurableWorkflow[int, string]{Name: "expense"}
	approve := workflow.NewSignal[bool]("approve")
	definition := workflow.Define(expense, func(ctx workflow.Context, cents int) (string, error) {
		ok, err := approve.Receive(ctx, 7*24*time.Hour)
		switch {
		case errors.Is(err, workflow.ErrTimeout):
			return "nobody answered", nil
		case err != nil:
			return "", err
		case ok:
			return "approved", nil
		}
		return "refused", nil
	}, workflow.Options{})

	e := workflowtest.New(nil, definition)
	if err := workflowtest.Send(e, approve, true); err != nil { // it is kept until it is awaited
		fmt.Println(err)
	}
	fmt.Println(workflowtest.Execute(e, expense, 900))
	fmt.Println(workflowtest.Execute(e, expense, 900))
	// Output:
	// approved <nil>
	// nobody answered <nil>
}

// The payment of the application and the news of it are one transaction: the run
// never goes on for a payment that was rolled back.
func ExampleSignal_SendTx() {
	ctx := context.Background()
	delivery := workflow.DurableWorkflow[string, string]{Name: "delivery"}
	paid := workflow.NewSignal[int]("paid")
	client, pool, stop := serve(ctx, workflow.Define(delivery, func(ctx workflow.Context, what string) (string, error) {
		cents, err := paid.Receive(ctx, 0)
		return fmt.Sprintf("%s for %d", what, cents), err
	}, workflow.Options{}))
	defer stop()
	if _, err := pool.Exec(ctx, "CREATE TABLE payment (cents int CHECK (cents > 0))"); err != nil {
		fmt.Println(err)
	}
	run, err := delivery.Enqueue(ctx, client, "tea", workflow.EnqueueOptions{})
	if err != nil {
		fmt.Println(err)
		return
	}
	pay := func(cents int) error {
		return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
			if err := paid.SendTx(ctx, client, tx, run.ID, cents); err != nil {
				return err
			}
			_, err := tx.Exec(ctx, "INSERT INTO payment VALUES ($1)", cents)
			return err
		})
	}
	fmt.Println("refused:", pay(-1) != nil)
	fmt.Println("refused:", pay(350) != nil)
	fmt.Println(run.Result(ctx))
	// Output:
	// refused: true
	// refused: false
	// tea for 350 <nil>
}
