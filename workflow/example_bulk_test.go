package workflow_test

import (
	"context"
	"errors"

	"github.com/stepward/stepward/workflow"
)

// A key for each makes the call repeatable, and tells what has been there before.
// (Compiled, not run: it needs Postgres.)
func ExampleDurableWorkflow_EnqueueMany() {
	resize := workflow.DurableWorkflow[string, string]{Name: "resize"}

	enqueue := func(ctx context.Context, client *workflow.Client, images []string) (added int, errs error) {
		items := func(yield func(string, workflow.EnqueueOptions) bool) {
			for _, image := range images {
				if !yield(image, workflow.EnqueueOptions{Tenant: "acme", Key: image}) {
					return
				}
			}
		}
		for run, err := range resize.EnqueueMany(ctx, client, items) {
			switch {
			case err != nil:
				errs = errors.Join(errs, err)
			case !run.Existing:
				added++
			}
		}
		return added, errs
	}
	_ = enqueue
}
