// Command transfer moves money between accounts that are rows of the
// application's own tables. Each transfer is a step in a transaction: the rows
// and the step's checkpoint commit together, so it happens exactly once, although
// every second transfer panics in its first attempt, after it has written.
//
//	go run ./examples/transfer
package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/stepward/stepward/examples/internal/app"
	"github.com/stepward/stepward/workflow"
)

// Transfer is the input.
type Transfer struct {
	From, To string
	Cents    int
}

// Move is the workflow.
var Move = workflow.DurableWorkflow[Transfer, int]{Name: "move-money"}

// ErrFunds is the reason of a transfer that no retry can help.
var ErrFunds = errors.New("insufficient funds")

// define makes the workflow for tables in a schema.
func define(schema string) *workflow.Definition {
	move := workflow.NewTxStep("move", func(ctx context.Context, tx pgx.Tx, t Transfer) (balance int, err error) {
		// The accounts in one order, so that two transfers never wait for each other.
		if _, err = tx.Exec(ctx, "SELECT FROM "+schema+".account WHERE name IN ($1, $2) ORDER BY name FOR UPDATE", t.From, t.To); err != nil {
			return 0, err
		}
		err = tx.QueryRow(ctx, "UPDATE "+schema+".account SET cents = cents - $2 WHERE name = $1 RETURNING cents", t.From, t.Cents).Scan(&balance)
		if err != nil {
			return 0, err
		}
		if balance < 0 {
			return 0, workflow.Permanent(ErrFunds)
		}
		if _, err = tx.Exec(ctx, "UPDATE "+schema+".account SET cents = cents + $2 WHERE name = $1", t.To, t.Cents); err != nil {
			return 0, err
		}
		info, _ := workflow.StepInfoFrom(ctx)
		if _, err = tx.Exec(ctx, "INSERT INTO "+schema+".entry (run, cents) VALUES ($1, $2)", info.Run.String(), t.Cents); err != nil {
			return 0, err
		}
		if info.Attempt == 1 && t.Cents%2 == 0 {
			panic("lost after all was written")
		}
		return balance, nil
	}, workflow.StepOptions{})
	return workflow.Define(Move, func(ctx workflow.Context, t Transfer) (int, error) {
		return move.Run(ctx, t)
	}, workflow.Options{Steps: []workflow.Declared{move}})
}

func main() { app.Main(example) }

func example(ctx context.Context, a *app.App) error {
	if _, err := a.Pool.Exec(ctx, fmt.Sprintf(`
		CREATE TABLE %[1]s.account (name text PRIMARY KEY, cents int NOT NULL);
		CREATE TABLE %[1]s.entry (run text NOT NULL, cents int NOT NULL);
		INSERT INTO %[1]s.account VALUES ('ada', 10000), ('grace', 10000), ('mary', 10000)`, a.Tables)); err != nil {
		return err
	}
	defer a.Work(ctx, define(a.Tables))()
	names := []string{"ada", "grace", "mary"}
	var runs []workflow.Run[int]
	for i := range 60 {
		t := Transfer{From: names[i%3], To: names[(i+1)%3], Cents: 100 + i}
		run, err := Move.Enqueue(ctx, a.Client, t, workflow.EnqueueOptions{Key: fmt.Sprint("transfer-", i)})
		if err != nil {
			return err
		}
		runs = append(runs, run)
	}
	for _, run := range runs {
		if _, err := run.Result(ctx); err != nil {
			return err
		}
	}
	var entries, distinct, total int
	if err := a.Pool.QueryRow(ctx, fmt.Sprintf("SELECT count(*), count(DISTINCT run), (SELECT sum(cents) FROM %[1]s.account) FROM %[1]s.entry", a.Tables)).
		Scan(&entries, &distinct, &total); err != nil {
		return err
	}
	fmt.Printf("%d transfers wrote %d entries, of %d runs; the accounts have %d cents, as before\n", len(runs), entries, distinct, total)
	run, err := Move.Enqueue(ctx, a.Client, Transfer{From: "mary", To: "ada", Cents: 1000001}, workflow.EnqueueOptions{})
	if err != nil {
		return err
	}
	_, err = run.Result(ctx)
	var failed *workflow.RecordedError
	if !errors.As(err, &failed) {
		return fmt.Errorf("a transfer without funds: %w", err)
	}
	fmt.Println("too much is refused:", failed)
	return nil
}
