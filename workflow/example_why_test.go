package workflow_test

import (
	"context"
	"fmt"

	"github.com/stepward/stepward/workflow"
)

// What a run waits for is asked of the client. (Compiled, not run: it needs
// Postgres.)
func ExampleClient_Why() {
	explain := func(ctx context.Context, client *workflow.Client, id workflow.RunID) error {
		why, err := client.Why(ctx, id)
		if err != nil {
			return err
		}
		fmt.Println(why) // it waits since 2026-03-01T09:00:00Z, for signal approve until 2026-03-02T09:00:00Z (send it)
		for _, on := range why.On {
			if on.Cause == "child" {
				if why, err = client.Why(ctx, on.Run); err != nil {
					return err
				}
				fmt.Println(on.Run, why)
			}
		}
		return nil
	}
	_ = explain
}
