//go:build unix

package worker_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
	"github.com/stepward/stepward/workflow/workflowtest"
)

// mixed does one thing of each kind.
func mixed(ctx workflow.Context, n int) (int, error) {
	began := ctx.Now()
	a, b := double.Go(ctx, n), keep.Go(ctx, n)
	for _, f := range workflow.Ready(ctx, a, b) {
		if _, err := f.Get(ctx); err != nil {
			return 0, err
		}
	}
	outs, err := workflow.MapFunc(ctx, "each", []int{1, 2, 3}, func(ctx workflow.Context, n int) (int, error) {
		return double.Run(ctx, n+ctx.Random().IntN(1000))
	}, workflow.MapOptions{Limit: 2})
	if err != nil {
		return 0, err
	}
	short, cancel := ctx.WithTimeout(time.Millisecond)
	defer cancel()
	if _, err := note.Receive(short, 0); !errors.Is(err, workflow.ErrTimeout) {
		return 0, fmt.Errorf("got %w", err)
	}
	if ctx.Patched("later") {
		err = workflow.Sleep(ctx, time.Millisecond)
	}
	if ctx.Now().Before(began) || err != nil {
		return 0, fmt.Errorf("got %w", err)
	}
	return keep.Run(ctx, sum(outs))
}

// What was recorded fits the code that recorded it, and no changed code. The
// document of a run says as much as its rows.
func TestReplay(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	good := defines(mixed, double, keep)
	stop := f.start(worker.Config{Workflows: []*workflow.Definition{good}})
	run := f.enqueue(21)
	if _, err := outcome(t, f.client, run); err != nil {
		t.Fatal(err)
	}
	stop()
	before := f.onRecord()
	document, err := f.client.Export(t.Context(), run.ID)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := f.client.Export(t.Context(), run.ID); err != nil || !bytes.Equal(document, again) {
		t.Errorf("exported again: %v\n%s", err, again)
	}
	for name, test := range map[string]struct {
		body bodyOf
		want string
	}{
		"as it was": {mixed, ""},
		"shorter": {func(ctx workflow.Context, n int) (int, error) { ctx.Now(); return n, nil },
			"returned without calling"},
		"first": {func(ctx workflow.Context, n int) (int, error) { return double.Run(ctx, n) },
			"step 1 was recorded as now:, and the body calls double"},
		"longer": {func(ctx workflow.Context, n int) (int, error) {
			n, err := mixed(ctx, n)
			if err != nil {
				return n, err
			}
			return keep.Run(ctx, n)
		}, "completed before step 13, and the body calls keep#3"},
		"another clock": {func(ctx workflow.Context, n int) (int, error) {
			n, err := mixed(ctx, n)
			ctx.Now()
			return n, err
		}, "completed before step 13, and the body calls now:#3"},
		"fails": {func(ctx workflow.Context, n int) (int, error) {
			n, _ = mixed(ctx, n)
			return n, errors.New("no")
		}, "the body ends as failed, and the end on record is completed"},
		"patched": {func(ctx workflow.Context, n int) (int, error) {
			n, err := mixed(ctx, n)
			if ctx.Patched("much-later") {
				return 0, errors.New("a run that has ended was not patched")
			}
			return n, err
		}, ""},
		"undeclared": {func(ctx workflow.Context, n int) (int, error) { ctx.Now(); return gate.Run(ctx, n) }, "gate"},
		"panics":     {func(workflow.Context, int) (int, error) { panic("boom") }, "boom"},
	} {
		d := defines(test.body, double, keep)
		for how, err := range map[string]error{"Client.Replay": f.client.Replay(t.Context(), run.ID, d), "workflowtest.Replay": workflowtest.Replay(d, document)} {
			if err == nil != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("%s, %s: %v", how, name, err)
			}
			var mismatch *workflow.NonDeterminismError
			if strings.Contains(test.want, "step ") && (!errors.As(err, &mismatch) || mismatch.Seq == 0 || mismatch.Recorded == "" || mismatch.Attempted == "") {
				t.Errorf("%s, %s: %v", how, name, err)
			}
		}
	}
	if after := f.onRecord(); after != before {
		t.Errorf("steps were\n%s\nare\n%s", before, after)
	}
	if n := f.count("SELECT count(*) FROM stepward.claim"); n != 1 {
		t.Errorf("%d claims", n)
	}
	if err := f.client.Replay(t.Context(), 1, good); !errors.Is(err, workflow.ErrNotFound) {
		t.Errorf("no such run: %v", err)
	}
	if err := f.client.Replay(t.Context(), run.ID, chainV1); err == nil || !strings.Contains(err.Error(), "changing") {
		t.Errorf("another workflow: %v", err)
	}
}

// A run that is under way has a record that may go on.
func TestReplayLive(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	run := f.replayed()
	for want, body := range map[string]bodyOf{
		"":        passes(double, keep, gate),
		"keep":    passes(double, gate),
		"another": func(ctx workflow.Context, n int) (int, error) { return passes(double, keep)(ctx, n+1) },
	} {
		err := f.client.Replay(t.Context(), run.ID, defines(body, double, keep, gate))
		if err == nil != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("want %q: %v", want, err)
		}
	}
	if s := f.state(run.ID); s.State != workflow.StateParked {
		t.Errorf("it is %v", s.State)
	}
}
