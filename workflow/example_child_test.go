package workflow_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/stepward/stepward/workflow"
	"github.com/stepward/stepward/workflow/workflowtest"
)

// A workflow calls another one, or itself, as it calls a step. Each child is a run
// of its own, with its own history; a failure of it is a StepError.
func ExampleDurableWorkflow_Run() {
	archive := workflow.DurableWorkflow[string, int]{Name: "archive"}
	library := workflow.DurableWorkflow[[]string, string]{Name: "library"}
	archiveV1 := workflow.Define(archive, func(_ workflow.Context, text string) (int, error) {
		if text == "" {
			return 0, errors.New("an empty book")
		}
		return len(text), nil
	}, workflow.Options{})
	libraryV1 := workflow.Define(library, func(ctx workflow.Context, books []string) (report string, err error) {
		for _, book := range books {
			n, err := archive.Run(ctx, book)
			var failed *workflow.StepError
			switch {
			case errors.As(err, &failed):
				report += fmt.Sprintf("%s failed: %v\n", failed.Step, failed.Err)
			case err != nil:
				return "", err
			default:
				report += fmt.Sprintf("%s has %d bytes\n", book, n)
			}
		}
		return report, nil
	}, workflow.Options{})

	e := workflowtest.New(nil, libraryV1, archiveV1)
	report, err := workflowtest.Execute(e, library, []string{"Emma", "Faust", ""})
	fmt.Print(report, err)
	// Output:
	// Emma has 4 bytes
	// Faust has 5 bytes
	// child:archive#3 failed: an empty book
	// <nil>
}

// A survey goes on by itself, weeks after the order that has started it.
func ExampleDurableWorkflow_Start() {
	ctx := context.Background()
	order := workflow.DurableWorkflow[string, workflow.RunID]{Name: "order"}
	survey := workflow.DurableWorkflow[string, string]{Name: "survey"}
	answer := workflow.NewSignal[string]("answer")
	client, _, stop := serve(ctx,
		workflow.Define(order, func(ctx workflow.Context, customer string) (workflow.RunID, error) {
			id, err := survey.Start(ctx, customer)
			return id, err // it does not wait for it
		}, workflow.Options{}),
		workflow.Define(survey, func(ctx workflow.Context, customer string) (string, error) {
			text, err := answer.Receive(ctx, 0)
			return customer + " says: " + text, err
		}, workflow.Options{}))
	defer stop()
	run, err := order.Enqueue(ctx, client, "ada", workflow.EnqueueOptions{})
	if err != nil {
		fmt.Println(err)
		return
	}
	started, err := run.Result(ctx) // the order is over, the survey is not
	fmt.Println("the order:", err)
	if err := answer.Send(ctx, client, started, "good tea"); err != nil {
		fmt.Println(err)
	}
	fmt.Println(survey.Handle(client, started).Result(ctx))
	// Output:
	// the order: <nil>
	// ada says: good tea <nil>
}
