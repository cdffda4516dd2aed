package workflow_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stepward/stepward/workflow"
	"github.com/stepward/stepward/workflow/workflowtest"
)

// A loop over Ready sees each future once, also when its Context ends in the middle:
// a body that adds up what it gets must not take a part for the whole.
func TestReadyCanceled(t *testing.T) {
	waits := workflow.DurableWorkflow[[]time.Duration, int]{Name: "waits"}
	definition := workflow.Define(waits, func(ctx workflow.Context, naps []time.Duration) (int, error) {
		short, cancel := ctx.WithTimeout(time.Hour)
		defer cancel()
		var fs []*workflow.Future[int]
		for i, nap := range naps {
			fs = append(fs, workflow.Go(ctx, "nap", func(ctx workflow.Context) (int, error) { return i, workflow.Sleep(ctx, nap) }))
		}
		var seen []int
		for i, f := range workflow.Ready(short, fs...) {
			v, err := f.Get(short)
			if late := errors.Is(err, workflow.ErrTimeout); late != (naps[i] > time.Hour) || !late && v != i {
				return 0, fmt.Errorf("branch %d: %d, %w", i, v, err)
			}
			seen = append(seen, i)
		}
		if want := []int{2, 0, 1, 3}; !slices.Equal(seen, want) {
			return 0, fmt.Errorf("seen %v, want %v", seen, want)
		}
		return len(seen), nil
	}, workflow.Options{})
	naps := []time.Duration{2 * time.Minute, 2 * time.Hour, time.Minute, 3 * time.Hour}
	if n, err := workflowtest.Run(waits, definition, naps); n != len(naps) || err != nil {
		t.Errorf("%d, %v", n, err)
	}
}
