package workflow_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stepward/stepward/internal/history"
	"github.com/stepward/stepward/workflow"
	"github.com/stepward/stepward/workflow/workflowtest"
)

var (
	shipped  = workflow.DurableWorkflow[int, int]{Name: "shipped"}
	shipping = workflow.DurableWorkflow[int, string]{Name: "shipping"} // its body returned "sent"
	approved = workflow.NewSignal[string]("approved")
	pack     = workflow.NewStep("pack", func(_ context.Context, n int) (int, error) { return n + 1, nil }, workflow.StepOptions{})
	reserved = workflow.NewStep("reserve", func(context.Context, string) (string, error) {
		return "", workflow.Permanent(errors.New("no such account"))
	}, workflow.StepOptions{})

	// Something of each kind of record. Its runs are in testdata: it stays as it is.
	shippedV1 = workflow.Define(shipped, func(ctx workflow.Context, n int) (int, error) {
		packed, err := workflow.Map(ctx, []int{n, n + 1, n + 2}, pack, workflow.MapOptions{Limit: 2})
		if err != nil {
			return 0, err
		}
		branch := workflow.Go(ctx, "extra", func(ctx workflow.Context) (int, error) { return pack.Run(ctx, 70) })
		if ctx.Patched("paper") && !ctx.Now().IsZero() {
			n += len(packed)
		}
		n += ctx.Random().IntN(1000) // the child's input has to be the same
		if err := workflow.Sleep(ctx, time.Millisecond); err != nil {
			return 0, err
		}
		by, err := approved.Receive(ctx, time.Hour)
		if err != nil {
			return 0, err
		}
		if _, err := reserved.Run(ctx, by); err == nil {
			return 0, errors.New("it was booked")
		}
		if _, err := approved.Receive(ctx, time.Millisecond); !errors.Is(err, workflow.ErrTimeout) {
			return 0, err
		}
		if _, err := shipping.Run(ctx, n); err != nil {
			return 0, err
		}
		more, err := branch.Get(ctx)
		return n + more, err
	}, workflow.Options{Steps: []workflow.Declared{pack, reserved}})
)

// Each history in testdata is what Client.Export wrote of a run in Postgres once. None
// is ever written anew: programs that were built since read them, and what they do of
// such a run is the same; and what they write of it is, byte for byte.
func TestRecordedHistories(t *testing.T) {
	files, err := filepath.Glob("testdata/*.json")
	if err != nil || len(files) == 0 {
		t.Fatal("no histories", err)
	}
	other := workflow.Define(shipped, func(ctx workflow.Context, n int) (int, error) { return pack.Run(ctx, n) }, workflow.Options{Steps: []workflow.Declared{pack, reserved}})
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := workflowtest.Replay(shippedV1, data); err != nil {
			t.Errorf("%s: %v", file, err)
		}
		if _, ok := errors.AsType[*workflow.NonDeterminismError](workflowtest.Replay(other, data)); !ok {
			t.Errorf("%s: another body fits it as well", file)
		}
		h, err := history.Parse(data)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := h.Marshal(); err != nil || !bytes.Equal(again, data) {
			t.Errorf("%s: is written as\n%s\n%v", file, again, err)
		}
	}
}
