package workflow_test

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/stepward/stepward/workflow"
	"github.com/stepward/stepward/workflow/workflowtest"
)

func ExampleMap() {
	upper := workflow.NewStep("upper", func(ctx context.Context, s string) (string, error) {
		return strings.ToUpper(s), nil
	}, workflow.StepOptions{})
	shout := workflow.DurableWorkflow[[]string, []string]{Name: "shout"}
	definition := workflow.Define(shout, func(ctx workflow.Context, words []string) ([]string, error) {
		return workflow.Map(ctx, words, upper, workflow.MapOptions{Limit: 2})
	}, workflow.Options{Steps: []workflow.Declared{upper}})

	out, err := workflowtest.Run(shout, definition, []string{"a", "b", "c"})
	fmt.Println(out, err)
	// Output: [A B C] <nil>
}

// The outputs that there are come with the error of the first item that failed.
func ExampleMap_failure() {
	upper := workflow.NewStep("upper", func(ctx context.Context, s string) (string, error) {
		if s == "" {
			return "", workflow.Permanent(errors.New("nothing to shout"))
		}
		return strings.ToUpper(s), nil
	}, workflow.StepOptions{})
	shout := workflow.DurableWorkflow[[]string, []string]{Name: "shout"}
	definition := workflow.Define(shout, func(ctx workflow.Context, words []string) ([]string, error) {
		loud, err := workflow.Map(ctx, words, upper, workflow.MapOptions{Limit: 1})
		var failed *workflow.StepError
		if errors.As(err, &failed) {
			return append(loud[:1], failed.Step+": "+failed.Err.Error()), nil
		}
		return loud, err
	}, workflow.Options{Steps: []workflow.Declared{upper}})

	out, err := workflowtest.Run(shout, definition, []string{"a", "", "c"})
	fmt.Printf("%q %v\n", out, err)
	// Output: ["A" "upper[1]: nothing to shout"] <nil>
}
