package workflow_test

import (
	"context"
	"fmt"
	"strings"

	"github.com/stepward/stepward/workflow"
)

// What a run waits for is asked of the client, and of what it waits for, the same.
func ExampleClient_Why() {
	ctx := context.Background()
	parcel := workflow.DurableWorkflow[string, string]{Name: "parcel"}
	customs := workflow.DurableWorkflow[string, string]{Name: "customs"}
	release := workflow.NewSignal[string]("release")
	client, _, stop := serve(ctx,
		workflow.Define(parcel, customs.Run, workflow.Options{}),
		workflow.Define(customs, func(ctx workflow.Context, what string) (string, error) {
			return release.Receive(ctx, 0)
		}, workflow.Options{}))
	defer stop()
	run, err := parcel.Enqueue(ctx, client, "tea", workflow.EnqueueOptions{})
	if err != nil {
		fmt.Println(err)
		return
	}
	reaches(ctx, client, run.ID, workflow.StateWaiting)

	why, err := client.Why(ctx, run.ID)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(why.Cause, "for", why.On[0].Cause, why.On[0].Key)
	child := why.On[0].Run
	reaches(ctx, client, child, workflow.StateWaiting)
	status, err := client.Get(ctx, child)
	fmt.Println("its parent is that run:", status.Parent == run.ID, err)
	if why, err = client.Why(ctx, child); err != nil {
		fmt.Println(err)
		return
	}
	_, what, _ := strings.Cut(why.String(), ", ") // it waits since 2026-03-01T09:00:00Z, …
	fmt.Println(what)
	// Output:
	// waiting for child child:customs
	// its parent is that run: true <nil>
	// for signal release (send it)
}
