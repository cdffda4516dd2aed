package workflowtest_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/workflow"
	"github.com/stepward/stepward/workflow/workflowtest"
)

var (
	echo = workflow.NewStep("echo", func(_ context.Context, s string) (string, error) { return s, nil }, workflow.StepOptions{})
	slow = workflow.NewStep("slow", func(context.Context, string) (string, error) { return "really", nil },
		workflow.StepOptions{Timeout: time.Hour, Retry: workflow.Retry{MaxAttempts: 3, Backoff: 24 * time.Hour, MaxBackoff: 24 * time.Hour}})
	tool = workflow.NewToolStep("tool", func(context.Context, *sandbox.Sandbox, string) (string, error) { return "", nil },
		workflow.StepOptions{Mode: workflow.Sandboxed})
	txStep = workflow.NewTxStep("tx", func(context.Context, pgx.Tx, string) (string, error) { return "", nil }, workflow.StepOptions{})
	hello  = workflow.NewSignal[string]("hello")
	inner  = workflow.DurableWorkflow[string, string]{Name: "inner"}
)

func body(fn func(workflow.Context, string) (string, error)) *workflow.Definition {
	return workflow.Define(double, fn, workflow.Options{Steps: []workflow.Declared{echo, slow, tool, txStep}})
}

// wants executes a run and compares its output, or its error, with what is wanted.
func wants(t *testing.T, e *workflowtest.Env, want string) {
	t.Helper()
	out, err := workflowtest.Execute(e, double, "in")
	if err != nil {
		out = err.Error()
	}
	if out != want && (err == nil || !strings.Contains(out, want)) {
		t.Errorf("got %q, want %q; on record:\n%s", out, want, e.Record())
	}
}

// A year takes no time, and the clock shows it.
func TestClock(t *testing.T) {
	e := workflowtest.New(t, body(func(ctx workflow.Context, _ string) (string, error) {
		began := ctx.Now()
		for day := range 365 {
			if err := workflow.Until(ctx, began.AddDate(0, 0, day+1)); err != nil {
				return "", err
			}
		}
		limited, cancel := ctx.WithTimeout(30 * time.Minute)
		defer cancel()
		if _, err := slow.Run(limited, ""); !errors.Is(err, workflow.ErrTimeout) {
			return "", fmt.Errorf("within half an hour: %w", err)
		}
		passed := ctx.Now().Sub(began)
		if _, err := slow.Run(ctx, ""); !errors.Is(err, workflow.ErrTimeout) {
			return "", fmt.Errorf("within an hour: %w", err)
		}
		return passed.String(), nil
	}))
	workflowtest.Fake(e, slow, func(ctx context.Context, _ string) (string, error) { return "", e.Sleep(ctx, 2*time.Hour) })
	wants(t, e, (365*24*time.Hour + 30*time.Minute).String())
	// An hour, three times, with jittered days between.
	if first := time.Date(2000, 12, 31, 3, 30, 0, 0, time.UTC); !e.Now().After(first) || e.Now().After(first.Add(96*time.Hour)) {
		t.Errorf("it is %v", e.Now())
	}
	steps := e.Steps()
	if last := steps[len(steps)-1]; last.Step != "slow#2" || last.Attempt != 3 || last.Elapsed != time.Hour || !last.Recorded {
		t.Errorf("got %+v", last)
	}
}

func TestFakes(t *testing.T) {
	e := workflowtest.New(t, body(func(ctx workflow.Context, s string) (string, error) {
		for _, step := range []*workflow.Step[string, string]{echo, tool, txStep} {
			var err error
			if s, err = step.Run(ctx, s); err != nil {
				return "", err
			}
		}
		return inner.Run(ctx, s)
	}))
	add := func(what string) func(context.Context, string) (string, error) {
		return func(_ context.Context, s string) (string, error) { return s + " " + what, nil }
	}
	workflowtest.Fake(e, echo, add("echo"))
	workflowtest.Fake(e, tool, add("tool"))
	workflowtest.Fake(e, txStep, add("tx"))
	workflowtest.FakeRun(e, inner, func(s string) (string, error) { return s + " inner", nil })
	wants(t, e, "in echo tool tx inner")
	if got, want := e.Record(), "echo = \"in echo\"\ntool = \"in echo tool\"\ntx = \"in echo tool tx\"\nchild:inner = \"in echo tool tx inner\"\n"; got != want {
		t.Errorf("got\n%s", got)
	}
	workflowtest.FakeRun(e, inner, func(string) (string, error) { return "", errors.New("no inner") })
	wants(t, e, "no inner")
}

