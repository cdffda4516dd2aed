package workflowtest_test

import (
	"context"
	"errors"
	"math"
	"strconv"
	"testing"
	"time"

	"github.com/stepward/stepward/workflow"
	"github.com/stepward/stepward/workflow/workflowtest"
)

// The wait before another attempt is within its bounds, however large the numbers are.
func TestRetryDelays(t *testing.T) {
	const ever, century = time.Duration(math.MaxInt64), 100 * 365 * 24 * time.Hour
	for name, test := range map[string]struct {
		retry       workflow.Retry
		after       time.Duration // as the other side asks for
		least, most time.Duration // of all
	}{
		"asked for long":    {workflow.Retry{MaxAttempts: 2}, ever, 24 * time.Hour, 27 * time.Hour},
		"asked for none":    {workflow.Retry{MaxAttempts: 2}, math.MinInt64, 400 * time.Millisecond, 600 * time.Millisecond},
		"longest":           {workflow.Retry{MaxAttempts: 3, Backoff: ever}, 0, 2 * century, 2 * century},
		"doubled":           {workflow.Retry{MaxAttempts: 4, Backoff: time.Hour, MaxBackoff: 3 * time.Hour}, 0, 288 * time.Minute, 432 * time.Minute},
		"doubled to no end": {workflow.Retry{MaxAttempts: 22, Backoff: time.Hour, MaxBackoff: ever}, 0, century, ever},
		"more than most":    {workflow.Retry{MaxAttempts: 2, Backoff: time.Hour, MaxBackoff: time.Minute}, 0, 48 * time.Second, 72 * time.Second},
	} {
		fails := workflow.NewStep("fails", func(context.Context, string) (string, error) {
			return "", workflow.RetryAfter(errors.New("no"), test.after)
		}, workflow.StepOptions{Retry: test.retry})
		e := workflowtest.New(t, workflow.Define(double, func(ctx workflow.Context, s string) (string, error) { return fails.Run(ctx, s) },
			workflow.Options{Steps: []workflow.Declared{fails}}))
		began := e.Now()
		wants(t, e, "attempt "+strconv.Itoa(test.retry.MaxAttempts))
		if took := e.Now().Sub(began); took < test.least || took > test.most {
			t.Errorf("%s: %v", name, took)
		}
	}
}

// No error, marked, is none.
func TestMarksOfNoError(t *testing.T) {
	if err := errors.Join(workflow.Permanent(nil), workflow.RetryAfter(nil, time.Hour)); err != nil {
		t.Error(err)
	}
}
