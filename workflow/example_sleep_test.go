package workflow_test

import (
	"fmt"
	"time"

	"github.com/stepward/stepward/workflow"
	"github.com/stepward/stepward/workflow/workflowtest"
)

// A subscription that reminds every 1st of a month. Between, a run is a few rows in
// Postgres; in a test, no time passes.
func ExampleUntil() {
	subscribe := workflow.DurableWorkflow[int, int]{Name: "subscribe"}
	definition := workflow.Define(subscribe, func(ctx workflow.Context, months int) (dayOfMonth int, err error) {
		y, m, _ := ctx.Now().Date()
		for i := range months {
			if err := workflow.Until(ctx, time.Date(y, m+time.Month(i)+1, 1, 9, 0, 0, 0, time.UTC)); err != nil {
				return 0, err // the run was canceled
			}
		}
		return ctx.Now().Day(), workflow.Sleep(ctx, 24*time.Hour)
	}, workflow.Options{})

	fmt.Println(workflowtest.Run(subscribe, definition, 12))
	// Output: 1 <nil>
}
