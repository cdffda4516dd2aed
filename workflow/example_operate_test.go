package workflow_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/stepward/stepward/workflow"
)

// After an outage of a mail server, all that failed meanwhile goes on where it
// failed.
func ExampleClient_Each() {
	ctx := context.Background()
	var up atomic.Bool
	send := workflow.NewStep("send", func(_ context.Context, to string) (string, error) {
		if !up.Load() {
			return "", errors.New("connection refused")
		}
		return "sent to " + to, nil
	}, workflow.StepOptions{Retry: workflow.Retry{MaxAttempts: 1}})
	letter := workflow.DurableWorkflow[string, string]{Name: "letter"}
	client, _, stop := serve(ctx, workflow.Define(letter, func(ctx workflow.Context, to string) (string, error) {
		return send.Run(ctx, to)
	}, workflow.Options{Steps: []workflow.Declared{send}}))
	defer stop()
	var runs []workflow.Run[string]
	for _, to := range []string{"ada", "grace"} {
		run, err := letter.Enqueue(ctx, client, to, workflow.EnqueueOptions{})
		if err != nil {
			fmt.Println(err)
			return
		}
		_, err = run.Result(ctx)
		fmt.Println("failed:", err != nil)
		runs = append(runs, run)
	}

	up.Store(true)
	n, err := client.Each(ctx, workflow.RunFilter{Workflow: "letter", State: workflow.StateFailed}, client.Retry)
	fmt.Println(n, "go on", err)
	for _, run := range runs {
		fmt.Println(run.Result(ctx))
	}
	// Output:
	// failed: true
	// failed: true
	// 2 go on <nil>
	// sent to ada <nil>
	// sent to grace <nil>
}

// A run that is canceled goes on with what it gave to Finally, and then ends.
func ExampleClient_Cancel() {
	ctx := context.Background()
	booked := make(chan struct{})
	tell := sync.OnceFunc(func() { close(booked) })
	book := workflow.NewStep("book", func(_ context.Context, city string) (string, error) {
		tell() // again, if another worker takes over
		return city, nil
	}, workflow.StepOptions{})
	giveBack := workflow.NewStep("give-back", mail[string], workflow.StepOptions{})
	paid := workflow.NewSignal[int]("paid")
	trip := workflow.DurableWorkflow[string, string]{Name: "trip"}
	client, _, stop := serve(ctx, workflow.Define(trip, func(ctx workflow.Context, city string) (string, error) {
		ctx.Finally(func(ctx workflow.Context) error { _, err := giveBack.Run(ctx, city); return err })
		if _, err := book.Run(ctx, city); err != nil {
			return "", err
		}
		_, err := paid.Receive(ctx, 0)
		return city, err
	}, workflow.Options{Steps: []workflow.Declared{book, giveBack}}))
	defer stop()
	run, err := trip.Enqueue(ctx, client, "Rome", workflow.EnqueueOptions{})
	if err != nil {
		fmt.Println(err)
		return
	}
	<-booked
	if err := client.Cancel(ctx, run.ID); err != nil {
		fmt.Println(err)
	}
	_, err = run.Result(ctx)
	fmt.Println("canceled:", errors.Is(err, workflow.ErrCanceled))
	steps, err := client.Steps(ctx, run.ID, 0)
	fmt.Println(steps[len(steps)-1].Step, err)
	// Output:
	// canceled: true
	// give-back <nil>
}

// Runs of an old version move to one that fits what they have on record. Those
// that a worker executes are paused for it.
func ExampleClient_Repin() {
	ctx := context.Background()
	tour := workflow.DurableWorkflow[string, string]{Name: "tour"}
	start := workflow.NewSignal[string]("start")
	version := func(v string) *workflow.Definition {
		return workflow.Define(tour, func(ctx workflow.Context, city string) (string, error) {
			guide, err := start.Receive(ctx, 0)
			return fmt.Sprintf("%s with %s, by version %s", city, guide, ctx.Info().Version), err
		}, workflow.Options{Version: v})
	}
	client, _, stop := serve(ctx, version("2"), version("1")) // the last one is the newest
	defer stop()
	run, err := tour.Enqueue(ctx, client, "Rome", workflow.EnqueueOptions{})
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := client.Pause(ctx, run.ID); err != nil {
		fmt.Println(err)
	}
	reaches(ctx, client, run.ID, workflow.StateParked)

	n, err := client.Each(ctx, workflow.RunFilter{Workflow: "tour", Version: "1"}, func(ctx context.Context, id workflow.RunID) error {
		return errors.Join(client.Repin(ctx, id, "2"), client.Resume(ctx, id))
	})
	fmt.Println(n, "moved", err)
	if err := start.Send(ctx, client, run.ID, "ada"); err != nil {
		fmt.Println(err)
	}
	fmt.Println(run.Result(ctx))
	// Output:
	// 1 moved <nil>
	// Rome with ada, by version 2 <nil>
}

