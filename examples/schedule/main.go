// Command schedule enqueues runs at times: every second, and once a night in
// Berlin, where the clock is changed twice a year. No process has to be the one
// that does it: any worker does what is due.
//
//	go run ./examples/schedule
package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/stepward/stepward/examples/internal/app"
	"github.com/stepward/stepward/workflow"
)

// Report is the workflow; its input is the time zone that it reports in.
var Report = workflow.DurableWorkflow[string, time.Time]{Name: "report"}

// The tick is the time that the run is for, however late it runs.
var reportV1 = workflow.Define(Report, func(ctx workflow.Context, zone string) (time.Time, error) {
	loc, err := time.LoadLocation(zone)
	if err != nil {
		return time.Time{}, workflow.Permanent(err)
	}
	return ctx.Info().Tick.In(loc), nil
}, workflow.Options{})

func main() { app.Main(example) }

func example(ctx context.Context, a *app.App) error {
	defer a.Work(ctx, reportV1)()

	often, err := Report.Schedule(ctx, a.Client, "UTC", workflow.ScheduleOptions{
		Name: "often", Tenant: "often", Every: time.Second, Overlap: "allow",
	})
	if err != nil {
		return err
	}
	ticks, err := reports(ctx, a, "often", 3)
	if err != nil {
		return err
	}
	for _, tick := range ticks[:3] {
		fmt.Printf("often: a run %v after the first\n", tick.Sub(ticks[0]))
	}
	if err := often.Pause(ctx); err != nil {
		return err
	}
	id, err := often.Trigger(ctx) // by hand, also while it is paused
	if err != nil {
		return err
	}
	if _, err := Report.Handle(a.Client, id).Result(ctx); err != nil {
		return err
	}
	fmt.Println("often: paused, and one run by hand")

	nightly, err := Report.Schedule(ctx, a.Client, "Europe/Berlin", workflow.ScheduleOptions{
		Name: "nightly", Tenant: "nightly", Cron: "30 2 * * *", Location: "Europe/Berlin",
	})
	if err != nil {
		return err
	}
	// The nights around a change of the clock, which had no 02:30.
	from := time.Date(2025, 3, 29, 0, 0, 0, 0, time.UTC)
	for range 2 { // the second time there is nothing left to do
		n, err := nightly.Backfill(ctx, from, from.AddDate(0, 0, 3))
		if err != nil {
			return err
		}
		fmt.Printf("nightly: %d nights are made up for\n", n)
	}
	if ticks, err = reports(ctx, a, "nightly", 3); err != nil {
		return err
	}
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		return err
	}
	for _, tick := range ticks {
		fmt.Println("nightly: a run for", tick.In(berlin).Format("2006-01-02 15:04 MST"))
	}
	return nightly.Delete(ctx)
}

// reports waits until a tenant has n runs, and returns what they report, in
// order.
func reports(ctx context.Context, a *app.App, tenant string, n int) (ticks []time.Time, err error) {
	for poll := time.Tick(50 * time.Millisecond); ; {
		var ids []workflow.RunID
		for r, err := range a.Client.Runs(ctx, workflow.RunFilter{Tenant: &tenant}) {
			if err != nil {
				return nil, err
			}
			ids = append(ids, r.ID)
		}
		if len(ids) < n {
			select {
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			case <-poll:
			}
			continue
		}
		for _, id := range ids {
			tick, err := Report.Handle(a.Client, id).Result(ctx)
			if err != nil {
				return nil, err
			}
			ticks = append(ticks, tick)
		}
		slices.SortFunc(ticks, time.Time.Compare)
		return ticks, nil
	}
}
