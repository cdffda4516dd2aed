package worker_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

type (
	bodyOf  = func(workflow.Context, int) (int, error)
	intStep = *workflow.Step[int, int]
)

var (
	keep = workflow.NewStep("keep", keepIt, workflow.StepOptions{})
	gate = workflow.NewStep("gate", keepIt, workflow.StepOptions{})

	changing = workflow.DurableWorkflow[int, int]{Name: "changing"}
)

func keepIt(_ context.Context, n int) (int, error) { return n, nil }

// passes returns a body that passes a number through steps.
func passes(steps ...intStep) bodyOf {
	return func(ctx workflow.Context, n int) (_ int, err error) {
		for _, s := range steps {
			if n, err = s.Run(ctx, n); err != nil {
				return 0, err
			}
		}
		return n, nil
	}
}

func defines(body bodyOf, steps ...workflow.Declared) *workflow.Definition {
	return workflow.Define(changing, body, workflow.Options{Steps: steps})
}

// replayed starts a run whose body records double and keep and parks at gate,
// which its definition forgot, and returns it with no worker running.
func (f *fixture) replayed() workflow.Run[int] { return f.replayedBy(worker.Config{}) }

func (f *fixture) replayedBy(cfg worker.Config) workflow.Run[int] {
	f.t.Helper()
	run, err := changing.Enqueue(f.t.Context(), f.client, 21, workflow.EnqueueOptions{})
	if err != nil {
		f.t.Fatal(err)
	}
	cfg.Workflows = []*workflow.Definition{defines(passes(double, keep, gate), double, keep)}
	stop := f.start(cfg)
	f.parksAs(run.ID, "undeclared_step")
	stop()
	return run
}

// A body that does other than what is recorded parks the run, and changes
// nothing; with the old code back, the run goes on from where it was. So it is when
// inputs are sealed, and results read one at a time.
func TestNonDeterminismParks(t *testing.T) {
	input := func(ctx workflow.Context, n int) (int, error) { return passes(double, keep, gate)(ctx, n+1) }
	instant := func(ctx workflow.Context, n int) (int, error) { // many, so that some would be written before the mismatch is found
		first := double.Go(ctx, n+1)
		keep.Go(ctx, 2*n)
		for range 1_100 {
			ctx.Now()
		}
		return first.Get(ctx)
	}
	shows := func(ctx workflow.Context, n int) (int, error) {
		n, err := double.Run(ctx, n)
		for range 18 { // more than is kept for a commit
			err = errors.Join(err, notes.Append(ctx, strings.Repeat("x", 60<<10)))
		}
		if err = errors.Join(err, reached.Set(ctx, "far"), ctx.SetAttribute("page", n)); err != nil {
			return 0, err
		}
		return passes(double, gate)(ctx, n)
	}
	for name, test := range map[string]struct {
		body   bodyOf
		want   string
		sealed bool
	}{
		"order":          {passes(keep, double, gate), "step 1 was recorded as double, and the body calls keep", false},
		"inserts":        {passes(double, double, keep, gate), "step 2 was recorded as keep, and the body calls double#2", false},
		"input":          {input, "step 1, double, was recorded with another input", false},
		"missing":        {passes(double), "returned without calling step 2, keep", false},
		"shows":          {shows, "step 2 was recorded as keep, and the body calls double#2", false},
		"sealed instant": {instant, "step 1, double, was recorded with another input", true},
		"sealed inserts": {passes(double, double, keep, gate), "step 2 was recorded as keep, and the body calls double#2", true},
		"sealed input":   {input, "step 1, double, was recorded with another input", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			var cfg worker.Config
			if test.sealed {
				cfg = worker.Config{Codec: newRing(t, "k")}.WithHistory(1)
				f.encodes(cfg.Codec)
			}
			run := f.replayedBy(cfg)
			before := f.onRecord()
			cfg.Workflows = []*workflow.Definition{defines(test.body, double, keep, gate)}
			stop := f.start(cfg)
			if s := f.parksAs(run.ID, "nondeterminism"); !strings.Contains(s.Err.Message, test.want) {
				t.Errorf("got %q", s.Err.Message)
			}
			stop()
			if after := f.onRecord(); after != before {
				t.Errorf("on record was\n%s\nis\n%s", before, after)
			}
			cfg.Workflows = []*workflow.Definition{defines(passes(double, keep, gate), double, keep, gate)}
			f.start(cfg)
			if out, err := outcome(t, f.client, changing.Handle(f.client, run.ID)); err != nil || out != 42 {
				t.Errorf("with the old code back: %d, %v", out, err)
			}
		})
	}
}

