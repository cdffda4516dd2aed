package workflow_test

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stepward/stepward/internal/engine"
	"github.com/stepward/stepward/workflow"
)

const outage = 3 * engine.BlockedAfter

// outages is a memory whose every answer takes an outage.
type outages struct{ memory }

func (outages) Write(context.Context, engine.Batch) error {
	<-time.After(outage)
	return nil
}

func (outages) Shown(context.Context) (engine.Place, error) {
	<-time.After(outage)
	return engine.Place{}, nil
}

// It is not the body that computes while a call of it waits for Postgres. What it
// computes itself, also with calls between that wait for nothing, is.
func TestOutageIsNotBlockedBody(t *testing.T) {
	shown := workflow.Progress[int]{Name: "shown"}
	said := make(chan bool, 9)
	body := workflow.Define(fuzzed, func(ctx workflow.Context, n int) (int, error) {
		ctx.Now() // is fetched
		if err := shown.Set(ctx, n); err != nil {
			return 0, err
		}
		for range 1_100 { // more than wait for a commit
			ctx.Now()
		}
		<-time.After(engine.BlockedAfter - time.Second)
		if len(said) > 0 {
			t.Error("an outage is taken for a body that computes")
		}
		ctx.Now()
		<-time.After(2 * time.Second)
		return n, nil
	}, workflow.Options{})
	synctest.Test(t, func(t *testing.T) {
		fetched := 0
		end := body.Engine().Run(t.Context(), engine.Turn{
			Run: 1, Epoch: 2, Input: []byte("1"), MaxBytes: 1 << 20, Host: outages{}, Now: time.Now, Logger: slog.New(slog.DiscardHandler),
			Steps: []engine.Checkpoint{{Seq: 1, Done: 1, Key: "now:", Apart: 1}},
			Fetch: func(_ context.Context, next []*engine.Checkpoint) error {
				<-time.After(outage)
				fetched++
				next[0].Output, next[0].Apart = []byte(`"2026-01-01T00:00:00Z"`), 0
				return nil
			},
			Blocked: func(is bool) { said <- is },
		})
		if end.Kind != engine.Completed || fetched != 1 {
			t.Errorf("got %+v, and fetched %d times", end, fetched)
		}
	})
	if len(said) != 2 || !<-said || <-said {
		t.Errorf("the body that computes: said %d times", len(said))
	}
}
