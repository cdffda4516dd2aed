package workflow

import (
	"context"
	"errors"
	"fmt"

	"github.com/stepward/stepward/internal/engine"
)

// maxDetails is what a heartbeat may carry, encoded.
const maxDetails = 64 << 10

var errNoStep = errors.New("workflow: Heartbeat is called by the function of a step, with its context")

// Heartbeat reports from a step's function that its attempt is alive, and how far
// it has come. Call it as often as you like: it returns at once, and the newest
// details are written about once a second, with what else the worker commits. The
// next attempt reads them with [StepInfo.Details], also after the loss of the
// worker, and [StepStatus] shows them. It works in a bare step, in a guest and in
// a tool step.
//
// The error is a *[ValueError], also for details of more than 64 KiB,
// or the cause of the end of ctx: then the attempt is over, and the function should
// return.
func Heartbeat(ctx context.Context, details any) error {
	a, ok := engine.AttemptFrom(ctx)
	if !ok || a.Beat == nil {
		return errNoStep
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	b, err := encode("details of step "+a.Key, details, maxDetails)
	if err != nil {
		return err
	}
	a.Beat(b)
	return nil
}

// Details decodes what an earlier attempt of the step last reported with
// [Heartbeat]. ok is false when there is nothing; v is not touched then.
func (i StepInfo) Details(v any) (ok bool, err error) {
	if i.details == "" {
		return false, nil
	}
	if err := decode(fmt.Sprintf("details of step %s", i.Step), []byte(i.details), v); err != nil {
		return false, err
	}
	return true, nil
}