// Nor may a call that has its result at once stand where an earlier turn began
// something that has none yet.
func TestInstantInPlaceOfUnfinishedParks(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	hang := workflow.NewStep("hang", func(ctx context.Context, n int) (int, error) {
		<-ctx.Done()
		return 0, context.Cause(ctx)
	}, workflow.StepOptions{})
	rest := passes(double, gate)
	stop := f.start(worker.Config{Workflows: []*workflow.Definition{defines(func(ctx workflow.Context, n int) (int, error) {
		hang.Go(ctx, n)
		return rest(ctx, n)
	}, hang, double)}})
	run := f.enqueue(21)
	f.parksAs(run.ID, "undeclared_step")
	stop()
	f.start(worker.Config{Workflows: []*workflow.Definition{defines(func(ctx workflow.Context, n int) (int, error) {
		ctx.Now()
		return rest(ctx, n)
	}, double, gate)}})
	if s := f.parksAs(run.ID, "nondeterminism"); !strings.Contains(s.Err.Message, "step 1 has no result on record, those of later steps are, and the body calls now") {
		t.Errorf("got %q", s.Err.Message)
	}
}

// What a body that does not fit puts in the place of a child, or one that fails as
// it is replayed or right after, does not cancel the child: with the old code back,
// the run has its result.
func TestMisfitKeepsChild(t *testing.T) {
	timed := func(steps ...intStep) bodyOf {
		return func(ctx workflow.Context, n int) (int, error) {
			_, cancel := ctx.WithTimeout(time.Hour)
			defer cancel()
			if _, err := passes(steps...)(ctx, n); err != nil {
				return 0, err
			}
			panic("no")
		}
	}
	for name, test := range map[string]struct {
		body   bodyOf
		reason string
	}{
		"other place": {func(ctx workflow.Context, n int) (int, error) {
			if err := workflow.Sleep(ctx, time.Hour); err != nil {
				return 0, err
			}
			return passes(double, keep)(ctx, n)
		}, "nondeterminism"},
		"panics in the replay": {timed(double), "panic"},
		"panics after it":      {timed(double, keep), "panic"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			run, kid, old := f.parent()
			before := f.onRecord()
			stop := f.start(worker.Config{Workflows: []*workflow.Definition{defines(test.body, double, keep)}})
			f.parksAs(run.ID, test.reason)
			stop()
			if after := f.onRecord(); after != before {
				t.Errorf("on record was\n%s\nis\n%s", before, after)
			}
			f.start(old)
			if err := note.Send(t.Context(), f.client, kid, "x"); err != nil {
				t.Fatal(err)
			}
			ends(t, f.client, run, 42+21)
		})
	}
}

// A body that fits what is on record, and does not start the child any more that
// nothing came of yet, cancels it.
func TestFitWithoutChildCancels(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	run, kid, old := f.parent()
	old.Workflows[0] = defines(func(ctx workflow.Context, n int) (int, error) {
		_, cancel := ctx.WithTimeout(2 * time.Hour)
		defer cancel()
		if _, err := passes(double, keep)(ctx, n); err != nil {
			return 0, err
		}
		return 0, workflow.Sleep(ctx, time.Hour)
	}, double, keep)
	f.start(old)
	eventually(t, "the child is canceled", func() bool { return f.state(kid).State == workflow.StateCanceled })
	f.waits(run.ID)
}

