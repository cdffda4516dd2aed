package workflow_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/stepward/stepward/workflow"
)

// A run that went wrong at step build is repeated from there, with the version
// that mends it. (Compiled, not run: it needs Postgres. See examples/replay.)
func ExampleClient_Fork() {
	repeat := func(ctx context.Context, client *workflow.Client, id workflow.RunID) (workflow.RunID, error) {
		fork, err := client.Fork(ctx, id, workflow.ForkOptions{From: "build#2", Version: "2"})
		if no := (*workflow.OptionError)(nil); errors.As(err, &no) {
			fmt.Println(no.Option, no.Reason) // From, and which keys of the run are like it
		}
		return fork, err
	}
	_ = repeat
}
