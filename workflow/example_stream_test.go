package workflow_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/stepward/stepward/workflow"
)

var (
	chapters = workflow.Stream[string]{Name: "chapters"}
	written  = workflow.Progress[int]{Name: "written"}
	book     = workflow.DurableWorkflow[int, string]{Name: "book"}
)

var chapter = workflow.NewStep("chapter", func(ctx context.Context, n int) (string, error) {
	// A step shows what it does before it has ended.
	return fmt.Sprint("chapter ", n), chapters.AppendInStep(ctx, fmt.Sprint("writing ", n))
}, workflow.StepOptions{})

var bookV1 = workflow.Define(book, func(ctx workflow.Context, n int) (string, error) {
	for i := range n {
		text, err := chapter.Run(ctx, i+1)
		if err != nil {
			return "", err
		}
		// Written with the checkpoint of the step, once, whatever is replayed.
		if err := errors.Join(chapters.Append(ctx, text), written.Set(ctx, i+1)); err != nil {
			return "", err
		}
	}
	return "the end", ctx.SetAttribute("state", "printed")
}, workflow.Options{Steps: []workflow.Declared{chapter}})

// A client tails a run to its end. Others read its progress, or find it by an
// attribute.
func ExampleStream() {
	ctx := context.Background()
	client, _, stop := serve(ctx, bookV1)
	defer stop()
	run, err := book.Enqueue(ctx, client, 2, workflow.EnqueueOptions{Attributes: map[string]any{"author": "ada", "state": "draft"}})
	if err != nil {
		fmt.Println(err)
		return
	}
	for e, err := range chapters.Tail(ctx, client, run.ID, 0) {
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(e.Value)
	}
	n, _, err := written.Get(ctx, client, run.ID)
	fmt.Println(n, "written", err)
	for s, err := range client.Runs(ctx, workflow.RunFilter{Attributes: []workflow.AttributeFilter{
		{Name: "state", Equal: "printed"}, {Name: "author", Prefix: "a"}}}) {
		fmt.Println("found:", s.Attributes["author"], err)
	}
	// Output:
	// writing 1
	// chapter 1
	// writing 2
	// chapter 2
	// 2 written <nil>
	// found: ada <nil>
}