// A worker is lost before a step, while it executes, and after its result is on
// record: it executes again only if that is not.
func TestCrash(t *testing.T) {
	for name, want := range map[string]int{"before": 1, "in": 2, "after": 1} {
		e := workflowtest.New(t, body(func(ctx workflow.Context, s string) (string, error) {
			if _, err := echo.Run(ctx, "first"); err != nil {
				return "", err
			}
			return echo.Run(ctx, s)
		}))
		executed := 0
		workflowtest.Fake(e, echo, func(ctx context.Context, s string) (string, error) {
			if info, _ := workflow.StepInfoFrom(ctx); info.Step == "echo#2" {
				if executed++; name == "in" && executed == 1 {
					e.Crash()
				}
			}
			return s, nil
		})
		switch name {
		case "before":
			e.Before("echo#2", e.Crash)
		case "after":
			e.After("echo#2", e.Crash)
		}
		wants(t, e, "in")
		if executed != want {
			t.Errorf("%s: executed %d times, want %d", name, executed, want)
		}
	}
}

func TestSignalsAndCancelation(t *testing.T) {
	d := body(func(ctx workflow.Context, s string) (string, error) {
		ctx.Finally(func(ctx workflow.Context) error { _, err := echo.Run(ctx, "clean"); return err })
		a, err := hello.Receive(ctx, 0)
		if err != nil {
			return "", err
		}
		if _, err := hello.Receive(ctx, time.Hour); !errors.Is(err, workflow.ErrTimeout) {
			return "", fmt.Errorf("got %w", err)
		}
		b, err := hello.Receive(ctx, 0)
		return a + b, err
	})
	send := func(e *workflowtest.Env, s string) func() {
		return func() {
			if err := workflowtest.Send(e, hello, s); err != nil {
				t.Error(err)
			}
		}
	}
	e := workflowtest.New(t, d)
	send(e, "a")()
	e.Before("signal:hello#3", send(e, "b"))
	e.After("signal:hello#2", e.Crash)
	wants(t, e, "ab")

	e = workflowtest.New(t, d)
	send(e, "a")()
	e.Before("signal:hello#3", e.Cancel)
	wants(t, e, "run canceled")
	if !strings.HasSuffix(e.Record(), "echo = \"clean\"\n") {
		t.Errorf("on record:\n%s", e.Record())
	}

	e = workflowtest.New(t, d)
	_, err := workflowtest.Execute(e, double, "in")
	if !errors.Is(err, workflowtest.ErrStuck) || !strings.Contains(err.Error(), "signal:hello") {
		t.Errorf("got %v", err)
	}
}

// Children are executed, on the same clock, and a history is what production
// replays.
func TestChildrenAndHistory(t *testing.T) {
	child := workflow.Define(inner, func(ctx workflow.Context, s string) (string, error) {
		if s == "late" {
			return s, workflow.Sleep(ctx, 3*time.Hour)
		}
		out, err := echo.Run(ctx, s)
		return out, errors.Join(err, workflow.Sleep(ctx, time.Hour))
	}, workflow.Options{Steps: []workflow.Declared{echo}})
	fn := func(ctx workflow.Context, s string) (string, error) {
		limited, cancel := ctx.WithTimeout(2 * time.Hour)
		defer cancel()
		late := inner.Go(limited, "late")
		s, err := inner.Run(ctx, s)
		if err != nil {
			return "", err
		}
		if _, err := late.Get(limited); !errors.Is(err, workflow.ErrTimeout) {
			return "", fmt.Errorf("got %w", err)
		}
		return echo.Run(ctx, s)
	}
	e := workflowtest.New(t, body(fn), child)
	e.After("echo", e.Crash) // that of the child
	wants(t, e, "in")
	history, err := e.History()
	if err != nil {
		t.Fatal(err)
	}
	if err := workflowtest.Replay(body(fn), history); err != nil {
		t.Errorf("%v\n%s", err, history)
	}
	err = workflowtest.Replay(body(inner.Run), history)
	if wrong := (*workflow.NonDeterminismError)(nil); !errors.As(err, &wrong) {
		t.Errorf("got %v", err)
	}
}

