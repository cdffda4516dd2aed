package worker_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

const ever = time.Duration(math.MaxInt64)

// What a body passes that cannot be parks its run, with what it was, for a deploy to
// mend; or it is an error, or a documented answer. Its worker executes the next run.
func TestBodyBadInput(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	text := workflow.DurableWorkflow[string, string]{Name: "text"}
	numbers := workflow.DurableWorkflow[float64, string]{Name: "text"}
	echo := workflow.NewStep("echo", func(_ context.Context, s string) (string, error) { return s, nil }, workflow.StepOptions{})
	odd := workflow.NewStep("odd", func(_ context.Context, v any) (string, error) { return fmt.Sprint(v), nil }, workflow.StepOptions{})
	ticks := workflow.NewSignal[int]("ticks")
	var kept *workflow.Future[string] // of a run that has ended, as its Context is
	var keptCtx workflow.Context
	all := func(ctx workflow.Context, futures ...*workflow.Future[string]) (any, error) {
		var got []int
		for i := range workflow.Ready(ctx, futures...) {
			got = append(got, i)
		}
		return got, nil
	}
	type C = workflow.Context
	calls := map[string]struct {
		call   func(ctx C) (any, error)
		parked string // the reason; "waits": the run waits for ever; empty: the body returns
		want   string // in what it returns, or in the error
	}{
		"nil Context to a step":    {func(C) (any, error) { return echo.Run(nil, "") }, "panic", "Context: it is nil"},
		"nil Context to Sleep":     {func(C) (any, error) { return nil, workflow.Sleep(nil, 1) }, "panic", "Context: it is nil"},
		"another run's Context":    {func(C) (any, error) { return echo.Run(keptCtx, "") }, "goexit", "another run"},
		"nil step":                 {func(ctx C) (any, error) { return (*workflow.Step[int, int])(nil).Run(ctx, 1) }, "bad_call", "Step"},
		"zero step":                {func(ctx C) (any, error) { return new(workflow.Step[int, int]).Run(ctx, 1) }, "bad_call", "Step"},
		"step of what has no JSON": {func(ctx C) (any, error) { return odd.Run(ctx, math.NaN()) }, "", "input of step odd"},
		"Map of a nil step": {func(ctx C) (any, error) {
			return workflow.Map[int, int](ctx, []int{1}, nil, workflow.MapOptions{})
		}, "bad_call", "Step"},
		"Map of none": {func(ctx C) (any, error) { return workflow.Map(ctx, nil, echo, workflow.MapOptions{}) }, "", "[]"},
		"Map with a negative Limit": {func(ctx C) (any, error) {
			return workflow.Map(ctx, []string{"a", "b"}, echo, workflow.MapOptions{Limit: -1})
		}, "", "[a b]"},
		"Map of what has no JSON": {func(ctx C) (any, error) {
			return workflow.Map(ctx, []any{1, math.NaN(), 2}, odd, workflow.MapOptions{})
		}, "", "input of step odd[1]"},
		"MapFunc without a function": {func(ctx C) (any, error) {
			return workflow.MapFunc[int, int](ctx, "each", []int{1}, nil, workflow.MapOptions{})
		}, "bad_call", "branch each"},
		"Go without a function":      {func(ctx C) (any, error) { return workflow.Go[int](ctx, "part", nil).Get(ctx) }, "bad_call", "branch part"},
		"Finally without a function": {func(ctx C) (any, error) { ctx.Finally(nil); return nil, nil }, "bad_call", "Finally"},
		"Get of nil":                 {func(ctx C) (any, error) { return (*workflow.Future[int])(nil).Get(ctx) }, "bad_call", "Future"},
		"Get of a zero Future":       {func(ctx C) (any, error) { return new(workflow.Future[int]).Get(ctx) }, "bad_call", "Future"},
		"Get of another run's":       {func(ctx C) (any, error) { return kept.Get(ctx) }, "bad_call", "another run"},
		"Ready of nil":               {func(ctx C) (any, error) { return all(ctx, nil) }, "bad_call", "Future"},
		"Ready of another run's":     {func(ctx C) (any, error) { return all(ctx, kept) }, "bad_call", "another run"},
		"Ready of none":              {func(ctx C) (any, error) { return all(ctx) }, "", "[]"},
		"Ready of one twice":         {func(ctx C) (any, error) { a := echo.Go(ctx, "a"); return all(ctx, a, a) }, "", "[0 1]"},
		"negative Sleep":             {func(ctx C) (any, error) { return "slept", workflow.Sleep(ctx, math.MinInt64) }, "", "slept"},
		"Until of the zero time":     {func(ctx C) (any, error) { return "slept", workflow.Until(ctx, time.Time{}) }, "", "slept"},
		"Sleep for ever":             {func(ctx C) (any, error) { return nil, workflow.Sleep(ctx, ever) }, "waits", ""},
		"Until of a far time":        {func(ctx C) (any, error) { return nil, workflow.Until(ctx, time.Unix(1<<40, 0)) }, "waits", ""},
		"Receive for ever":           {func(ctx C) (any, error) { return ticks.Receive(ctx, ever) }, "waits", ""},
		"negative Receive":           {func(ctx C) (any, error) { return ticks.Receive(ctx, -1) }, "", "nothing arrived in time"},
		"Receive of a zero Signal":   {func(ctx C) (any, error) { return workflow.Signal[int]{}.Receive(ctx, 0) }, "", "name of a signal"},
		"WithTimeout for ever": {func(ctx C) (any, error) {
			ctx, cancel := ctx.WithTimeout(ever)
			defer cancel()
			return ticks.Receive(ctx, 0)
		}, "waits", ""},
		"negative WithTimeout": {func(ctx C) (any, error) {
			ctx, cancel := ctx.WithTimeout(math.MinInt64)
			defer cancel()
			return nil, workflow.Sleep(ctx, time.Hour)
		}, "", "timed out"},
		"child without a name":              {func(ctx C) (any, error) { return workflow.DurableWorkflow[int, int]{}.Run(ctx, 1) }, "", "bad name"},
		"child of what has no JSON":         {func(ctx C) (any, error) { return numbers.Run(ctx, math.Inf(1)) }, "", "input of child:text"},
		"start of what has no JSON":         {func(ctx C) (any, error) { return numbers.Start(ctx, math.Inf(1)) }, "", "input of child:text"},
		"ContinueAsNew of what has no JSON": {func(C) (any, error) { return nil, numbers.ContinueAsNew(math.NaN()) }, "", "input of workflow text"},
		"ContinueAsNew of a branch": {func(ctx C) (any, error) { // an error like any other, that the body may return
			return workflow.Go(ctx, "part", func(C) (int, error) { return 0, text.ContinueAsNew("done") }).Get(ctx)
		}, "", "done"},
		"ContinueAsNew of a cleanup": {func(ctx C) (any, error) {
			ctx.Finally(func(C) error { return text.ContinueAsNew("done") })
			return nil, nil
		}, "", "Finally returned ContinueAsNew"},
		"Finally of a cleanup": {func(ctx C) (any, error) {
			ctx.Finally(func(ctx C) error { ctx.Finally(func(C) error { return errors.New("was called") }); return nil })
			return "is not called", nil
		}, "", "is not called"},
		"output without JSON": {func(C) (any, error) { return func() {}, nil }, "", "output of workflow odd"},
	}
	body := func(ctx C, name string) (any, error) { return calls[name].call(ctx) }
	steps := workflow.Options{Steps: []workflow.Declared{echo, odd}}
	textV1 := workflow.Define(text, func(ctx C, name string) (string, error) {
		switch name {
		case "keeps":
			kept, keptCtx = echo.Go(ctx, "kept"), ctx
			return kept.Get(ctx)
		case "done":
			return name, nil
		}
		out, err := body(ctx, name)
		return fmt.Sprint(out), err
	}, steps)
	oddity := workflow.DurableWorkflow[string, any]{Name: "odd"}
	f.start(worker.Config{Workflows: []*workflow.Definition{textV1, workflow.Define(oddity, body, steps)}})
	enqueue := func(name string) workflow.Run[string] {
		w := text
		if strings.HasPrefix(name, "output") {
			w.Name = "odd"
		}
		run, err := w.Enqueue(t.Context(), f.client, name, workflow.EnqueueOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return run
	}
	if _, err := outcome(t, f.client, enqueue("keeps")); err != nil {
		t.Fatal(err)
	}
	runs := make(map[string]workflow.Run[string])
	for name := range calls {
		runs[name] = enqueue(name)
	}
	for _, name := range slices.Sorted(maps.Keys(calls)) {
		test, run := calls[name], runs[name]
		var s workflow.RunStatus
		eventually(t, name+" comes to something", func() bool {
			s = f.state(run.ID)
			return s.State.Ended() || s.State == workflow.StateParked || s.State == workflow.StateWaiting && test.parked == "waits"
		})
		switch got := fmt.Sprint(s.Err); {
		case test.parked == "waits":
			if left := time.Until(s.Since); s.State != workflow.StateWaiting || left < ever-24*time.Hour {
				t.Errorf("%s: %s until %v", name, s.State, s.Since)
			}
			if err := run.Cancel(t.Context()); err != nil {
				t.Error(err)
			}
		case test.parked != "":
			if s.State != workflow.StateParked || s.Reason != test.parked || !strings.Contains(got, test.want) {
				t.Errorf("%s: %s %s: %s", name, s.State, s.Reason, got)
			}
		default:
			if s.State == workflow.StateCompleted {
				got, _ = outcome(t, f.client, run)
			}
			if s.State == workflow.StateParked || !strings.Contains(got, test.want) {
				t.Errorf("%s: %s: %s", name, s.State, got)
			}
		}
	}
	if out, err := outcome(t, f.client, enqueue("done")); err != nil || out != "done" {
		t.Errorf("the worker's next run: %q, %v", out, err)
	}
}

// Times that are as long as can be are for ever, and no hindrance.
func TestLongestTimes(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	o := workflow.StepOptions{Timeout: ever, HeartbeatTimeout: ever, Deadline: ever, Retry: workflow.Retry{MaxAttempts: math.MaxInt, Backoff: 1, MaxBackoff: ever}}
	beats := func(ctx context.Context, n int) (int, error) {
		if info, _ := workflow.StepInfoFrom(ctx); info.Attempt < 3 {
			return 0, workflow.RetryAfter(errors.New("again"), -1)
		}
		return 2 * n, workflow.Heartbeat(ctx, n)
	}
	long := workflow.NewStep("long", beats, o)
	inTx := workflow.NewTxStep("in_tx", func(ctx context.Context, _ pgx.Tx, n int) (int, error) { return beats(ctx, n) }, o)
	f.start(worker.Config{LeaseTTL: 24 * time.Hour, StartTimeout: ever, DrainTimeout: ever, Retention: worker.Retention{Completed: ever, Failed: ever, Canceled: ever},
		Workflows: []*workflow.Definition{defines(func(ctx workflow.Context, n int) (int, error) {
			n, err := long.Run(ctx, n)
			if err != nil {
				return 0, err
			}
			return inTx.Run(ctx, n)
		}, long, inTx)}})
	run, err := changing.Enqueue(t.Context(), f.client, 1, workflow.EnqueueOptions{Timeout: ever})
	if err != nil {
		t.Fatal(err)
	}
	ends(t, f.client, run, 4)
}
