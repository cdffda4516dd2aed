package workflow_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/stepward/stepward/workflow"
	"github.com/stepward/stepward/workflow/workflowtest"
)

// A step that fails is tried again. In workflowtest the waits take no time.
func ExampleRetry() {
	fetch := workflow.NewStep("fetch", func(ctx context.Context, url string) (string, error) {
		info, _ := workflow.StepInfoFrom(ctx)
		fmt.Println("attempt", info.Attempt)
		if info.Attempt < 3 {
			return "", errors.New("connection refused")
		}
		return "hello from " + url, nil
	}, workflow.StepOptions{Retry: workflow.Retry{MaxAttempts: 4, Backoff: time.Minute}})
	crawl := workflow.DurableWorkflow[string, string]{Name: "crawl"}
	definition := workflow.Define(crawl, func(ctx workflow.Context, url string) (string, error) {
		return fetch.Run(ctx, url)
	}, workflow.Options{Steps: []workflow.Declared{fetch}})

	fmt.Println(workflowtest.Run(crawl, definition, "example.com"))
	// Output:
	// attempt 1
	// attempt 2
	// attempt 3
	// hello from example.com <nil>
}

// When its attempts are used up, the body decides what the failure means.
func ExampleStepError() {
	reserve := workflow.NewStep("reserve", func(ctx context.Context, seat string) (string, error) {
		return "", errors.New("no answer")
	}, workflow.StepOptions{Retry: workflow.Retry{MaxAttempts: 2}})
	book := workflow.DurableWorkflow[string, string]{Name: "book"}
	definition := workflow.Define(book, func(ctx workflow.Context, seat string) (string, error) {
		_, err := reserve.Run(ctx, seat)
		var failed *workflow.StepError
		if errors.As(err, &failed) {
			return fmt.Sprintf("by phone: %s failed %d times: %v", failed.Step, failed.Attempt, failed.Err), nil
		}
		return seat, err
	}, workflow.Options{Steps: []workflow.Declared{reserve}})

	fmt.Println(workflowtest.Run(book, definition, "12A"))
	// Output: by phone: reserve failed 2 times: no answer <nil>
}

// An attempt that takes too long is a failed one. Its error is ErrTimeout.
func ExampleStepOptions_timeout() {
	ask := workflow.NewStep("ask", func(ctx context.Context, question string) (string, error) {
		<-ctx.Done() // an answer that never comes
		return "", ctx.Err()
	}, workflow.StepOptions{Timeout: time.Millisecond, Retry: workflow.Retry{MaxAttempts: 1}})
	oracle := workflow.DurableWorkflow[string, string]{Name: "oracle"}
	definition := workflow.Define(oracle, func(ctx workflow.Context, question string) (string, error) {
		answer, err := ask.Run(ctx, question)
		if errors.Is(err, workflow.ErrTimeout) {
			return "silence", nil
		}
		return answer, err
	}, workflow.Options{Steps: []workflow.Declared{ask}})

	fmt.Println(workflowtest.Run(oracle, definition, "why?"))
	// Output: silence <nil>
}

func ExamplePermanent() {
	charge := workflow.NewStep("charge", func(ctx context.Context, cents int) (string, error) {
		return "", workflow.Permanent(errors.New("card expired"))
	}, workflow.StepOptions{})
	pay := workflow.DurableWorkflow[int, string]{Name: "pay"}
	definition := workflow.Define(pay, func(ctx workflow.Context, cents int) (string, error) {
		return charge.Run(ctx, cents)
	}, workflow.Options{Steps: []workflow.Declared{charge}})

	_, err := workflowtest.Run(pay, definition, 100)
	var run *workflow.RecordedError
	if errors.As(err, &run) {
		fmt.Println(run.Step, "attempt", run.Attempt, "permanent", run.Permanent)
		fmt.Println(run)
	}
	// Output:
	// charge attempt 1 permanent true
	// step charge, attempt 1: card expired
}

// A predicate says which errors are worth another attempt, and a server when.
func ExampleRetryAfter() {
	errGone := errors.New("410 Gone")
	get := workflow.NewStep("get", func(ctx context.Context, page string) (string, error) {
		info, _ := workflow.StepInfoFrom(ctx)
		fmt.Println("attempt", info.Attempt)
		if info.Attempt == 1 {
			return "", workflow.RetryAfter(errors.New("503 Service Unavailable"), time.Hour)
		}
		return "", fmt.Errorf("get %s: %w", page, errGone)
	}, workflow.StepOptions{Retry: workflow.Retry{MaxAttempts: 10, If: func(err error) bool { return !errors.Is(err, errGone) }}})
	crawl := workflow.DurableWorkflow[string, string]{Name: "crawl"}
	definition := workflow.Define(crawl, func(ctx workflow.Context, page string) (string, error) {
		began := ctx.Now()
		_, err := get.Run(ctx, page)
		return "", fmt.Errorf("an hour later: %v: %w", ctx.Now().Sub(began) >= time.Hour, err)
	}, workflow.Options{Steps: []workflow.Declared{get}})

	_, err := workflowtest.Run(crawl, definition, "index.html")
	fmt.Println(errors.Unwrap(err))
	// Output:
	// attempt 1
	// attempt 2
	// an hour later: true: step get, attempt 2: get index.html: 410 Gone
}

// A deadline bounds all attempts together.
func ExampleStepOptions_deadline() {
	ask := workflow.NewStep("ask", func(ctx context.Context, question string) (string, error) {
		return "", errors.New("no answer")
	}, workflow.StepOptions{Deadline: 24 * time.Hour, Retry: workflow.Retry{MaxAttempts: 1000, Backoff: time.Hour, MaxBackoff: 10 * time.Hour}})
	oracle := workflow.DurableWorkflow[string, string]{Name: "oracle"}
	definition := workflow.Define(oracle, func(ctx workflow.Context, question string) (string, error) {
		answer, err := ask.Run(ctx, question)
		if errors.Is(err, workflow.ErrTimeout) {
			return "silence", nil
		}
		return answer, err
	}, workflow.Options{Steps: []workflow.Declared{ask}})

	fmt.Println(workflowtest.Run(oracle, definition, "why?"))
	// Output: silence <nil>
}
