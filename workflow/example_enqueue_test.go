package workflow_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stepward/stepward/workflow"
)

// A run that is part of a transaction of the application exists when that
// commits.
func ExampleDurableWorkflow_EnqueueTx() {
	ctx := context.Background()
	greeting := workflow.DurableWorkflow[string, string]{Name: "greeting"}
	client, pool, stop := serve(ctx, workflow.Define(greeting, func(_ workflow.Context, name string) (string, error) {
		return "hello, " + name, nil
	}, workflow.Options{}))
	defer stop()
	if _, err := pool.Exec(ctx, "CREATE TABLE customer (name text UNIQUE)"); err != nil {
		fmt.Println(err)
	}

	signUp := func(name string) (run workflow.Run[string], err error) {
		err = pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
			if run, err = greeting.EnqueueTx(ctx, client, tx, name, workflow.EnqueueOptions{Tenant: "acme"}); err != nil {
				return err
			}
			_, err = tx.Exec(ctx, "INSERT INTO customer VALUES ($1)", name)
			return err
		})
		return run, err
	}
	run, err := signUp("ada")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(run.Result(ctx))
	again, err := signUp("ada") // there is one, so nobody is greeted
	fmt.Println(err != nil)
	_, err = client.Get(ctx, again.ID)
	fmt.Println(errors.Is(err, workflow.ErrNotFound))
	// Output:
	// hello, ada <nil>
	// true
	// true
}

// A second call with a key finds the run of the first, unless it means another
// one.
func ExampleEnqueueOptions_key() {
	ctx := context.Background()
	client, _, stop := serve(ctx)
	defer stop()
	order := workflow.DurableWorkflow[string, string]{Name: "order"}
	for _, what := range []string{"tea", "tea", "coffee"} {
		run, err := order.Enqueue(ctx, client, what, workflow.EnqueueOptions{Tenant: "acme", Key: "order-7"})
		var conflict *workflow.KeyConflictError
		fmt.Println(what, run.Existing, errors.As(err, &conflict))
	}
	// Output:
	// tea false false
	// tea true false
	// coffee false true
}

// A run that has to be over in time, wherever it is then, cleans up and fails.
func ExampleEnqueueOptions_timeout() {
	ctx := context.Background()
	order := workflow.DurableWorkflow[string, string]{Name: "order"}
	paid := workflow.NewSignal[int]("paid")
	restock := workflow.NewStep("restock", mail[string], workflow.StepOptions{})
	client, _, stop := serve(ctx, workflow.Define(order, func(ctx workflow.Context, what string) (string, error) {
		ctx.Finally(func(ctx workflow.Context) error { _, err := restock.Run(ctx, what); return err })
		_, err := paid.Receive(ctx, 0)
		return what, err
	}, workflow.Options{Steps: []workflow.Declared{restock}}))
	defer stop()
	run, err := order.Enqueue(ctx, client, "tea", workflow.EnqueueOptions{Timeout: time.Second}) // or a day
	if err != nil {
		fmt.Println(err)
		return
	}
	_, err = run.Result(ctx)
	fmt.Println("too late:", errors.Is(err, workflow.ErrTimeout))
	steps, err := client.Steps(ctx, run.ID, 0)
	fmt.Println(steps[len(steps)-1].Step, err)
	// Output:
	// too late: true
	// restock <nil>
}
