package workflowtest_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/stepward/stepward/workflow"
	"github.com/stepward/stepward/workflow/workflowtest"
)

func ExampleNew() {
	order := workflow.DurableWorkflow[int, string]{Name: "order"}
	approve := workflow.NewSignal[string]("approve")
	charge := workflow.NewStep("charge", func(context.Context, int) (string, error) {
		return "", errors.New("no bank in a test")
	}, workflow.StepOptions{})
	definition := workflow.Define(order, func(ctx workflow.Context, cents int) (string, error) {
		if err := workflow.Sleep(ctx, 365*24*time.Hour); err != nil {
			return "", err
		}
		by, err := approve.Receive(ctx, time.Hour)
		if err != nil {
			return "", err
		}
		receipt, err := charge.Run(ctx, cents)
		return receipt + ", approved by " + by, err
	}, workflow.Options{Steps: []workflow.Declared{charge}})

	e := workflowtest.New(nil, definition) // in a test: New(t, definition)
	workflowtest.Fake(e, charge, func(_ context.Context, cents int) (string, error) { return fmt.Sprint("charged ", cents), nil })
	e.Before("signal:approve", func() {
		if err := workflowtest.Send(e, approve, "ada"); err != nil {
			panic(err)
		}
	})
	e.After("signal:approve", e.Crash)
	fmt.Println(workflowtest.Execute(e, order, 900))
	fmt.Print(e.Record())
	// Output:
	// charged 900, approved by ada <nil>
	// sleep:
	// signal:approve = "ada"
	// charge = "charged 900"
}
