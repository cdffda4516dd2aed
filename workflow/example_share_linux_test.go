package workflow_test

import (
	"context"
	"fmt"
	"strings"

	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/workflow"
)

// Two steps of a run share a sandbox. The second does without what the first has left if it
// has to: the run may have been elsewhere in between.
func ExampleStepOptions_share() {
	ctx := context.Background()
	o := workflow.StepOptions{Mode: workflow.Sandboxed, Sandbox: sandbox.Spec{Share: true}}
	script := func(ctx context.Context, sb *sandbox.Sandbox, text string) (string, error) {
		out, err := sb.Command("sh", "-c", text).Output(ctx)
		return strings.TrimSpace(string(out)), err
	}
	fetch, count := workflow.NewToolStep("fetch", script, o), workflow.NewToolStep("count", script, o)
	counts := workflow.DurableWorkflow[string, string]{Name: "counts"}
	client, _, stop := serve(ctx, workflow.Define(counts, func(ctx workflow.Context, words string) (string, error) {
		get := "test -e words || echo " + words + " > words; "
		if _, err := fetch.Run(ctx, get); err != nil {
			return "", err
		}
		return count.Run(ctx, get+"wc -w < words")
	}, workflow.Options{Steps: []workflow.Declared{fetch, count}}))
	defer stop()
	run, err := counts.Enqueue(ctx, client, "a b c", workflow.EnqueueOptions{})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(run.Result(ctx))
	// Output: 3 <nil>
}