// A run that is paused stays where it is, whatever it is sent.
func ExampleClient_Pause() {
	ctx := context.Background()
	tour := workflow.DurableWorkflow[string, string]{Name: "tour"}
	start := workflow.NewSignal[string]("start")
	client, _, stop := serve(ctx, workflow.Define(tour, func(ctx workflow.Context, city string) (string, error) {
		guide, err := start.Receive(ctx, 0)
		return city + " with " + guide, err
	}, workflow.Options{}))
	defer stop()
	run, err := tour.Enqueue(ctx, client, "Rome", workflow.EnqueueOptions{})
	if err != nil {
		fmt.Println(err)
		return
	}

	if err := client.Pause(ctx, run.ID); err != nil {
		fmt.Println(err)
	}
	reaches(ctx, client, run.ID, workflow.StateParked)             // once what executes has ended
	if err := start.Send(ctx, client, run.ID, "ada"); err != nil { // it is kept
		fmt.Println(err)
	}
	why, err := client.Why(ctx, run.ID)
	fmt.Println(why.Cause, why.Key, err, "-", why.Unblock)
	if err := client.Resume(ctx, run.ID); err != nil {
		fmt.Println(err)
	}
	fmt.Println(run.Result(ctx))
	// Output:
	// parked paused <nil> - Client.Resume
	// Rome with ada <nil>
}

// A run that failed goes on at the step that failed, once what was wrong is mended.
func ExampleClient_Retry() {
	ctx := context.Background()
	tour := workflow.DurableWorkflow[string, string]{Name: "tour"}
	var open atomic.Bool
	hotel := workflow.NewStep("hotel", mail[string], workflow.StepOptions{})
	museum := workflow.NewStep("museum", func(_ context.Context, city string) (string, error) {
		if !open.Load() {
			return "", workflow.Permanent(errors.New("closed"))
		}
		return "a ticket in " + city, nil
	}, workflow.StepOptions{})
	client, _, stop := serve(ctx, workflow.Define(tour, func(ctx workflow.Context, city string) (string, error) {
		if _, err := hotel.Run(ctx, city); err != nil { // is not booked again
			return "", err
		}
		return museum.Run(ctx, city)
	}, workflow.Options{Steps: []workflow.Declared{hotel, museum}}))
	defer stop()
	run, err := tour.Enqueue(ctx, client, "Rome", workflow.EnqueueOptions{})
	if err != nil {
		fmt.Println(err)
		return
	}
	_, err = run.Result(ctx)
	var failed *workflow.RecordedError
	fmt.Println(errors.As(err, &failed) && failed.Step == "museum")

	open.Store(true)
	if err := client.Retry(ctx, run.ID); err != nil {
		fmt.Println(err)
	}
	fmt.Println(run.Result(ctx))
	steps, err := client.Steps(ctx, run.ID, 0)
	for _, s := range steps {
		fmt.Println(s.Step, s.Attempt)
	}
	if err != nil {
		fmt.Println(err)
	}
	// Output:
	// true
	// a ticket in Rome <nil>
	// hotel 1
	// museum 1
	// museum 2
}

// A run that is canceled cleans up; one that is terminated is over there and then.
func ExampleClient_Terminate() {
	ctx := context.Background()
	tour := workflow.DurableWorkflow[string, string]{Name: "tour"}
	start := workflow.NewSignal[string]("start")
	book, refund := workflow.NewStep("book", mail[string], workflow.StepOptions{}), workflow.NewStep("refund", mail[string], workflow.StepOptions{})
	client, _, stop := serve(ctx, workflow.Define(tour, func(ctx workflow.Context, city string) (string, error) {
		ctx.Finally(func(ctx workflow.Context) error { _, err := refund.Run(ctx, city); return err })
		if _, err := book.Run(ctx, city); err != nil {
			return "", err
		}
		return start.Receive(ctx, 0)
	}, workflow.Options{Steps: []workflow.Declared{book, refund}}))
	defer stop()
	for _, end := range []func(context.Context, workflow.RunID) error{client.Cancel, client.Terminate} {
		run, err := tour.Enqueue(ctx, client, "Rome", workflow.EnqueueOptions{})
		if err != nil {
			fmt.Println(err)
			return
		}
		records(ctx, client, run.ID, "book")
		if err := end(ctx, run.ID); err != nil {
			fmt.Println(err)
		}
		_, err = run.Result(ctx)
		recorded := new(workflow.RecordedError)
		fmt.Println(errors.As(err, &recorded), recorded.Kind, errors.Is(err, workflow.ErrCanceled))
		steps, err := client.Steps(ctx, run.ID, 0)
		fmt.Println(steps[len(steps)-1].Step, err)
		var state *workflow.StateError
		if err := end(ctx, run.ID); errors.As(err, &state) {
			fmt.Println("it is", state.State)
		}
	}
	// Output:
	// true canceled true
	// refund <nil>
	// it is canceled
	// true terminated true
	// book <nil>
	// it is canceled
}
