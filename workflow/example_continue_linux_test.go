package workflow_test

import (
	"context"
	"fmt"
	"strings"

	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/workflow"
)

// A tool step that is one long command. Where the sandbox outlives the worker, so does the
// command: the next worker calls the function again, which follows it from its first byte.
func ExampleStepOptions_continue() {
	ctx := context.Background()
	build := workflow.NewToolStep("build", func(ctx context.Context, sb *sandbox.Sandbox, what string) (string, error) {
		// Written again by the next worker: so nothing may change it in between.
		if err := sb.WriteFile(ctx, "source", []byte(what), 0o644); err != nil {
			return "", err
		}
		out, err := sb.Command("sh", "-c", "echo building $(cat source); touch target; ls").Output(ctx)
		return strings.Join(strings.Fields(string(out)), " "), err
	}, workflow.StepOptions{Mode: workflow.Sandboxed, Continue: true})
	builds := workflow.DurableWorkflow[string, string]{Name: "builds"}
	client, _, stop := serve(ctx, workflow.Define(builds, func(ctx workflow.Context, what string) (string, error) {
		return build.Run(ctx, what)
	}, workflow.Options{Steps: []workflow.Declared{build}}))
	defer stop()
	run, err := builds.Enqueue(ctx, client, "hull", workflow.EnqueueOptions{})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(run.Result(ctx))
	// Output: building hull source target <nil>
}
