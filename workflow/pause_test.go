package workflow_test

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stepward/stepward/internal/engine"
	"github.com/stepward/stepward/workflow"
)

// A pauser is the engine's side of a run that is paused, or not, before the answer
// comes to what a body asks for.
type pauser struct {
	memory
	pause    bool
	paused   atomic.Bool
	received int
}

func (h *pauser) Look(context.Context, map[string]int64, []int64) (engine.News, error) {
	h.paused.Store(h.pause)
	return engine.News{Signals: []engine.Signal{{ID: 1, Name: "ping", Payload: []byte("7")}}}, nil
}

func (h *pauser) Write(_ context.Context, b engine.Batch) error {
	h.received += len(b.Received)
	return nil
}

// What has arrived at a paused run is not handed over, though its turn knows of it.
func TestPausedReceivesNothing(t *testing.T) {
	t.Parallel()
	def := workflow.Define(fuzzed, func(ctx workflow.Context, _ int) (int, error) {
		n, err := ping.Receive(ctx, 0)
		if err != nil {
			return 0, err
		}
		return inc.Run(ctx, n)
	}, workflow.Options{Steps: []workflow.Declared{inc}})
	for _, pause := range []bool{true, false} {
		h := &pauser{pause: pause}
		end := def.Engine().Run(t.Context(), engine.Turn{
			Run: 1, Epoch: 1, Input: []byte("1"), MaxBytes: 1 << 20, Host: h, Now: time.Now, Logger: slog.New(slog.DiscardHandler),
			Paused: h.paused.Load, Attempts: map[int]engine.Attempts{}, Waits: map[int]engine.Wait{},
		})
		if pause && (end.Kind != engine.Parked || end.Reason != "paused" || h.received != 0) {
			t.Errorf("paused: it ended as %v, %q; received %d", end.Kind, end.Reason, h.received)
		}
		if !pause && (end.Kind != engine.Completed || string(end.Output) != "8" || h.received != 1) {
			t.Errorf("not paused: it ended as %v, %s; received %d", end.Kind, end.Output, h.received)
		}
	}
}