// recorder is a test that notes that it fails.
type recorder struct {
	testing.TB
	cleanup func()
	failed  string
}

func (r *recorder) Helper()          {}
func (r *recorder) Cleanup(f func()) { r.cleanup = f }
func (r *recorder) Errorf(format string, args ...any) {
	r.failed = fmt.Sprintf(format, args...)
}

// A body that leaves a goroutine behind fails its test.
func TestLeak(t *testing.T) {
	for _, leaks := range []bool{true, false} {
		hold := make(chan struct{})
		r := &recorder{}
		e := workflowtest.New(r, body(func(_ workflow.Context, s string) (string, error) {
			if leaks {
				go func() { <-hold }()
			}
			return s, nil
		}))
		wants(t, e, "in")
		r.cleanup()
		close(hold)
		if leaks != strings.Contains(r.failed, "TestLeak") {
			t.Errorf("leaks %v: %q", leaks, r.failed)
		}
	}
}

// A body that is not deterministic shows, as its waits make it leave.
func TestReplays(t *testing.T) {
	calls := 0
	e := workflowtest.New(t, body(func(ctx workflow.Context, s string) (string, error) {
		calls++
		if _, err := echo.Run(ctx, fmt.Sprint(calls)); err != nil {
			return "", err
		}
		return s, workflow.Sleep(ctx, time.Hour)
	}))
	wants(t, e, "another input")
}

// A body may return while calls of it are not over, with an error or without.
func TestReturnsBesides(t *testing.T) {
	calls := map[string]func(workflow.Context){
		"step":   func(ctx workflow.Context) { echo.Go(ctx, "") },
		"signal": func(ctx workflow.Context) { hello.Go(ctx, time.Hour) },
		"child":  func(ctx workflow.Context) { inner.Go(ctx, "") },
		"branch": func(ctx workflow.Context) {
			workflow.Go(ctx, "branch", func(ctx workflow.Context) (string, error) { return "", workflow.Sleep(ctx, time.Hour) })
		},
	}
	for name, call := range calls {
		for _, want := range []string{"done", "failed"} {
			t.Run(name+"/"+want, func(t *testing.T) {
				e := workflowtest.New(t, body(func(ctx workflow.Context, _ string) (string, error) {
					call(ctx)
					if want == "failed" {
						return "", errors.New(want)
					}
					return want, nil
				}))
				workflowtest.FakeRun(e, inner, func(s string) (string, error) { return s, nil })
				wants(t, e, want)
			})
		}
	}
}

// A run that was started is not waited for, and started once.
func TestStartAndCrash(t *testing.T) {
	fn := func(ctx workflow.Context, s string) (string, error) {
		id, err := inner.Start(ctx, s)
		return fmt.Sprint(id), err
	}
	e := workflowtest.New(t, body(fn))
	var started int
	workflowtest.FakeRun(e, inner, func(string) (string, error) {
		started++
		e.Crash()
		return "inner", nil
	})
	wants(t, e, workflow.RunID(2).String())
	if started != 1 {
		t.Errorf("%d runs were started", started)
	}
}

