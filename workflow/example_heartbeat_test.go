package workflow_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/stepward/stepward/workflow"
	"github.com/stepward/stepward/workflow/workflowtest"
)

// A long step says how far it has come, and the next attempt goes on from there.
func ExampleHeartbeat() {
	type progress struct{ Copied int }
	copyRows := workflow.NewStep("copy", func(ctx context.Context, rows int) (int, error) {
		info, _ := workflow.StepInfoFrom(ctx)
		var p progress
		if _, err := info.Details(&p); err != nil {
			return 0, err
		}
		fmt.Println("attempt", info.Attempt, "begins at", p.Copied)
		for p.Copied < rows {
			p.Copied += 100
			if err := workflow.Heartbeat(ctx, p); err != nil {
				return 0, err // the attempt is over
			}
			if p.Copied == 300 {
				return 0, errors.New("connection reset")
			}
		}
		return p.Copied, nil
	}, workflow.StepOptions{})
	move := workflow.DurableWorkflow[int, int]{Name: "move"}
	definition := workflow.Define(move, func(ctx workflow.Context, rows int) (int, error) {
		return copyRows.Run(ctx, rows)
	}, workflow.Options{Steps: []workflow.Declared{copyRows}})

	fmt.Println(workflowtest.Run(move, definition, 1000))
	// Output:
	// attempt 1 begins at 0
	// attempt 2 begins at 300
	// 1000 <nil>
}
