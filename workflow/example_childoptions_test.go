package workflow_test

import (
	"errors"
	"fmt"
	"time"

	"github.com/stepward/stepward/workflow"
	"github.com/stepward/stepward/workflow/workflowtest"
)

// A child that takes too long is given up, and the body goes on without it.
func ExampleDurableWorkflow_With() {
	translate := workflow.DurableWorkflow[string, string]{Name: "translate"}
	translateV1 := workflow.Define(translate, func(ctx workflow.Context, text string) (string, error) {
		return "", workflow.Sleep(ctx, 24*time.Hour) // a translator is asked
	}, workflow.Options{})

	publish := workflow.DurableWorkflow[string, string]{Name: "publish"}
	publishV1 := workflow.Define(publish, func(ctx workflow.Context, text string) (string, error) {
		urgent := translate.With(workflow.EnqueueOptions{
			Timeout:    time.Hour,
			Priority:   10,
			Attributes: map[string]any{"language": "nl"},
			Limit:      workflow.Limit{Key: "translators", Concurrency: 3},
		})
		translated, err := urgent.Run(ctx, text)
		if errors.Is(err, workflow.ErrTimeout) {
			return text + " (not translated)", nil
		}
		return translated, err
	}, workflow.Options{})

	out, err := workflowtest.Execute(workflowtest.New(nil, publishV1, translateV1), publish, "Good morning")
	fmt.Println(out, err)
	// Output: Good morning (not translated) <nil>
}