// parent starts a run with a child that waits for a note, and two results on record.
// No worker runs, and the next one, which may have another body, takes it up at once.
func (f *fixture) parent() (run workflow.Run[int], kid workflow.RunID, cfg worker.Config) {
	f.t.Helper()
	child := workflow.DurableWorkflow[int, int]{Name: "kid"}
	cfg.Workflows = []*workflow.Definition{
		defines(func(ctx workflow.Context, n int) (int, error) {
			k := child.Go(ctx, n)
			n, err := passes(double, keep)(ctx, n)
			if err != nil {
				return 0, err
			}
			if _, err = note.Receive(ctx, 0); err != nil {
				return 0, err
			}
			more, err := k.Get(ctx)
			return n + more, err
		}, double, keep),
		workflow.Define(child, func(ctx workflow.Context, n int) (int, error) {
			_, err := note.Receive(ctx, 0)
			return n, err
		}, workflow.Options{}),
	}
	stop := f.start(cfg)
	run = f.enqueue(21)
	f.waits(run.ID)
	if err := f.pool.QueryRow(f.t.Context(), f.sql("SELECT child_id FROM stepward.wait WHERE child_id > 0")).Scan(&kid); err != nil {
		f.t.Fatal(err)
	}
	f.waits(kid)
	stop()
	if err := note.Send(f.t.Context(), f.client, run.ID, "wakes it"); err != nil {
		f.t.Fatal(err)
	}
	return run, kid, cfg
}

// onRecord returns the rows of all that a turn may write beside its end, those of
// steps first.
func (f *fixture) onRecord() (text string) {
	f.t.Helper()
	for _, table := range []string{"step", "wait", "notice", "shown", "entry", "progress", "attribute"} {
		var rows string
		if err := f.pool.QueryRow(f.t.Context(), f.sql("SELECT coalesce(string_agg(left(x::text, 500), E'\n' ORDER BY x), '') FROM stepward."+table+" x")).Scan(&rows); err != nil {
			f.t.Fatal(err)
		}
		text += rows + "\n-- of " + table + "\n"
	}
	return text
}

// Bytes that do not fit the Go types park the run until a deploy makes them fit.
func TestUndecodableParks(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for name, damage := range map[string]string{
		"input":  `UPDATE stepward.run SET input = '"no number"' WHERE id = $1`,
		"output": `UPDATE stepward.step SET output = '{' WHERE run_id = $1 AND seq = 2`,
	} {
		run := f.replayed()
		f.exec(damage, run.ID)
		good := defines(passes(double, keep, gate), double, keep, gate)
		stop := f.start(worker.Config{Workflows: []*workflow.Definition{good}})
		if s := f.parksAs(run.ID, "undecodable"); !strings.Contains(s.Err.Message, name+" of ") {
			t.Errorf("got %q", s.Err.Message)
		}
		stop()
		f.exec("UPDATE stepward.run SET input = '21' WHERE id = $1", run.ID)
		f.exec("UPDATE stepward.step SET output = '42' WHERE run_id = $1 AND seq = 2", run.ID)
		stop = f.start(worker.Config{Workflows: []*workflow.Definition{good}})
		if out, err := outcome(t, f.client, run); err != nil || out != 42 {
			t.Errorf("mended: %d, %v", out, err)
		}
		stop()
	}
}

// What a body must not do parks the run, with the reason.
func TestBodyMisuseParks(t *testing.T) {
	for name, test := range map[string]struct {
		body         bodyOf
		reason, want string
	}{
		"goroutine": {func(ctx workflow.Context, n int) (int, error) {
			done := make(chan struct{})
			go func() { defer close(done); _, _ = double.Run(ctx, n) }()
			<-done
			return double.Run(ctx, n)
		}, "goroutine", "another goroutine"},
		"captured": {func(outer workflow.Context, n int) (int, error) {
			return workflow.Go(outer, "branch", func(workflow.Context) (int, error) { return double.Run(outer, n) }).Get(outer)
		}, "goroutine", "uses the Context that it is passed"},
		"cancel": {func(ctx workflow.Context, n int) (int, error) {
			_, cancel := ctx.WithCancel()
			done := make(chan struct{})
			go func() { defer close(done); cancel() }()
			<-done
			return n, nil
		}, "goroutine", "another goroutine"},
		"goexit": {func(workflow.Context, int) (int, error) { runtime.Goexit(); return 0, nil }, "goexit", "runtime.Goexit"},
		"panic":  {func(workflow.Context, int) (int, error) { panic(errors.New("boom")) }, "panic", "boom"},
		"text":   {func(workflow.Context, int) (int, error) { return 0, (*textless)(nil) }, "panic", "nil pointer"},
		"cleanup's text": {func(ctx workflow.Context, n int) (int, error) {
			ctx.Finally(func(workflow.Context) error { return (*textless)(nil) })
			return n, nil
		}, "panic", "nil pointer"},
		// A recover in the body does not stop what must leave.
		"recovers": {func(ctx workflow.Context, n int) (out int, err error) {
			defer func() {
				if p := recover(); p != nil {
					out, err = n, nil
				}
			}()
			return gate.Run(ctx, n)
		}, "undeclared_step", "gate"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			run, err := changing.Enqueue(t.Context(), f.client, 1, workflow.EnqueueOptions{})
			if err != nil {
				t.Fatal(err)
			}
			f.start(worker.Config{Workflows: []*workflow.Definition{defines(test.body, double)}})
			if s := f.parksAs(run.ID, test.reason); !strings.Contains(s.Err.Message, test.want) {
				t.Errorf("got %q", s.Err.Message)
			}
			if n := f.count("SELECT count(*) FROM stepward.step"); n != 0 {
				t.Errorf("%d steps are on record", n)
			}
		})
	}
}

