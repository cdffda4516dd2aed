// Command versions changes a workflow under live runs, in the three ways that there
// are. A change in place that does not fit a run parks it, and nothing is lost. A
// body that asks Patched lets old runs go the old way. And a run stays with the
// version that it was enqueued with, so an old one and a new one are served side by
// side.
//
//	go run ./examples/versions
package main

import (
	"context"
	"fmt"
	"time"

	"github.com/stepward/stepward/examples/internal/app"
	"github.com/stepward/stepward/workflow"
)

// Brew is the workflow, GoOn lets a run continue that has got half of the way.
var (
	Brew = workflow.DurableWorkflow[string, string]{Name: "brew"}
	GoOn = workflow.NewSignal[bool]("go-on")
)

type step = workflow.Step[string, string]

func say(name string) *step {
	return workflow.NewStep(name, func(_ context.Context, s string) (string, error) { return s + ", " + name, nil }, workflow.StepOptions{})
}

var grind, boil, steep, pour = say("grind"), say("boil"), say("steep"), say("pour")

// define makes the workflow. What changes is the second step, and the last.
func define(version string, second func(workflow.Context) *step, last *step) *workflow.Definition {
	return workflow.Define(Brew, func(ctx workflow.Context, s string) (string, error) {
		s, err := grind.Run(ctx, s)
		if err != nil {
			return "", err
		}
		if s, err = second(ctx).Run(ctx, s); err != nil {
			return "", err
		}
		if _, err := GoOn.Receive(ctx, 0); err != nil {
			return "", err
		}
		return last.Run(ctx, s)
	}, workflow.Options{Version: version, Steps: []workflow.Declared{grind, boil, steep, pour}})
}

func boils(workflow.Context) *step  { return boil }
func steeps(workflow.Context) *step { return steep }

// patched steeps if a run gets here for the first time.
func patched(ctx workflow.Context) *step {
	if ctx.Patched("steep") {
		return steep
	}
	return boil
}

var (
	original = define("1", boils, pour)
	mistake  = define("1", steeps, pour)
	mended   = define("1", patched, pour)
	reworked = define("2", steeps, steep)
)

func main() { app.Main(example) }

func example(ctx context.Context, a *app.App) error {
	stop := a.Work(ctx, original)
	tea, err := enqueue(ctx, a, "tea")
	if err != nil {
		return err
	}
	coffee, err := enqueue(ctx, a, "coffee")
	if err != nil {
		return err
	}
	for _, run := range []workflow.Run[string]{tea, coffee} {
		if _, err := reaches(ctx, a, run, workflow.StateWaiting); err != nil {
			return err
		}
	}
	stop()

	stop = a.Work(ctx, mistake)
	if err := GoOn.Send(ctx, a.Client, tea.ID, true); err != nil {
		return err
	}
	parked, err := reaches(ctx, a, tea, workflow.StateParked)
	if err != nil {
		return err
	}
	fmt.Printf("a mistake parks tea: %s\n", parked.Err.Message)
	stop()

	stop = a.Work(ctx, mended) // what is parked is tried again
	cocoa, err := enqueue(ctx, a, "cocoa")
	if err != nil {
		return err
	}
	if err := GoOn.Send(ctx, a.Client, cocoa.ID, true); err != nil {
		return err
	}
	if err := show(ctx, a, "mended with Patched", tea, cocoa); err != nil {
		return err
	}
	stop()

	defer a.Work(ctx, mended, reworked)()
	mate, err := enqueue(ctx, a, "mate")
	if err != nil {
		return err
	}
	for _, run := range []workflow.Run[string]{coffee, mate} {
		if err := GoOn.Send(ctx, a.Client, run.ID, true); err != nil {
			return err
		}
	}
	return show(ctx, a, "side by side", coffee, mate)
}

func enqueue(ctx context.Context, a *app.App, what string) (workflow.Run[string], error) {
	return Brew.Enqueue(ctx, a.Client, what, workflow.EnqueueOptions{})
}

// show waits for the ends of runs.
func show(ctx context.Context, a *app.App, how string, runs ...workflow.Run[string]) error {
	for _, run := range runs {
		out, err := run.Result(ctx)
		if err != nil {
			return err
		}
		s, err := a.Client.Get(ctx, run.ID)
		if err != nil {
			return err
		}
		fmt.Printf("%s, version %s: %s\n", how, s.Version, out)
	}
	return nil
}

// reaches waits until a run is in a state.
func reaches(ctx context.Context, a *app.App, run workflow.Run[string], state workflow.State) (workflow.RunStatus, error) {
	for poll := time.Tick(10 * time.Millisecond); ; {
		s, err := a.Client.Get(ctx, run.ID)
		if err != nil || s.State == state {
			return s, err
		}
		select {
		case <-ctx.Done():
			return s, context.Cause(ctx)
		case <-poll:
		}
	}
}
