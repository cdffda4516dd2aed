package workflowtest_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/workflow"
	"github.com/stepward/stepward/workflow/workflowtest"
)

var double = workflow.DurableWorkflow[string, string]{Name: "double"}

// once is a workflow of one step.
func once(fn func(context.Context, string) (string, error), o workflow.StepOptions) *workflow.Definition {
	step := workflow.NewStep("step", fn, o)
	return workflow.Define(double, func(ctx workflow.Context, s string) (string, error) { return step.Run(ctx, s) },
		workflow.Options{Steps: []workflow.Declared{step}})
}

// The waits of retries take no time, whatever they are in production, and each
// attempt has its number.
func TestRunRetries(t *testing.T) {
	var seen []int
	d := once(func(ctx context.Context, s string) (string, error) {
		info, _ := workflow.StepInfoFrom(ctx)
		if seen = append(seen, info.Attempt); info.Attempt < 4 {
			return "", errors.New("not yet")
		}
		return s + s, nil
	}, workflow.StepOptions{Retry: workflow.Retry{Backoff: 24 * time.Hour, MaxBackoff: 24 * time.Hour}})
	out, err := workflowtest.Run(double, d, "a")
	if out != "aa" || err != nil || fmt.Sprint(seen) != "[1 2 3 4]" {
		t.Errorf("got %q, %v after attempts %v", out, err, seen)
	}
}

// A step that fails does so with the error of production.
func TestRunFails(t *testing.T) {
	once1 := workflow.StepOptions{Retry: workflow.Retry{MaxAttempts: 1}}
	short := once1
	short.Timeout = time.Millisecond
	forever := make(chan struct{})
	defer close(forever)
	for name, c := range map[string]struct {
		fn            func(context.Context, string) (string, error)
		o             workflow.StepOptions
		kind, message string
	}{
		"an error":          {func(context.Context, string) (string, error) { return "", errors.New("boom") }, once1, "", "boom"},
		"a panic":           {func(context.Context, string) (string, error) { panic("boom") }, once1, "panic", "panic: boom"},
		"Goexit":            {func(context.Context, string) (string, error) { runtime.Goexit(); return "", nil }, once1, "goexit", "ended its goroutine"},
		"a timeout":         {func(ctx context.Context, _ string) (string, error) { <-ctx.Done(); return "", ctx.Err() }, short, "timeout", "longer than 1ms"},
		"an ignored ctx":    {func(context.Context, string) (string, error) { <-forever; return "", nil }, short, "timeout", "did not return"},
		"a large output":    {func(context.Context, string) (string, error) { return strings.Repeat("x", 2<<20), nil }, once1, "size", "output of step step"},
		"a sandboxed error": {func(context.Context, string) (string, error) { return "", errors.New("boom") }, workflow.StepOptions{Mode: workflow.Sandboxed, Retry: once1.Retry}, "", "boom"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := workflowtest.Run(double, once(c.fn, c.o), "a")
			failed := (*workflow.RecordedError)(nil)
			if !errors.As(err, &failed) || failed.Kind != c.kind || !strings.Contains(failed.Message, c.message) || failed.Step != "step" {
				t.Errorf("got %v (%+v)", err, failed)
			}
			if errors.Is(err, workflow.ErrTimeout) != (c.kind == "timeout") {
				t.Errorf("is it a timeout? %v", err)
			}
		})
	}
}

// What would park a run, and what is no run at all, is an error that says so.
func TestRunRefuses(t *testing.T) {
	tool := workflow.NewToolStep("tool", func(context.Context, *sandbox.Sandbox, string) (string, error) { return "", nil },
		workflow.StepOptions{Mode: workflow.Sandboxed})
	withTool := workflow.Define(double, func(ctx workflow.Context, s string) (string, error) { return tool.Run(ctx, s) },
		workflow.Options{Steps: []workflow.Declared{tool}})
	if _, err := workflowtest.Run(double, withTool, "a"); !errors.Is(err, workflowtest.ErrToolStep) || !strings.Contains(err.Error(), "step tool") {
		t.Errorf("a tool step: got %v", err)
	}
	undeclared := workflow.Define(double, func(ctx workflow.Context, s string) (string, error) { return tool.Run(ctx, s) }, workflow.Options{})
	_, err := workflowtest.Run(double, undeclared, "a")
	if bad := (*workflow.DefinitionError)(nil); !errors.As(err, &bad) || bad.Step != "tool" {
		t.Errorf("an undeclared step: got %v", err)
	}
	_, err = workflowtest.Run(double, workflow.Define(double, nil, workflow.Options{}), "a")
	if bad := (*workflow.DefinitionError)(nil); !errors.As(err, &bad) {
		t.Errorf("no body: got %v", err)
	}
	echo := once(func(_ context.Context, s string) (string, error) { return s, nil }, workflow.StepOptions{})
	if _, err := workflowtest.Run(workflow.DurableWorkflow[string, string]{Name: "other"}, echo, "a"); err == nil {
		t.Error("the definition of another workflow: no error")
	}
	_, err = workflowtest.Run(double, echo, strings.Repeat("x", 2<<20))
	if bad := (*workflow.ValueError)(nil); !errors.As(err, &bad) {
		t.Errorf("a large input: got %v", err)
	}
}
