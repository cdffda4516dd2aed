package workflow_test

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stepward/stepward/internal/engine"
	"github.com/stepward/stepward/workflow"
)

func FuzzRunID(f *testing.F) {
	for _, seed := range []string{"", "run_", workflow.RunID(1).String(), workflow.RunID(1<<62 + 7).String(), "run_zzzzzzzzzzzzz", "RUN_0000000000020"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var id, back workflow.RunID
		if err := id.UnmarshalText([]byte(text)); err != nil {
			if id != 0 {
				t.Errorf("%q: %v beside %v", text, id, err)
			}
			return
		}
		if err := back.UnmarshalText([]byte(id.String())); err != nil || back != id || id <= 0 {
			t.Errorf("%q is %v, which is read as %v, %v", text, id, back, err)
		}
	})
}

// memory executes steps at once and keeps nothing. What a turn here never asks for
// it does not have.
type memory struct{ engine.Host }

func (memory) Attempt(ctx context.Context, a engine.Attempt) (engine.Outcome, error) {
	out, err := a.Step.Call(ctx, a.Input)
	return engine.Outcome{Output: out}, err
}
func (memory) Write(context.Context, engine.Batch) error { return nil }
func (memory) Child(context.Context, engine.Child) (int64, error) {
	return 7, nil
}
func (memory) Look(context.Context, map[string]int64, []int64) (engine.News, error) {
	return engine.News{}, nil
}

var (
	fuzzed = workflow.DurableWorkflow[int, int]{Name: "fuzzed"}
	ping   = workflow.NewSignal[int]("ping")
	inc    = workflow.NewStep("inc", func(_ context.Context, n int) (int, error) { return n + 1, nil }, workflow.StepOptions{})
	// Something of all that is recorded.
	fuzzedV1 = workflow.Define(fuzzed, func(ctx workflow.Context, n int) (int, error) {
		outs, err := workflow.Map(ctx, []int{1, 2, 3}, inc, workflow.MapOptions{Limit: 2})
		if err != nil {
			return 0, err
		}
		branch := workflow.Go(ctx, "branch", func(ctx workflow.Context) (int, error) { return inc.Run(ctx, len(outs)) })
		if ctx.Now().IsZero() || ctx.Patched("patch") {
			n++
		}
		if err := workflow.Sleep(ctx, time.Millisecond); err != nil {
			return 0, err
		}
		limited, cancel := ctx.WithTimeout(time.Millisecond)
		defer cancel()
		if v, err := ping.Receive(limited, 0); err == nil {
			n += v
		}
		child := fuzzed.Go(limited, n)
		for range workflow.Ready(ctx, branch, child) {
			n++
		}
		return n, nil
	}, workflow.Options{Steps: []workflow.Declared{inc}})
)

// A body on top of any history ends, parks or waits. It never panics out of the
// turn and never hangs.
func FuzzTurn(f *testing.F) {
	f.Add("1 1 inc[0] 2\n2 2 inc[1] 3\n3 3 inc[2] 4\n4 4 now: null", []byte("1"))
	f.Add("1 3 inc[0] 2\n2 2 inc[1] x\n3 1 inc[2] !{}", []byte("1"))
	f.Add("0 1 cancel: ", []byte("x"))
	f.Add("5 5 patched:patch true\n6 6 sleep: \n7 8 timeout: \n8 7 signal:ping 1", []byte("-3"))
	f.Fuzz(func(t *testing.T, history string, input []byte) {
		turn := engine.Turn{
			Run: 1, Epoch: 2, Input: input, MaxBytes: 1 << 20, Host: memory{}, Now: time.Now,
			Attempts: map[int]engine.Attempts{}, Waits: map[int]engine.Wait{}, Logger: slog.New(slog.DiscardHandler),
		}
		seen := make(map[int]bool)
		for i, line := range strings.Split(history, "\n") {
			words := strings.SplitN(line, " ", 4)
			if len(words) < 4 || len(turn.Steps) > 50 {
				continue
			}
			c := engine.Checkpoint{Seq: small(words[0]), Done: small(words[1]), Key: words[2], Output: []byte(words[3])}
			if out, ok := strings.CutPrefix(words[3], "!"); ok {
				c.Output, c.Error = nil, []byte(out)
			}
			if seen[c.Seq] || c.Seq > 1000 { // the table has one row for a place
				turn.Attempts[i] = engine.Attempts{Key: c.Key, Last: c.Seq, Failed: c.Done}
				continue
			}
			seen[c.Seq] = true
			turn.Steps = append(turn.Steps, c)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		end := fuzzedV1.Engine().Run(ctx, turn)
		if ctx.Err() != nil {
			t.Fatalf("the turn hangs on %q", history)
		}
		switch end.Kind {
		case engine.Completed, engine.Failed, engine.Timer:
		case engine.Canceled:
			if !seen[0] {
				t.Errorf("canceled by %q", history)
			}
		case engine.Parked:
			if end.Reason == "" || end.Err == nil {
				t.Errorf("parked without a reason: %+v", end)
			}
		default:
			t.Errorf("%q ended as %+v", history, end)
		}
	})
}

func small(text string) (n int) {
	for _, r := range text {
		if r < '0' || r > '9' || n > 10000 {
			return n
		}
		n = 10*n + int(r-'0')
	}
	return n
}
