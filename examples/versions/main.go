// Command versions changes a workflow under live runs, in the three ways that there
// are. A run stays with the version that it was enqueued with, so an old one and a
// new one are served side by side. A body that is changed in place asks Patched,
// so that old runs go the old way. And a change that was a mistake parks the runs
// that it does not fit, until the mistake is mended.
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

// Brew is the workflow, Go on lets a run continue.
var (
	Brew = workflow.DurableWorkflow[string, string]{Name: "brew"}
	GoOn = workflow.NewSignal[bool]("go-on")
)

func say(name string) *workflow.Step[string, string] {
	return workflow.NewStep(name, func(_ context.Context, s string) (string, error) { return s + ", " + name, nil }, workflow.StepOptions{})
}

var (
	grind, boil, steep, pour = say("grind"), say("boil"), say("steep"), say("pour")

	steps = []workflow.Declared{grind, boil, steep, pour}
)

// recipe calls steps, and waits for the signal after the second.
func recipe(second, last *workflow.Step[string, string]) func(workflow.Context, string) (string, error) {
	return func(ctx workflow.Context, s string) (string, error) {
		s, err := grind.Run(ctx, s)
		if err != nil {
			return "", err
		}
		if s, err = second.Run(ctx, s); err != nil {
			return "", err
		}
		if _, err := GoOn.Receive(ctx, 0); err != nil {
			return "", err
		}
		return last.Run(ctx, s)
	}
}

// patched pours in the new way if a run gets there for the first time.
func patched(ctx workflow.Context, s string) (string, error) {
	s, err := grind.Run(ctx, s)
	if err != nil {
		return "", err
	}
	if ctx.Patched("steep-first") {
		s, err = steep.Run(ctx, s)
	} else {
		s, err = boil.Run(ctx, s)
	}
	if err != nil {
		return "", err
	}
	if _, err := GoOn.Receive(ctx, 0); err != nil {
		return "", err
	}
	return pour.Run(ctx, s)
}

func define(version string, body func(workflow.Context, string) (string, error)) *workflow.Definition {
	return workflow.Define(Brew, body, workflow.Options{Version: version, Steps: steps})
}

var (
	first    = define("1", recipe(boil, pour))
	mistake  = define("1", recipe(steep, pour)) // changed in place, without Patched
	inPlace  = define("1", patched)
	reworked = define("2", recipe(steep, steep))
)

func main() { app.Main(example) }

func example(ctx context.Context, a *app.App) error {
	enqueue := func(what string) (workflow.Run[string], error) {
		return Brew.Enqueue(ctx, a.Client, what, workflow.EnqueueOptions{})
	}
	// reaches waits until a run is in a state.
	reaches := func(run workflow.Run[string], state workflow.State) (workflow.RunStatus, error) {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			s, err := a.Client.Get(ctx, run.ID)
			if err != nil || s.State == state {
				return s, err
			}
			select {
			case <-ctx.Done():
				return s, ctx.Err()
			case <-tick.C:
			}
		}
	}
	finish := func(run workflow.Run[string]) error {
		if err := GoOn.Send(ctx, a.Client, run.ID, true); err != nil {
			return err
		}
		out, err := run.Result(ctx)
		if err == nil {
			s, gerr := a.Client.Get(ctx, run.ID)
			fmt.Printf("version %s: %s\n", s.Version, out)
			err = gerr
		}
		return err
	}

	// Two runs of version 1 are under way.
	stop := a.Work(ctx, first)
	tea, err := enqueue("tea")
	if err != nil {
		return err
	}
	coffee, err := enqueue("coffee")
	if err != nil {
		return err
	}
	for _, run := range []workflow.Run[string]{tea, coffee} {
		if _, err := reaches(run, workflow.StateWaiting); err != nil {
			return err
		}
	}
	stop()

	// The mistake: the run is parked, and nothing is lost.
	stop = a.Work(ctx, mistake)
	if err := GoOn.Send(ctx, a.Client, tea.ID, true); err != nil {
		return err
	}
	parked, err := reaches(tea, workflow.StateParked)
	if err != nil {
		return err
	}
	fmt.Println(parked.Reason+":", parked.Err.Message)
	stop()

	// Mended with Patched: the parked run is tried again and goes the old way, a
	// new one the new way.
	stop = a.Work(ctx, inPlace)
	out, err := tea.Result(ctx)
	if err != nil {
		return err
	}
	fmt.Println("version 1:", out)
	cocoa, err := enqueue("cocoa")
	if err != nil {
		return err
	}
	if err := finish(cocoa); err != nil {
		return err
	}
	stop()

	// A new version beside the old one: coffee is still of version 1.
	defer a.Work(ctx, inPlace, reworked)()
	for {
		mate, err := enqueue("mate")
		if err != nil {
			return err
		}
		s, err := a.Client.Get(ctx, mate.ID)
		if err != nil {
			return err
		}
		if s.Version == "2" { // the worker has defined it
			if err := finish(mate); err != nil {
				return err
			}
			break
		}
		if err := mate.Cancel(ctx); err != nil {
			return err
		}
	}
	return finish(coffee)
}
