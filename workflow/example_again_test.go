package workflow_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/stepward/stepward/workflow"
	"github.com/stepward/stepward/workflow/workflowtest"
)

// Reminders go on until the bill is paid. Each month begins anew, with nothing on
// record but its input, so that no replay gets longer than a month.
func ExampleDurableWorkflow_ContinueAsNew() {
	type bill struct {
		Customer  string
		Reminders int
	}
	collect := workflow.DurableWorkflow[bill, string]{Name: "collect"}
	paid := workflow.NewSignal[int]("paid")
	remind := workflow.NewStep("remind", mail[bill], workflow.StepOptions{})
	definition := workflow.Define(collect, func(ctx workflow.Context, b bill) (string, error) {
		amount, err := paid.Receive(ctx, 30*24*time.Hour)
		switch {
		case err == nil:
			return fmt.Sprintf("%s paid %d after %d reminders", b.Customer, amount, b.Reminders), nil
		case !errors.Is(err, workflow.ErrTimeout):
			return "", err
		}
		b.Reminders++
		if _, err := remind.Run(ctx, b); err != nil {
			return "", err
		}
		return "", collect.ContinueAsNew(b)
	}, workflow.Options{Steps: []workflow.Declared{remind}})

	e := workflowtest.New(nil, definition)
	workflowtest.Fake(e, remind, func(_ context.Context, b bill) (string, error) {
		if b.Reminders < 12 {
			return "no answer", nil
		}
		return "a check", workflowtest.Send(e, paid, 120)
	})
	fmt.Println(workflowtest.Execute(e, collect, bill{Customer: "ada"}))
	fmt.Print(e.Record())
	// Output:
	// ada paid 120 after 12 reminders <nil>
	// signal:paid = 120
}

// mail stands for a call of an outside system.
func mail[T any](_ context.Context, to T) (string, error) { return fmt.Sprint("a mail to ", to), nil }
