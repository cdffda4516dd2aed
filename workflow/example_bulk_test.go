package workflow_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/stepward/stepward/workflow"
)

// A key for each makes the call repeatable, and tells what has been there before.
// One that cannot be enqueued does not keep the others from it.
func ExampleDurableWorkflow_EnqueueMany() {
	ctx := context.Background()
	client, _, stop := serve(ctx)
	defer stop()
	resize := workflow.DurableWorkflow[string, string]{Name: "resize"}

	enqueue := func(images ...string) {
		items := func(yield func(string, workflow.EnqueueOptions) bool) {
			for _, image := range images {
				if !yield(image+".png", workflow.EnqueueOptions{Tenant: "acme", Key: image}) {
					return
				}
			}
		}
		var added, known, refused int
		for run, err := range resize.EnqueueMany(ctx, client, items) {
			var conflict *workflow.KeyConflictError
			switch {
			case errors.As(err, &conflict):
				refused++
			case err != nil:
				fmt.Println(err)
			case run.Existing:
				known++
			default:
				added++
			}
		}
		fmt.Println(added, "added,", known, "known,", refused, "refused")
	}
	if _, err := resize.Enqueue(ctx, client, "sun.gif", workflow.EnqueueOptions{Tenant: "acme", Key: "sun"}); err != nil {
		fmt.Println(err)
	}
	enqueue("cat", "dog")
	enqueue("cat", "dog", "sea", "sun") // sun was another image
	// Output:
	// 2 added, 0 known, 0 refused
	// 1 added, 2 known, 1 refused
}
