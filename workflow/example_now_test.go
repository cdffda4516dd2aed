package workflow_test

import (
	"fmt"
	"time"

	"github.com/stepward/stepward/workflow"
	"github.com/stepward/stepward/workflow/workflowtest"
)

// The time is recorded: a replay, after the wait, gets the same as at first.
func ExampleContext_Now() {
	trial := workflow.DurableWorkflow[string, string]{Name: "trial"}
	definition := workflow.Define(trial, func(ctx workflow.Context, customer string) (string, error) {
		began := ctx.Now()
		if err := workflow.Sleep(ctx, 30*24*time.Hour); err != nil {
			return "", err
		}
		days := ctx.Now().Sub(began).Hours() / 24
		return fmt.Sprintf("%s has tried it for %.0f days", customer, days), nil
	}, workflow.Options{})

	fmt.Println(workflowtest.Run(trial, definition, "ada"))
	// Output: ada has tried it for 30 days <nil>
}

// Chance is the same on every replay of a run, so the wait between changes
// nothing about what was drawn.
func ExampleContext_Random() {
	raffle := workflow.DurableWorkflow[[]string, bool]{Name: "raffle"}
	definition := workflow.Define(raffle, func(ctx workflow.Context, names []string) (bool, error) {
		winner := names[ctx.Random().IntN(len(names))]
		if err := workflow.Sleep(ctx, time.Hour); err != nil { // the run leaves memory here
			return false, err
		}
		return winner != "", nil
	}, workflow.Options{})

	fmt.Println(workflowtest.Run(raffle, definition, []string{"ada", "grace", "barbara"}))
	// Output: true <nil>
}
