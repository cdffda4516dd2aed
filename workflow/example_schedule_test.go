package workflow_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/stepward/stepward/workflow"
)

// A schedule is put each time that the service starts; what is wrong with it
// shows at once, before Postgres is asked.
func ExampleDurableWorkflow_Schedule() {
	report := workflow.DurableWorkflow[string, string]{Name: "report"}

	// What the body of a run is for, it reads from its tick.
	_ = workflow.Define(report, func(ctx workflow.Context, region string) (string, error) {
		day := ctx.Info().Tick.AddDate(0, 0, -1)
		return region + " on " + day.Format(time.DateOnly), nil
	}, workflow.Options{})

	atStart := func(ctx context.Context, client *workflow.Client, cron string) error {
		_, err := report.Schedule(ctx, client, "north", workflow.ScheduleOptions{
			Name: "report/north", Cron: cron, Location: "Europe/Berlin", Overlap: "buffer",
		})
		return err
	}
	byHand := func(ctx context.Context, client *workflow.Client) error {
		nightly := client.Schedule("report/north")
		if _, err := nightly.Trigger(ctx); err != nil {
			return err
		}
		_, err := nightly.Backfill(ctx, time.Now().AddDate(0, -1, 0), time.Now())
		return err
	}
	_ = byHand // it needs Postgres

	ctx := context.Background()
	pool, err := pgxpool.New(ctx, "postgres://localhost/app")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer pool.Close()
	client, err := workflow.NewClient(workflow.ClientConfig{Pool: pool})
	if err != nil {
		fmt.Println(err)
		return
	}
	err = atStart(ctx, client, "0 3 30 2 *")
	var option *workflow.OptionError
	fmt.Println(errors.As(err, &option), err)
	// Output: true workflow: ScheduleOptions.Cron: "0 3 30 2 *" never comes: no month has that day
}
