// Command replay repeats a run from the middle. An order is charged, then its label
// is printed wrong, and the parcel is refused. The mended workflow is checked
// against what is on record, and a fork takes the record over up to the label:
// nobody is charged twice.
//
//	go run ./examples/replay
package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/stepward/stepward/examples/internal/app"
	"github.com/stepward/stepward/workflow"
)

// Ship is the workflow: the name of a customer in, the fate of the parcel out.
var Ship = workflow.DurableWorkflow[string, string]{Name: "ship"}

var (
	charge = workflow.NewStep("charge", func(_ context.Context, customer string) (string, error) {
		fmt.Println("charging", customer)
		return "receipt of " + customer, nil
	}, workflow.StepOptions{})

	label = workflow.NewStep("label", func(_ context.Context, address string) (string, error) {
		fmt.Printf("printing the label %q\n", address)
		return address, nil
	}, workflow.StepOptions{})

	hand = workflow.NewStep("hand", func(_ context.Context, label string) (string, error) {
		if label == "" {
			return "", workflow.Permanent(errors.New("the label is blank"))
		}
		return "on its way to " + label, nil
	}, workflow.StepOptions{})

	steps = []workflow.Declared{charge, label, hand}

	shipV1    = workflow.Define(Ship, shipTo(func(string) string { return "" }), workflow.Options{Version: "1", Steps: steps})
	shipV2    = workflow.Define(Ship, shipTo(func(s string) string { return s + "'s house" }), workflow.Options{Version: "2", Steps: steps})
	shipWrong = workflow.Define(Ship, func(ctx workflow.Context, customer string) (string, error) {
		return label.Run(ctx, customer) // and forgets to charge
	}, workflow.Options{Version: "3", Steps: steps})
)

func shipTo(address func(customer string) string) func(workflow.Context, string) (string, error) {
	return func(ctx workflow.Context, customer string) (string, error) {
		if _, err := charge.Run(ctx, customer); err != nil {
			return "", err
		}
		text, err := label.Run(ctx, address(customer))
		if err != nil {
			return "", err
		}
		return hand.Run(ctx, text)
	}
}

func main() { app.Main(example) }

func example(ctx context.Context, a *app.App) error {
	stop := a.Work(ctx, shipV1)
	run, err := Ship.Enqueue(ctx, a.Client, "ada", workflow.EnqueueOptions{})
	if err != nil {
		return err
	}
	_, err = run.Result(ctx)
	var failed *workflow.RecordedError
	if !errors.As(err, &failed) {
		return fmt.Errorf("a parcel without a label: %w", err)
	}
	fmt.Println("failed:", failed.Message)
	stop()

	// Before a deploy: does the code fit what is on record? No step is executed.
	fmt.Println("version 3 does not fit:", a.Client.Replay(ctx, run.ID, shipWrong))
	var changed *workflow.NonDeterminismError
	if err := a.Client.Replay(ctx, run.ID, shipV2); errors.As(err, &changed) {
		fmt.Println("version 2 fits up to", changed.Recorded)
	}

	// So the label is where the fork begins.
	defer a.Work(ctx, shipV2)()
	fork, err := a.Client.Fork(ctx, run.ID, workflow.ForkOptions{From: "label", Version: "2"})
	if err != nil {
		return err
	}
	out, err := Ship.Handle(a.Client, fork).Result(ctx)
	if err != nil {
		return err
	}
	fmt.Println("the fork:", out)
	return nil
}
