// Package words is a workflow of the tests, whose step runs in a function.
package words

import (
	"context"
	"errors"
	"strings"

	"github.com/stepward/stepward/workflow"
)

// Words shouts what it is given, as many times.
var Words = workflow.DurableWorkflow[In, string]{Name: "words"}

// In is a word, and how often it goes to the step.
type In struct {
	Word  string
	Times int
}

var shout = workflow.NewStep("shout", func(ctx context.Context, s string) (string, error) {
	info, ok := workflow.StepInfoFrom(ctx)
	if !ok || info.Step != "shout" {
		return "", errors.New("no step info in the guest")
	}
	if err := workflow.Heartbeat(ctx, len(s)); err != nil {
		return "", err
	}
	if strings.HasPrefix(s, "bad") {
		return "", workflow.Permanent(errors.New("a bad word"))
	}
	return strings.ToUpper(s), nil
}, workflow.StepOptions{Mode: workflow.Sandboxed})

// V1 is its definition.
var V1 = workflow.Define(Words, func(ctx workflow.Context, in In) (string, error) {
	return shout.Run(ctx, strings.Repeat(in.Word, in.Times))
}, workflow.Options{Steps: []workflow.Declared{shout}})
