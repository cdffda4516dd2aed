package workflow_test

import (
	"context"

	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/workflow"
)

// The function of a tool step stays on the worker and drives commands in a
// sandbox, which a unit test does not have: this example is compiled, not run.
func ExampleNewToolStep() {
	count := workflow.NewToolStep("count", func(ctx context.Context, sb *sandbox.Sandbox, text string) (string, error) {
		if err := sb.WriteFile(ctx, "text", []byte(text), 0o644); err != nil {
			return "", err
		}
		out, err := sb.Command("wc", "-w", "text").Output(ctx)
		return string(out), err
	}, workflow.StepOptions{
		Mode:    workflow.Sandboxed,
		Sandbox: sandbox.Spec{Image: "debian:bookworm-slim"}, // no network, no secrets, small limits
	})
	words := workflow.DurableWorkflow[string, string]{Name: "words"}
	definition := workflow.Define(words, func(ctx workflow.Context, text string) (string, error) {
		return count.Run(ctx, text)
	}, workflow.Options{Steps: []workflow.Declared{count}})
	_ = definition // for worker.Run and bootstrap.Init
}
