// Command saga books a trip in three places, and undoes what it has booked when
// a later place refuses. What undoes is durable: it is done once the body has
// returned, also if the run was canceled or its worker died. It is registered
// before the booking, by a reference that the workflow chose: a booking that was
// interrupted, or of which only the answer was lost, is undone, too.
//
//	go run ./examples/saga
package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/stepward/stepward/examples/internal/app"
	"github.com/stepward/stepward/workflow"
)

// Trip is the input.
type Trip struct {
	To  string
	Car bool // whether there is a car left
}

// Book is the workflow.
var Book = workflow.DurableWorkflow[Trip, []string]{Name: "book-trip"}

var (
	flight = workflow.NewStep("flight", reserve("flight"), workflow.StepOptions{})
	hotel  = workflow.NewStep("hotel", reserve("hotel"), workflow.StepOptions{})
	car    = workflow.NewStep("car", func(ctx context.Context, t Trip) (string, error) {
		if !t.Car {
			return "", workflow.Permanent(errors.New("no car left"))
		}
		return reserve("car")(ctx, t)
	}, workflow.StepOptions{})
	// undo cancels what there is by a reference; when there is nothing, that is well.
	undo = workflow.NewStep("undo", func(_ context.Context, reference string) (string, error) {
		return "canceled " + reference, nil
	}, workflow.StepOptions{Retry: workflow.Retry{MaxAttempts: 100}}) // it must succeed in the end
)

func reserve(what string) func(context.Context, Trip) (string, error) {
	return func(_ context.Context, t Trip) (string, error) { return what + " to " + t.To, nil }
}

var bookV1 = workflow.Define(Book, book, workflow.Options{Steps: []workflow.Declared{flight, hotel, car, undo}})

func book(ctx workflow.Context, t Trip) (bookings []string, err error) {
	booked := false
	for _, step := range []*workflow.Step[Trip, string]{flight, hotel, car} {
		reference := step.Name() + " to " + t.To       // of a real booking: with the id of the run
		ctx.Finally(func(ctx workflow.Context) error { // the last one first
			if booked {
				return nil
			}
			_, err := undo.Run(ctx, reference)
			return err
		})
		booking, err := step.Run(ctx, t)
		if err != nil {
			return nil, err
		}
		bookings = append(bookings, booking)
	}
	booked = true
	return bookings, nil
}

func main() { app.Main(example) }

func example(ctx context.Context, a *app.App) error {
	defer a.Work(ctx, bookV1)()
	for _, trip := range []Trip{{"Oslo", true}, {"Porto", false}} {
		run, err := Book.Enqueue(ctx, a.Client, trip, workflow.EnqueueOptions{})
		if err != nil {
			return err
		}
		bookings, err := run.Result(ctx)
		var failed *workflow.RecordedError
		if err != nil && !errors.As(err, &failed) {
			return err
		}
		if failed != nil {
			fmt.Printf("%s is off: %v\n", trip.To, failed)
		} else {
			fmt.Printf("%s is booked: %v\n", trip.To, bookings)
		}
		steps, err := a.Client.Steps(ctx, run.ID, 0)
		if err != nil {
			return err
		}
		for _, s := range steps {
			if s.Err != nil {
				fmt.Printf("  %s failed: %v\n", s.Step, s.Err)
			} else {
				fmt.Printf("  %s: %s\n", s.Step, s.Output)
			}
		}
	}
	return nil
}
