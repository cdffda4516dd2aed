package main

import (
	"context"
	"time"

	"github.com/stepward/stepward/workflow"
)

// A look is a run at one moment, as any client sees it.
type look struct {
	run   workflow.RunStatus
	steps []workflow.StepStatus // also attempts that failed, go on, or were lost with their worker
}

// watch shows the run to the watchers until it has ended, and returns the last
// look. A run that is parked has not ended, but waits for a person: nobody here
// will come.
func watch(ctx context.Context, c *workflow.Client, id workflow.RunID, watchers ...func(context.Context, look) error) (look, error) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		now, err := lookAt(ctx, c, id)
		if err != nil {
			return now, err
		}
		for _, w := range watchers {
			if err := w(ctx, now); err != nil {
				return now, err
			}
		}
		switch now.run.State {
		case workflow.StateCompleted, workflow.StateFailed, workflow.StateCanceled:
			return now, nil
		case workflow.StateParked:
			return now, &parkedError{now.run}
		}
		select {
		case <-ctx.Done():
			return now, context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// lookAt asks for the run first: when it has ended, all of its steps are there.
func lookAt(ctx context.Context, c *workflow.Client, id workflow.RunID) (now look, err error) {
	if now.run, err = c.Get(ctx, id); err != nil {
		return now, err
	}
	for after := 0; ; {
		steps, err := c.Steps(ctx, id, after)
		now.steps = append(now.steps, steps...)
		if err != nil || len(steps) < 1000 {
			return now, err
		}
		after = steps[len(steps)-1].Seq
	}
}

// parkedError says why a run waits for a person.
type parkedError struct{ run workflow.RunStatus }

func (e *parkedError) Error() string {
	return "the run is parked (" + e.run.Reason + "): " + e.run.Err.Error()
}
