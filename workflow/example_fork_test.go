package workflow_test

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/stepward/stepward/workflow"
)

// A newsletter whose text was wrong is written anew by mended code, for the
// addresses that were collected. See examples/replay for a whole program.
func ExampleClient_Fork() {
	ctx := context.Background()
	newsletter := workflow.DurableWorkflow[string, string]{Name: "newsletter"}
	collect := workflow.NewStep("collect", func(_ context.Context, list string) (string, error) {
		fmt.Println("collect", list)
		return "ada, grace", nil
	}, workflow.StepOptions{})
	write := workflow.NewStep("write", func(_ context.Context, to string) (string, error) {
		return "Dear " + to, nil
	}, workflow.StepOptions{})
	version := func(v, greeting string) *workflow.Definition {
		return workflow.Define(newsletter, func(ctx workflow.Context, list string) (string, error) {
			names, err := collect.Run(ctx, list)
			if err != nil {
				return "", err
			}
			return write.Run(ctx, greeting+names)
		}, workflow.Options{Version: v, Steps: []workflow.Declared{collect, write}})
	}
	client, _, stop := serve(ctx, version("2", "all: "), version("1", "nobody: "))
	defer stop()
	run, err := newsletter.Enqueue(ctx, client, "readers", workflow.EnqueueOptions{})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(run.Result(ctx))

	_, err = client.Fork(ctx, run.ID, workflow.ForkOptions{From: "wrote"})
	if option := (*workflow.OptionError)(nil); errors.As(err, &option) {
		_, nearest, _ := strings.Cut(option.Reason, "; ")
		fmt.Println(option.Option+":", nearest)
	}
	fork, err := client.Fork(ctx, run.ID, workflow.ForkOptions{From: "write", Version: "2"})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(newsletter.Handle(client, fork).Result(ctx))
	// Output:
	// collect readers
	// Dear nobody: ada, grace <nil>
	// ForkOptions.From: the nearest are "write", "collect"
	// Dear all: ada, grace <nil>
}
