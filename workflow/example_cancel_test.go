package workflow_test

import (
	"fmt"
	"time"

	"github.com/stepward/stepward/workflow"
	"github.com/stepward/stepward/workflow/workflowtest"
)

// A customer is reminded each day, until the answer is there: that ends a part of the
// run, and the run goes on.
func ExampleContext_WithCancel() {
	remind := workflow.NewStep("remind", mail[string], workflow.StepOptions{})
	answers := workflow.NewSignal[string]("answers")
	survey := workflow.DurableWorkflow[string, string]{Name: "survey"}
	definition := workflow.Define(survey, func(ctx workflow.Context, customer string) (string, error) {
		reminding, stop := ctx.WithCancel()
		defer stop()
		reminders := workflow.Go(reminding, "reminders", func(ctx workflow.Context) (n int, err error) {
			for workflow.Sleep(ctx, 24*time.Hour) == nil {
				if _, err := remind.Run(ctx, customer); err != nil {
					return n, err
				}
				n++
			}
			return n, nil
		})
		answer, err := answers.Receive(ctx, 0)
		if err != nil {
			return "", err
		}
		stop()
		n, err := reminders.Get(ctx)
		return fmt.Sprintf("%s, after %d reminders", answer, n), err
	}, workflow.Options{Steps: []workflow.Declared{remind}})

	e := workflowtest.New(nil, definition)
	e.After("reminders/remind#3", func() {
		if err := workflowtest.Send(e, answers, "yes"); err != nil {
			fmt.Println(err)
		}
	})
	fmt.Println(workflowtest.Execute(e, survey, "ada"))
	// Output: yes, after 3 reminders <nil>
}
