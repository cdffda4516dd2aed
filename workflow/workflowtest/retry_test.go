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
		least, most time.Duration // of all
	}{
		"longest":           {workflow.Retry{MaxAttempts: 3, Backoff: ever}, 2 * century, 2 * century},
		"doubled":           {workflow.Retry{MaxAttempts: 4, Backoff: time.Hour, MaxBackoff: 3 * time.Hour}, 288 * time.Minute, 432 * time.Minute},
		"doubled to no end": {workflow.Retry{MaxAttempts: 22, Backoff: time.Hour, MaxBackoff: ever}, century, ever},
		"more than most":    {workflow.Retry{MaxAttempts: 2, Backoff: time.Hour, MaxBackoff: time.Minute}, 48 * time.Second, 72 * time.Second},
	} {
		fails := workflow.NewStep("fails", func(context.Context, string) (string, error) { return "", errors.New("no") }, workflow.StepOptions{Retry: test.retry})
		e := workflowtest.New(t, workflow.Define(double, func(ctx workflow.Context, s string) (string, error) { return fails.Run(ctx, s) },
			workflow.Options{Steps: []workflow.Declared{fails}}))
		began := e.Now()
		wants(t, e, "attempt "+strconv.Itoa(test.retry.MaxAttempts))
		if took := e.Now().Sub(began); took < test.least || took > test.most {
			t.Errorf("%s: %v", name, took)
		}
	}
}