func TestContinueAsNewIsAnother(t *testing.T) {
	seen := make(map[string]int)
	charge := workflow.NewStep("charge", func(ctx context.Context, s string) (string, error) {
		info, _ := workflow.StepInfoFrom(ctx)
		seen[info.IdempotencyKey]++
		return s, nil
	}, workflow.StepOptions{})
	def := workflow.Define(double, func(ctx workflow.Context, s string) (string, error) {
		seen[fmt.Sprint(ctx.Random().Uint64())]++
		if _, err := charge.Run(ctx, s); err != nil || s == "xxx" {
			return s, err
		}
		return "", double.ContinueAsNew(s + "x")
	}, workflow.Options{Steps: []workflow.Declared{charge}})
	e := workflowtest.New(t, def)
	if _, err := workflowtest.Execute(e, double, "x"); err != nil || len(seen) != 6 {
		t.Errorf("%v, %v", seen, err)
	}
	history, err := e.History()
	if err != nil {
		t.Fatal(err)
	}
	if err := workflowtest.Replay(def, history); err != nil {
		t.Error(err)
	}
}

// A run begins anew when what it has started is over, and as what it is.
func TestContinueAsNewWaits(t *testing.T) {
	var steps, kids atomic.Int64 // those of one run execute at the same time
	count := workflow.NewStep("count", func(_ context.Context, s string) (string, error) { steps.Add(1); return s, nil }, workflow.StepOptions{})
	other := workflow.DurableWorkflow[string, string]{Name: "other"}
	e := workflowtest.New(t, workflow.Define(double, func(ctx workflow.Context, s string) (string, error) {
		switch s {
		case "once":
			count.Go(ctx, s)
			inner.Go(ctx, s)
			workflow.Go(ctx, "branch", func(ctx workflow.Context) (string, error) { return count.Run(ctx, s) })
			return "", double.ContinueAsNew("again")
		case "other":
			return "", other.ContinueAsNew("again")
		}
		return s, nil
	}, workflow.Options{Steps: []workflow.Declared{count}}))
	workflowtest.FakeRun(e, inner, func(s string) (string, error) { kids.Add(1); return s, nil })
	if out, err := workflowtest.Execute(e, double, "once"); err != nil || out != "again" || steps.Load() != 2 || kids.Load() != 1 {
		t.Errorf("%q, %v: %d steps, %d children", out, err, steps.Load(), kids.Load())
	}
	_, err := workflowtest.Execute(e, double, "other")
	var failed *workflow.RecordedError
	if !errors.As(err, &failed) || failed.Type != "*workflow.DefinitionError" {
		t.Errorf("got %v", err)
	}
}

// Children nest as deep as on a worker.
func TestDepth(t *testing.T) {
	e := workflowtest.New(t, body(double.Run))
	_, err := workflowtest.Execute(e, double, "in")
	if failed, ok := errors.AsType[*workflow.RecordedError](err); !ok || failed.Kind != "depth" || !strings.Contains(failed.Message, "double cannot start double") {
		t.Errorf("got %v", err)
	}
}

// A child may have a deadline, and a run that nobody waits for a key.
func TestChildOptions(t *testing.T) {
	sleeper := workflow.Define(inner, func(ctx workflow.Context, s string) (string, error) {
		return s, workflow.Sleep(ctx, time.Minute)
	}, workflow.Options{})
	e := workflowtest.New(t, sleeper, body(func(ctx workflow.Context, s string) (string, error) {
		late := inner.With(workflow.EnqueueOptions{Timeout: time.Second})
		if _, err := late.Run(ctx, s); !errors.Is(err, workflow.ErrTimeout) {
			return "", fmt.Errorf("late: %w", err)
		}
		early := inner.With(workflow.EnqueueOptions{Timeout: time.Hour})
		if _, err := early.Run(ctx, s); err != nil {
			return "", err
		}
		keyed := inner.With(workflow.EnqueueOptions{Key: "k"})
		a, err := keyed.Start(ctx, s)
		b, err2 := keyed.Start(ctx, s)
		_, err3 := keyed.Start(ctx, s+s)
		if failed, ok := errors.AsType[*workflow.RecordedError](err3); a != b || !ok || failed.Kind != "conflict" {
			return "", fmt.Errorf("started %v and %v: %w", a, b, errors.Join(err, err2, err3))
		}
		return s, nil
	}))
	began := e.Now()
	wants(t, e, "in")
	if passed := e.Now().Sub(began); passed != time.Minute+time.Second {
		t.Errorf("it took %v", passed)
	}
}
