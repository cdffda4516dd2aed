package workflow_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/stepward/stepward/workflow"
	"github.com/stepward/stepward/workflow/workflowtest"
)

// What was booked is given back when the trip falls through, also when the run is
// canceled or its worker dies. A deferred function cannot promise that.
func ExampleContext_Finally() {
	does := func(what string) *workflow.Step[string, string] {
		return workflow.NewStep(what, func(_ context.Context, city string) (string, error) {
			if what == "book-flight" {
				return "", workflow.Permanent(errors.New("no seat to " + city))
			}
			return city, nil
		}, workflow.StepOptions{})
	}
	hotel, flight, giveBack := does("book-hotel"), does("book-flight"), does("cancel-hotel")
	trip := workflow.DurableWorkflow[string, string]{Name: "trip"}
	definition := workflow.Define(trip, func(ctx workflow.Context, city string) (string, error) {
		booked := false
		ctx.Finally(func(ctx workflow.Context) error {
			if booked {
				return nil
			}
			_, err := giveBack.Run(ctx, city) // before the hotel: a lost answer is undone as well
			return err
		})
		if _, err := hotel.Run(ctx, city); err != nil {
			return "", err
		}
		seat, err := flight.Run(ctx, city)
		booked = err == nil
		return seat, err
	}, workflow.Options{Steps: []workflow.Declared{hotel, flight, giveBack}})

	e := workflowtest.New(nil, definition)
	e.Before("cancel-hotel", e.Crash)
	_, err := workflowtest.Execute(e, trip, "Rome")
	fmt.Println(errors.Unwrap(err))
	fmt.Print(e.Record())
	// Output:
	// step book-flight, attempt 1: no seat to Rome
	// book-hotel = "Rome"
	// book-flight failed: no seat to Rome
	// cancel-hotel = "Rome"
}
