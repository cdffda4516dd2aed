package workflow_test

import (
	"context"
	"time"

	"github.com/stepward/stepward/workflow"
)

// At most four runs of a tenant are executed at once, and 100 begin in a minute;
// an urgent one goes before what was enqueued in the last ten minutes. (Compiled,
// not run: it needs Postgres.)
func ExampleLimit() {
	render := workflow.DurableWorkflow[string, string]{Name: "render"}

	enqueue := func(ctx context.Context, client *workflow.Client, tenant, page string, urgent bool) error {
		o := workflow.EnqueueOptions{
			Tenant: tenant,
			Limit:  workflow.Limit{Key: "render/" + tenant, Concurrency: 4, Rate: 100, Per: time.Minute},
		}
		if urgent {
			o.Priority = 10
		}
		_, err := render.Enqueue(ctx, client, page, o)
		return err
	}
	_ = enqueue
}
