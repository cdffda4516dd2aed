package workflow_test

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/worker/bootstrap"
	"github.com/stepward/stepward/workflow"
)

// The function of a tool step stays on the worker and drives commands in a
// sandbox. This one has no network, no secrets, and files of its own.
func ExampleNewToolStep() {
	ctx := context.Background()
	count := workflow.NewToolStep("count", func(ctx context.Context, sb *sandbox.Sandbox, text string) (string, error) {
		if err := sb.WriteFile(ctx, "text", []byte(text), 0o644); err != nil {
			return "", err
		}
		out, err := sb.Command("wc", "-w", "text").Output(ctx)
		return strings.TrimSpace(string(out)), err
	}, workflow.StepOptions{Mode: workflow.Sandboxed})
	words := workflow.DurableWorkflow[string, string]{Name: "words"}
	client, _, stop := serve(ctx, workflow.Define(words, func(ctx workflow.Context, text string) (string, error) {
		return count.Run(ctx, text)
	}, workflow.Options{Steps: []workflow.Declared{count}}))
	defer stop()
	run, err := words.Enqueue(ctx, client, "to be or not to be", workflow.EnqueueOptions{})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(run.Result(ctx))
	// Output: 6 text <nil>
}

// exampleStore names the folder of the secrets of examples.
const exampleStore = "STEPWARD_EXAMPLE_SECRETS"

// serveExamples lets the program serve in the sandboxes of examples, as that of a worker
// does, and as the broker of their secrets.
func serveExamples() {
	bootstrap.Config{Broker: bootstrap.FileStore(os.Getenv(exampleStore)), User: "root"}.Init(releaseV1, triageV1)
}
