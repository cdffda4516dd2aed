package workflow_test

import (
	"context"
	"fmt"

	"github.com/stepward/stepward/workflow"
)

// After an outage of a mail server, all that failed meanwhile goes on where it
// failed. (Compiled, not run: it needs Postgres.)
func ExampleClient_Each() {
	mended := func(ctx context.Context, client *workflow.Client) error {
		n, err := client.Each(ctx, workflow.RunFilter{Workflow: "newsletter", State: workflow.StateFailed}, client.Retry)
		fmt.Println(n, "runs go on")
		return err
	}
	_ = mended
}

// Runs of an old version move to one that fits what they have on record. Those
// that a worker executes are left: pause them, or call it again.
func ExampleClient_Repin() {
	move := func(ctx context.Context, client *workflow.Client) (int, error) {
		return client.Each(ctx, workflow.RunFilter{Workflow: "newsletter", Version: "1"}, func(ctx context.Context, id workflow.RunID) error {
			return client.Repin(ctx, id, "2")
		})
	}
	_ = move
}
