// Package onboarding is the workflow of a test's worker, for its client as well.
package onboarding

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/stepward/stepward/workflow"
)

// Onboarding greets a customer. One that is nobody keeps its sandbox for good.
var Onboarding = workflow.DurableWorkflow[string, string]{Name: "onboarding"}

var greet = workflow.NewStep("greet", func(ctx context.Context, customer string) (string, error) {
	if customer == "" {
		<-ctx.Done()
		return "", context.Cause(ctx)
	}
	if _, err := os.Stat("/var/run/secrets"); !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("the sandbox has the token of a service account: %w", err)
	}
	host, err := os.Hostname()
	return "hello, " + customer + ", from a " + host, err
}, workflow.StepOptions{Mode: workflow.Sandboxed})

// V1 is its definition.
var V1 = workflow.Define(Onboarding, func(ctx workflow.Context, customer string) (string, error) {
	return greet.Run(ctx, customer)
}, workflow.Options{Version: "1", Steps: []workflow.Declared{greet}})