// textless is an error whose nil pointer has no text, as of a function that declares
// its error as one of its own type.
type textless struct{ text string }

func (e *textless) Error() string { return e.text }

// Whichever branch has the baton may cancel what another one began.
func TestBranchCancels(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	run := f.enqueue(7)
	f.start(worker.Config{Workflows: []*workflow.Definition{defines(func(ctx workflow.Context, n int) (int, error) {
		in, cancel := ctx.WithCancel()
		timed, stop := ctx.WithTimeout(time.Hour)
		long := func(ctx workflow.Context) (int, error) { return n, workflow.Sleep(ctx, time.Hour) }
		a, b := workflow.Go(in, "a", long), workflow.Go(timed, "b", long)
		workflow.Go(ctx, "other", func(workflow.Context) (int, error) { cancel(); stop(); return 0, nil })
		for _, f := range []*workflow.Future[int]{a, b} {
			if _, err := f.Get(ctx); !errors.Is(err, workflow.ErrCanceled) {
				return 0, fmt.Errorf("got %w; want canceled", err)
			}
		}
		return n, nil
	})}})
	ends(t, f.client, run, 7)
}

// A step that panics or ends its goroutine has failed, and the stack is kept; and
// so has one whose error panics when it is asked for its text.
func TestStepMisuseFails(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	once := workflow.StepOptions{Retry: workflow.Retry{MaxAttempts: 1}}
	panics := workflow.NewStep("panics", func(context.Context, int) (int, error) { panic("boom") }, once)
	exits := workflow.NewStep("exits", func(context.Context, int) (int, error) { runtime.Goexit(); return 0, nil }, once)
	texts := workflow.NewStep("texts", func(context.Context, int) (int, error) { return 0, (*textless)(nil) }, once)
	inTx := workflow.NewTxStep("in_tx", func(context.Context, pgx.Tx, int) (int, error) { return 0, (*textless)(nil) }, once)
	steps := []*workflow.Step[int, int]{panics, exits, texts, inTx}
	f.start(worker.Config{Workflows: []*workflow.Definition{defines(func(ctx workflow.Context, n int) (int, error) {
		return steps[n].Run(ctx, n)
	}, panics, exits, texts, inTx)}})
	for n, want := range []struct{ kind, message string }{{"panic", "boom"}, {"goexit", "runtime.Goexit"}, {"panic", "nil pointer"}, {"panic", "nil pointer"}} {
		run, err := changing.Enqueue(t.Context(), f.client, n, workflow.EnqueueOptions{})
		if err != nil {
			t.Fatal(err)
		}
		_, err = outcome(t, f.client, run)
		var failed *workflow.RecordedError
		if !errors.As(err, &failed) || failed.Kind != want.kind || !strings.Contains(failed.Message, want.message) {
			t.Errorf("got %v", err)
			continue
		}
		if want.kind == "panic" && !strings.Contains(failed.Stack, "TestStepMisuseFails") && !strings.Contains(failed.Stack, "textless") {
			t.Errorf("no stack: %q", failed.Stack)
		}
	}
}
