// Command approval waits for a person, and does not wait for ever: an expense is
// paid once somebody approves it, and sent back when nobody has decided in time.
// While it waits a run is a few rows in Postgres and no memory of a worker.
//
//	go run ./examples/approval
package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/stepward/stepward/examples/internal/app"
	"github.com/stepward/stepward/workflow"
)

// Expense is the input.
type Expense struct {
	Purpose  string
	Cents    int
	Patience time.Duration // how long a decision may take
}

// Decision is what an approver sends.
type Decision struct {
	By       string
	Approved bool
}

// Reimburse is the workflow, and Decide the way into its runs.
var (
	Reimburse = workflow.DurableWorkflow[Expense, string]{Name: "reimburse"}
	Decide    = workflow.NewSignal[Decision]("decide")
)

// A bank would be given StepInfo.IdempotencyKey, to know a repeated request by it.
var pay = workflow.NewStep("pay", func(_ context.Context, e Expense) (string, error) {
	return fmt.Sprintf("paid %d.%02d", e.Cents/100, e.Cents%100), nil
}, workflow.StepOptions{})

var reimburseV1 = workflow.Define(Reimburse, reimburse, workflow.Options{Steps: []workflow.Declared{pay}})

func reimburse(ctx workflow.Context, e Expense) (string, error) {
	d, err := Decide.Receive(ctx, e.Patience)
	switch {
	case errors.Is(err, workflow.ErrTimeout):
		return "sent back: nobody decided in time", nil
	case err != nil:
		return "", err
	case !d.Approved:
		return "refused by " + d.By, nil
	}
	paid, err := pay.Run(ctx, e)
	if err != nil {
		return "", err
	}
	return paid + ", approved by " + d.By, nil
}

func main() { app.Main(example) }

func example(ctx context.Context, a *app.App) error {
	defer a.Work(ctx, reimburseV1)()
	expenses := []Expense{
		{"train to Lyon", 8900, 48 * time.Hour},
		{"a second yacht", 9900000, 48 * time.Hour},
		{"lunch", 1250, time.Second},
	}
	var runs []workflow.Run[string]
	for _, e := range expenses {
		run, err := Reimburse.Enqueue(ctx, a.Client, e, workflow.EnqueueOptions{Tenant: "acme"})
		if err != nil {
			return err
		}
		runs = append(runs, run)
	}
	// A decision may come before the run waits for it.
	if err := Decide.Send(ctx, a.Client, runs[0].ID, Decision{By: "ada", Approved: true}); err != nil {
		return err
	}
	if err := Decide.Send(ctx, a.Client, runs[1].ID, Decision{By: "grace"}); err != nil {
		return err
	}
	for i, run := range runs {
		out, err := run.Result(ctx)
		if err != nil {
			return err
		}
		fmt.Printf("%s: %s\n", expenses[i].Purpose, out)
	}
	return nil
}
