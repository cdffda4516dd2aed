package workflow_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/stepward/stepward/workflow"
)

// A schedule is put each time that the service starts. Its runs read from their
// tick what they are for.
func ExampleDurableWorkflow_Schedule() {
	ctx := context.Background()
	report := workflow.DurableWorkflow[string, string]{Name: "report"}
	client, _, stop := serve(ctx, workflow.Define(report, func(ctx workflow.Context, region string) (string, error) {
		day := ctx.Info().Tick.AddDate(0, 0, -1)
		return region + " on " + day.Format(time.DateOnly), nil
	}, workflow.Options{}))
	defer stop()
	o := workflow.ScheduleOptions{Name: "report/north", Cron: "0 3 30 2 *", Location: "UTC", Overlap: "buffer"}
	_, err := report.Schedule(ctx, client, "north", o)
	var option *workflow.OptionError
	fmt.Println(errors.As(err, &option), err)

	o.Cron = "0 3 * * *"
	nightly, err := report.Schedule(ctx, client, "north", o)
	if err != nil {
		fmt.Println(err)
		return
	}
	// For ticks of the past, or one now, by hand:
	may := time.Date(2025, time.May, 1, 0, 0, 0, 0, time.UTC)
	fmt.Println(nightly.Backfill(ctx, may, may.AddDate(0, 0, 2)))
	for s, err := range client.Runs(ctx, workflow.RunFilter{Workflow: report.Name}) {
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(report.Handle(client, s.ID).Result(ctx))
	}
	// Output:
	// true workflow: ScheduleOptions.Cron: "0 3 30 2 *" never comes: no month has that day
	// 2 <nil>
	// north on 2025-05-01 <nil>
	// north on 2025-04-30 <nil>
}
