package worker_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stepward/stepward/internal/db"
	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

var note = workflow.NewSignal[string]("note")

// enqueue adds a run of changing.
func (f *fixture) enqueue(n int) workflow.Run[int] {
	f.t.Helper()
	run, err := changing.Enqueue(f.t.Context(), f.client, n, workflow.EnqueueOptions{Tenant: "acme"})
	if err != nil {
		f.t.Fatal(err)
	}
	return run
}

func (f *fixture) waits(id workflow.RunID) {
	f.t.Helper()
	eventually(f.t, "the run waits", func() bool { return f.state(id).State == workflow.StateWaiting })
}

// ends waits for the result and compares it.
func ends[Out comparable](t *testing.T, c *workflow.Client, run workflow.Run[Out], want Out) {
	t.Helper()
	if out, err := outcome(t, c, run); err != nil || out != want {
		t.Fatalf("got %v, %v; want %v", out, err, want)
	}
}

// A signal is received in the order in which it was sent: before it is awaited,
// while the run is held, and while it waits in Postgres.
func TestSignals(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	w := workflow.DurableWorkflow[int, string]{Name: "notes"}
	def := workflow.Define(w, func(ctx workflow.Context, n int) (string, error) {
		all := ""
		for range n {
			s, err := note.Receive(ctx, 0)
			if err != nil {
				return "", err
			}
			all += s
		}
		return all, nil
	}, workflow.Options{})
	run, err := w.Enqueue(t.Context(), f.client, 5, workflow.EnqueueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	send := func(s string) {
		t.Helper()
		if err := note.Send(t.Context(), f.client, run.ID, s); err != nil {
			t.Fatal(err)
		}
	}
	send("a")
	send("b")
	stop := f.start(worker.Config{Workflows: []*workflow.Definition{def}})
	eventually(t, "it has received two", func() bool { return f.count("SELECT count(*) FROM stepward.signal WHERE received") == 2 })
	send("c") // it is held, for a few seconds
	eventually(t, "it has received three", func() bool { return f.count("SELECT count(*) FROM stepward.signal WHERE received") == 3 })
	f.waits(run.ID)
	stop()
	send("d")
	send("e")
	f.start(worker.Config{Workflows: []*workflow.Definition{def}})
	ends(t, f.client, run, "abcde")
	if err := note.Send(t.Context(), f.client, run.ID, "late"); !finished(err) {
		t.Errorf("to a run that has ended: %v", err)
	}
	if err := note.Send(t.Context(), f.client, 1, "nobody"); !errors.Is(err, workflow.ErrNotFound) {
		t.Errorf("to no run: %v", err)
	}
	if n := f.count("SELECT count(*) FROM stepward.wait"); n != 0 {
		t.Errorf("%d waits are left", n)
	}
}

// However many signals nobody awaits, the one that somebody awaits arrives.
func TestReceiveAmongOthers(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	run := f.enqueue(1)
	f.exec("INSERT INTO stepward.signal (run_id, name, payload) SELECT $1::bigint, 'other', '\"x\"'::bytea FROM generate_series(1, 5000)", run.ID)
	if err := note.Send(t.Context(), f.client, run.ID, "it"); err != nil {
		t.Fatal(err)
	}
	f.start(worker.Config{Workflows: []*workflow.Definition{defines(func(ctx workflow.Context, n int) (int, error) {
		got, err := note.Receive(ctx, 0)
		if err == nil && got != "it" {
			err = fmt.Errorf("got %q", got)
		}
		if err != nil {
			return 0, err
		}
		_, err = workflow.NewSignal[string]("other").Receive(ctx, 0) // which is older
		return n, err
	})}})
	ends(t, f.client, run, 1)
	if n := f.count("SELECT count(*) FROM stepward.signal WHERE NOT received"); n != 4999 {
		t.Errorf("%d signals are left", n)
	}
}

// What looks for signals of one name reads those alone, however many others wait in the
// same run.
func TestSignalsReadByName(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.exec("INSERT INTO stepward.signal (run_id, name, payload) SELECT 7, CASE WHEN n = 10000 THEN 'it' ELSE 'other' END, '1' FROM generate_series(1, 20000) n")
	f.exec("INSERT INTO stepward.wait (run_id, seq, key, signal) VALUES (7, 1, 'signal:none', 'none')")
	f.exec("INSERT INTO stepward.run (id, tenant, workflow, input, version, requirement_id) VALUES (7, '', 'none', '0', '1', 1)")
	f.exec("INSERT INTO stepward.turn (run_id, session, epoch) VALUES (7, 1, 1)")
	f.exec("ANALYZE stepward.signal, stepward.wait")
	q, err := db.New(f.schema)
	if err != nil {
		t.Fatal(err)
	}
	for _, look := range []struct {
		what, sql string
		args      []any
	}{
		{"SignalList", q.SignalList, []any{int64(7), []string{"it", "none"}, []int64{0, 0}, 1000}},
		{"arrived", f.sql("SELECT stepward.arrived(7)"), nil},
		{"TurnList", q.TurnList, []any{int64(1)}},
	} {
		var plans []struct {
			Plan struct {
				Hit  int `json:"Shared Hit Blocks"`
				Read int `json:"Shared Read Blocks"`
			}
		}
		for range 2 { // the first one reads the catalog
			if err := f.pool.QueryRow(t.Context(), "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) "+look.sql, look.args...).Scan(&plans); err != nil {
				t.Fatal(err)
			}
		}
		pages := plans[0].Plan.Hit + plans[0].Plan.Read
		t.Logf("%s reads %d pages", look.what, pages)
		if pages > 20 {
			t.Errorf("%s reads %d pages", look.what, pages)
		}
	}
}

func TestReceiveTimeout(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.start(worker.Config{Workflows: []*workflow.Definition{defines(func(ctx workflow.Context, n int) (int, error) {
		if _, err := note.Receive(ctx, -time.Minute); !errors.Is(err, workflow.ErrTimeout) {
			return 0, fmt.Errorf("got %w", err)
		}
		var bad *workflow.OptionError
		if _, err := workflow.NewSignal[int]("no name").Receive(ctx, 0); !errors.As(err, &bad) {
			return 0, fmt.Errorf("got %w", err)
		}
		if _, err := note.Receive(ctx, time.Millisecond); !errors.Is(err, workflow.ErrTimeout) {
			return 0, fmt.Errorf("got %w", err)
		}
		_, err := note.Receive(ctx, time.Hour)
		if !errors.Is(err, workflow.ErrTimeout) {
			return 0, fmt.Errorf("got %w", err)
		}
		return n, nil
	})}})
	run := f.enqueue(7)
	f.waits(run.ID)
	if s := f.state(run.ID); time.Until(s.Since) < 10*time.Minute {
		t.Errorf("waits until %v", s.Since)
	}
	f.exec("UPDATE stepward.wait SET wake_at = clock_timestamp()")
	f.exec("UPDATE stepward.timer SET wake_at = clock_timestamp()")
	ends(t, f.client, run, 7)
}

func TestSleep(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	stop := f.start(worker.Config{Workflows: []*workflow.Definition{defines(func(ctx workflow.Context, n int) (int, error) {
		began := ctx.Now()
		if err := workflow.Sleep(ctx, time.Millisecond); err != nil {
			return 0, err
		}
		if err := workflow.Sleep(ctx, 100*time.Hour); err != nil {
			return 0, err
		}
		if again := ctx.Now(); !again.After(began) {
			return 0, fmt.Errorf("it was %v, and is %v", began, again)
		}
		return n, workflow.Until(ctx, began)
	})}})
	run := f.enqueue(7)
	f.waits(run.ID)
	stop()
	if s := f.state(run.ID); time.Until(s.Since) < 99*time.Hour {
		t.Errorf("waits until %v", s.Since)
	}
	f.exec("UPDATE stepward.wait SET wake_at = clock_timestamp()")
	f.exec("UPDATE stepward.timer SET wake_at = clock_timestamp()")
	f.start(worker.Config{Workflows: []*workflow.Definition{defines(func(ctx workflow.Context, n int) (int, error) {
		ctx.Now()
		return n, errors.Join(workflow.Sleep(ctx, time.Millisecond), workflow.Sleep(ctx, 100*time.Hour))
	})}})
	ends(t, f.client, run, 7)
}

var fib = workflow.DurableWorkflow[int, int]{Name: "fib"}

// fibV1 calls itself.
var fibV1 = workflow.Define(fib, func(ctx workflow.Context, n int) (int, error) {
	if n < 2 {
		return n, nil
	}
	a, b := fib.Go(ctx, n-1), fib.Go(ctx, n-2)
	x, err := a.Get(ctx)
	if err != nil {
		return 0, err
	}
	y, err := b.Get(ctx)
	return x + y, err
}, workflow.Options{})

func TestChildren(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.start(worker.Config{Workflows: []*workflow.Definition{fibV1}})
	run, err := fib.Enqueue(t.Context(), f.client, 6, workflow.EnqueueOptions{Tenant: "acme"})
	if err != nil {
		t.Fatal(err)
	}
	ends(t, f.client, run, 8)
	if n := f.count("SELECT count(*) FROM stepward.run WHERE tenant = 'acme' AND state = 'completed'"); n != 25 {
		t.Errorf("%d runs", n)
	}
	for _, table := range []string{"wait", "notice", "timer", "ready", "turn"} {
		eventually(t, "nothing is left in "+table, func() bool { return f.count("SELECT count(*) FROM stepward."+table) == 0 })
	}
}

// The error of a child is that of the call; canceling a run cancels its
// children, and its cleanups still run.
func TestChildEnds(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	child := workflow.DurableWorkflow[int, int]{Name: "child"}
	began := make(chan int, 1)
	wait := workflow.NewStep("wait", func(ctx context.Context, n int) (int, error) {
		if n == 0 {
			return 0, workflow.Permanent(errors.New("no good"))
		}
		began <- n
		<-ctx.Done()
		return 0, context.Cause(ctx)
	}, workflow.StepOptions{})
	childV1 := workflow.Define(child, func(ctx workflow.Context, n int) (int, error) { return wait.Run(ctx, n) }, workflow.Options{Steps: []workflow.Declared{wait}})
	parent := defines(func(ctx workflow.Context, n int) (int, error) {
		ctx.Finally(func(ctx workflow.Context) error { _, err := double.Run(ctx, 21); return err })
		return child.Run(ctx, n)
	}, double)
	f.start(worker.Config{Workflows: []*workflow.Definition{parent, childV1}})

	run := f.enqueue(0)
	_, err := outcome(t, f.client, run)
	var failed *workflow.RecordedError
	if !errors.As(err, &failed) || failed.Step != "child:child" {
		t.Errorf("got %v", err)
	}
	run = f.enqueue(1)
	arrives(t, began)
	if err := run.Cancel(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := outcome(t, f.client, run); !errors.Is(err, workflow.ErrCanceled) {
		t.Errorf("got %v", err)
	}
	steps, err := f.client.Steps(t.Context(), run.ID, 0)
	if err != nil || len(steps) != 1 || steps[0].Step != "double" || string(steps[0].Output) != "42" {
		t.Errorf("cleanup: %+v, %v", steps, err)
	}
	eventually(t, "the child is canceled", func() bool {
		return f.count("SELECT count(*) FROM stepward.run WHERE workflow = 'child' AND state = 'canceled'") == 1
	})
}

// Cancelation wakes a run that waits, and reaches what it waits for.
func TestCancelWaiting(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.start(worker.Config{Workflows: []*workflow.Definition{defines(func(ctx workflow.Context, n int) (int, error) {
		ctx.Finally(func(ctx workflow.Context) error { _, err := double.Run(ctx, 1); return err })
		_, err := note.Receive(ctx, 0)
		if _, err := double.Run(ctx, 5); !errors.Is(err, workflow.ErrCanceled) {
			return 0, fmt.Errorf("a call after the cancelation: %w", err)
		}
		return n, err
	}, double)}})
	run := f.enqueue(0)
	f.waits(run.ID)
	if err := run.Cancel(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := outcome(t, f.client, run); !errors.Is(err, workflow.ErrCanceled) {
		t.Errorf("got %v", err)
	}
	if n := f.count("SELECT count(*) FROM stepward.step WHERE key = 'double#2'"); n != 1 {
		t.Errorf("the cleanup was executed %d times", n)
	}
}

// Branches take turns; what they do is the same on a replay.
func TestBranches(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	item := workflow.NewStep("item", func(_ context.Context, n int) (int, error) { return n, nil }, workflow.StepOptions{})
	seen := make(chan []int, 2)
	body := func(ctx workflow.Context, n int) (int, error) {
		var order []int
		fs := make([]*workflow.Future[int], 20)
		for i := range fs {
			fs[i] = workflow.Go(ctx, "branch", func(ctx workflow.Context) (int, error) {
				a, err := item.Run(ctx, i)
				if err != nil {
					return 0, err
				}
				order = append(order, a)
				b, err := item.Run(ctx, 100+a)
				order = append(order, b)
				return b, err
			})
		}
		for i, f := range workflow.Ready(ctx, fs...) {
			v, err := f.Get(ctx)
			if err != nil || v != 100+i {
				return 0, fmt.Errorf("branch %d: %d, %w", i, v, err)
			}
			order = append(order, -i)
		}
		outs, err := workflow.MapFunc(ctx, "square", []int{1, 2, 3}, func(ctx workflow.Context, n int) (int, error) {
			v, err := item.Run(ctx, n)
			return v * v, err
		}, workflow.MapOptions{})
		if err != nil || !slices.Equal(outs, []int{1, 4, 9}) {
			return 0, fmt.Errorf("%v, %w", outs, err)
		}
		order = append(order, ctx.Random().IntN(1000000))
		seen <- order
		return gate.Run(ctx, n)
	}
	stop := f.start(worker.Config{Workflows: []*workflow.Definition{defines(body, item)}})
	run := f.enqueue(42)
	f.parksAs(run.ID, "undeclared_step")
	stop()
	f.start(worker.Config{Workflows: []*workflow.Definition{defines(body, item, gate)}})
	ends(t, f.client, run, 42)
	if a, b := arrives(t, seen), arrives(t, seen); !slices.Equal(a, b) || len(a) != 61 {
		t.Errorf("at first %v\nreplayed %v", a, b)
	}
}

// A Context with a timeout ends what waits in it, and nothing else.
func TestWithTimeout(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	hang := workflow.NewStep("hang", func(ctx context.Context, _ int) (int, error) { <-ctx.Done(); return 0, ctx.Err() }, workflow.StepOptions{})
	body := func(ctx workflow.Context, n int) (int, error) {
		short, cancel := ctx.WithTimeout(10 * time.Millisecond)
		defer cancel()
		if _, err := hang.Run(short, 1); !errors.Is(err, workflow.ErrTimeout) {
			return 0, fmt.Errorf("got %w", err)
		}
		if _, err := double.Run(short, 1); !errors.Is(err, workflow.ErrTimeout) {
			return 0, fmt.Errorf("after the timeout: %w", err)
		}
		inner, stop := ctx.WithCancel()
		f := hang.Go(inner, 2)
		stop()
		if _, err := f.Get(ctx); !errors.Is(err, workflow.ErrCanceled) {
			return 0, fmt.Errorf("got %w", err)
		}
		long, done := ctx.WithTimeout(time.Hour)
		n, err := double.Run(long, n)
		done()
		if err != nil {
			return 0, err
		}
		return gate.Run(ctx, n)
	}
	stop := f.start(worker.Config{Workflows: []*workflow.Definition{defines(body, hang, double)}})
	run := f.enqueue(21)
	f.parksAs(run.ID, "undeclared_step")
	stop()
	f.start(worker.Config{Workflows: []*workflow.Definition{defines(body, hang, double, gate)}})
	ends(t, f.client, run, 42)
	if n := f.count("SELECT count(*) FROM stepward.wait"); n != 0 {
		t.Errorf("%d waits are left", n)
	}
}

func TestContinueAsNew(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.start(worker.Config{Workflows: []*workflow.Definition{defines(func(ctx workflow.Context, n int) (int, error) {
		m, err := keep.Run(ctx, n)
		if err != nil || m == 10 {
			return m, err
		}
		return 0, changing.ContinueAsNew(m + 1)
	}, keep)}})
	run := f.enqueue(0)
	ends(t, f.client, run, 10)
	if n := f.count("SELECT count(*) FROM stepward.step"); n != 1 {
		t.Errorf("%d steps are on record", n)
	}
}

// A child of a version that is gone does not outlive the run's new beginning.
func TestContinueAsNewCancels(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	absent := workflow.DurableWorkflow[int, int]{Name: "absent"}
	stop := f.start(worker.Config{Workflows: []*workflow.Definition{defines(absent.Run)}})
	run := f.enqueue(0)
	f.waits(run.ID)
	stop()
	f.start(worker.Config{Workflows: []*workflow.Definition{defines(func(_ workflow.Context, n int) (int, error) {
		if n == 0 {
			return 0, changing.ContinueAsNew(1)
		}
		return n, nil
	})}})
	f.exec("UPDATE stepward.timer SET wake_at = clock_timestamp()")
	ends(t, f.client, run, 1)
	eventually(t, "the child is canceled", func() bool {
		return f.count("SELECT count(*) FROM stepward.run WHERE workflow = 'absent' AND (cancel OR state = 'canceled')") == 1
	})
}

// Runs that passed a place before a patch take the old way, the others the new
// one.
func TestPatched(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	old := f.replayed()
	body := func(ctx workflow.Context, n int) (int, error) {
		if ctx.Patched("twice") {
			return passes(double, double, gate)(ctx, n)
		}
		return passes(double, keep, gate)(ctx, n)
	}
	f.start(worker.Config{Workflows: []*workflow.Definition{defines(body, double, keep, gate)}})
	ends(t, f.client, old, 42)
	ends(t, f.client, f.enqueue(10), 40)
}

// A run whose body has returned does not wait for signals and times that nobody
// asks for any more, neither at once nor on a replay.
func TestLosersAreGivenUp(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	body := func(ctx workflow.Context, n int) (int, error) {
		ctx.Finally(func(ctx workflow.Context) error {
			_, err := passes(keep, gate)(ctx, n)
			return err
		})
		ctx.WithTimeout(time.Hour)
		loser := workflow.NewSignal[string]("loser").Go(ctx, 0)
		workflow.Go(ctx, "late", func(ctx workflow.Context) (int, error) {
			note.Go(ctx, time.Hour)
			ctx.WithTimeout(2 * time.Hour)
			return double.Run(ctx, n)
		})
		for i, f := range workflow.Ready(ctx, loser, note.Go(ctx, 0)) {
			_, err := f.Get(ctx)
			return i, err
		}
		return 0, errors.New("nothing was ready")
	}
	stop := f.start(worker.Config{Workflows: []*workflow.Definition{defines(body, double, keep)}})
	run := f.enqueue(7)
	f.waits(run.ID)
	if err := note.Send(t.Context(), f.client, run.ID, "it"); err != nil {
		t.Fatal(err)
	}
	f.parksAs(run.ID, "undeclared_step") // in its cleanup
	stop()
	if n := f.count("SELECT count(*) FROM stepward.wait"); n != 0 {
		t.Errorf("%d waits are left", n)
	}
	good := defines(body, double, keep, gate)
	f.start(worker.Config{Workflows: []*workflow.Definition{good}})
	ends(t, f.client, run, 1)
	if err := f.client.Replay(t.Context(), run.ID, good); err != nil {
		t.Errorf("replay: %v", err)
	}
}

// The time of a Context goes on for what still runs in it after the body.
func TestTimeoutOutlivesBody(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	got := make(chan error, 2)
	f.start(worker.Config{Workflows: []*workflow.Definition{defines(func(ctx workflow.Context, n int) (int, error) {
		within, _ := ctx.WithTimeout(time.Hour)
		workflow.Go(within, "asks", func(ctx workflow.Context) (string, error) {
			s, err := note.Receive(ctx, 0)
			if err != nil {
				got <- err
			}
			return s, err
		})
		return n, nil
	})}})
	run := f.enqueue(7)
	f.waits(run.ID)
	f.exec("UPDATE stepward.wait SET wake_at = clock_timestamp() WHERE wake_at IS NOT NULL")
	f.exec("UPDATE stepward.timer SET wake_at = clock_timestamp()")
	ends(t, f.client, run, 7)
	if err := arrives(t, got); !errors.Is(err, workflow.ErrTimeout) {
		t.Errorf("the branch got %v", err)
	}
}
