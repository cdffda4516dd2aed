package workflow_test

import (
	"context"
	"fmt"
	"strings"

	"github.com/stepward/stepward/workflow"
	"github.com/stepward/stepward/workflow/workflowtest"
)

// What Client.Export returned for a run of the code of that day.
const recorded = `{
  "stepward_history": 1, "run": "run_06fgp1s7g0000", "workflow": "order", "version": "1", "state": "completed", "input": 3,
  "steps": [
    {"seq":1,"done":1,"key":"reserve","attempt":1,"input_hash":"af63ae4c86019e62","output":3},
    {"seq":2,"done":2,"key":"charge","attempt":1,"input_hash":"af63ae4c86019e62","output":3}
  ]
}`

func ExampleClient_Replay() {
	order := workflow.DurableWorkflow[int, int]{Name: "order"}
	same := func(_ context.Context, n int) (int, error) { return n, nil }
	reserve := workflow.NewStep("reserve", same, workflow.StepOptions{})
	charge := workflow.NewStep("charge", same, workflow.StepOptions{})
	defined := func(first, second *workflow.Step[int, int]) *workflow.Definition {
		return workflow.Define(order, func(ctx workflow.Context, n int) (int, error) {
			n, err := first.Run(ctx, n)
			if err != nil {
				return 0, err
			}
			return second.Run(ctx, n)
		}, workflow.Options{Steps: []workflow.Declared{reserve, charge}})
	}

	// Of a run in Postgres: client.Replay(ctx, id, definition).
	fmt.Println(workflowtest.Replay(defined(reserve, charge), []byte(recorded)))
	fmt.Println(workflowtest.Replay(defined(charge, reserve), []byte(recorded)))
	// Output:
	// <nil>
	// workflow: step 1 was recorded as reserve, and the body calls charge; restore the order of calls, or define a new version
}

// What is kept of a run beside the code is what Export returns; a test replays it.
func ExampleClient_Export() {
	ctx := context.Background()
	order := workflow.DurableWorkflow[int, int]{Name: "order"}
	reserve := workflow.NewStep("reserve", func(_ context.Context, n int) (int, error) { return n, nil }, workflow.StepOptions{})
	definition := workflow.Define(order, func(ctx workflow.Context, n int) (int, error) {
		return reserve.Run(ctx, n)
	}, workflow.Options{Steps: []workflow.Declared{reserve}})
	client, _, stop := serve(ctx, definition)
	defer stop()
	run, err := order.Enqueue(ctx, client, 3, workflow.EnqueueOptions{})
	if err == nil {
		_, err = run.Result(ctx)
	}
	if err != nil {
		fmt.Println(err)
		return
	}
	history, err := client.Export(ctx, run.ID)
	fmt.Println(strings.Contains(string(history), `"key":"reserve"`), err)
	fmt.Println(workflowtest.Replay(definition, history))
	// Output:
	// true <nil>
	// <nil>
}
