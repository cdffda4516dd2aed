package worker_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

var (
	lines = workflow.Stream[string]{Name: "lines"}
	pages = workflow.Progress[int]{Name: "pages"}
)

// values reads a stream to what is its end now.
func (f *fixture) values(id workflow.RunID) (values []string) {
	f.t.Helper()
	entries, _, err := lines.Read(f.t.Context(), f.client, id, 0, 0)
	if err != nil {
		f.t.Fatal(err)
	}
	for _, e := range entries {
		values = append(values, e.Value)
	}
	return values
}

func (f *fixture) progress(id workflow.RunID) int {
	f.t.Helper()
	v, _, err := pages.Get(f.t.Context(), f.client, id)
	if err != nil {
		f.t.Fatal(err)
	}
	return v
}

// What a body shows is there before it goes on, once, whatever is replayed; and
// the progress that a step has set meanwhile is not taken back.
func TestShownOnce(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	began, release := make(chan bool, 1), make(chan bool)
	held := workflow.NewStep("held", func(ctx context.Context, n int) (int, error) {
		began <- true
		<-release
		return n, errors.Join(pages.SetInStep(ctx, 70), lines.AppendInStep(ctx, "from the step"))
	}, workflow.StepOptions{})
	def := defines(func(ctx workflow.Context, n int) (int, error) {
		if err := errors.Join(lines.Append(ctx, "begin"), pages.Set(ctx, 1), ctx.SetAttribute("phase", "held")); err != nil {
			return 0, err
		}
		if _, err := held.Run(ctx, 0); err != nil {
			return 0, err
		}
		for i := range 2 {
			if err := lines.Append(ctx, fmt.Sprint("note ", i)); err != nil {
				return 0, err
			}
			if _, err := note.Receive(ctx, 0); err != nil {
				return 0, err
			}
		}
		outs, err := workflow.MapFunc(ctx, "branch", []int{0, 1, 2}, func(ctx workflow.Context, i int) (int, error) {
			if err := lines.Append(ctx, fmt.Sprint("branch ", i)); err != nil {
				return 0, err
			}
			v, err := double.Run(ctx, i)
			return v, errors.Join(err, lines.Append(ctx, "done"))
		}, workflow.MapOptions{Limit: 1})
		if err != nil {
			return 0, err
		}
		return outs[2], errors.Join(lines.Append(ctx, "end"), ctx.SetAttribute("phase", "over"))
	}, held, double)
	stop := f.start(worker.Config{Workflows: []*workflow.Definition{def}})
	run := f.enqueue(1)
	arrives(t, began)
	if got := f.values(run.ID); !slices.Equal(got, []string{"begin"}) || f.progress(run.ID) != 1 || f.state(run.ID).Attributes["phase"] != "held" {
		t.Fatalf("while the step executes: %q, %d, %v", got, f.progress(run.ID), f.state(run.ID).Attributes)
	}
	close(release)
	f.waits(run.ID)
	want := []string{"begin", "from the step", "note 0"}
	if got := f.values(run.ID); !slices.Equal(got, want) || f.progress(run.ID) != 70 {
		t.Fatalf("before the first note: %q, %d", got, f.progress(run.ID))
	}
	stop() // from here on, all is replayed
	for range 2 {
		stop := f.start(worker.Config{Workflows: []*workflow.Definition{def}})
		if err := note.Send(t.Context(), f.client, run.ID, "go on"); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the note is received", func() bool {
			return f.count("SELECT count(*) FROM stepward.signal WHERE NOT received") == 0
		})
		stop()
	}
	f.start(worker.Config{Workflows: []*workflow.Definition{def}})
	ends(t, f.client, run, 4)
	want = append(want, "note 1", "branch 0", "done", "branch 1", "done", "branch 2", "done", "end")
	if got := f.values(run.ID); !slices.Equal(got, want) || f.progress(run.ID) != 70 || f.state(run.ID).Attributes["phase"] != "over" {
		t.Errorf("at the end: %q, %d, %v", got, f.progress(run.ID), f.state(run.ID).Attributes)
	}
}

// A run that shows nothing has no row for it.
func TestShownCostsNothing(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.start(worker.Config{Workflows: []*workflow.Definition{defines(passes(keep), keep)}})
	ends(t, f.client, f.enqueue(1), 1)
	for _, table := range []string{"shown", "progress", "entry", "attribute"} {
		if n := f.count("SELECT count(*) FROM stepward." + table); n != 0 {
			t.Errorf("%d rows in %s", n, table)
		}
	}
}

// What a step appends is there at once, and stays when the attempt fails; its
// progress is there at last when the attempt ends, however it does.
func TestShownByAttempts(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	var late context.Context
	tries := workflow.NewStep("tries", func(ctx context.Context, n int) (int, error) {
		info, _ := workflow.StepInfoFrom(ctx)
		if err := lines.AppendInStep(ctx, "try"); err != nil {
			return 0, err
		}
		if got := len(f.values(info.Run)); got != info.Attempt {
			return 0, workflow.Permanent(fmt.Errorf("%d entries are durable in attempt %d", got, info.Attempt))
		}
		if info.Attempt == 2 && f.progress(info.Run) != 10 {
			return 0, workflow.Permanent(errors.New("the progress of the first attempt is lost"))
		}
		for i := range 10 * info.Attempt {
			if err := pages.SetInStep(ctx, i+1); err != nil {
				return 0, err
			}
		}
		if late = ctx; info.Attempt < 2 {
			return 0, errors.New("not yet")
		}
		return n, nil
	}, workflow.StepOptions{Retry: workflow.Retry{Backoff: time.Millisecond}})
	f.start(worker.Config{Workflows: []*workflow.Definition{defines(func(ctx workflow.Context, n int) (int, error) { return tries.Run(ctx, n) }, tries)}})
	run := f.enqueue(7)
	ends(t, f.client, run, 7)
	if v := f.progress(run.ID); v != 20 {
		t.Errorf("progress is %d", v)
	}
	entries, end, err := lines.Read(t.Context(), f.client, run.ID, 0, 0)
	if err != nil || !end || len(entries) != 2 || entries[0].Step != "tries" || entries[0].Attempt != 1 || entries[1].Attempt != 2 {
		t.Errorf("got %+v, %v, %v", entries, end, err)
	}
	if err := errors.Join(lines.AppendInStep(late, "late")); err == nil {
		t.Error("an attempt that has ended appends")
	}
	if err := pages.SetInStep(late, 99); err == nil {
		t.Error("an attempt that has ended sets progress")
	}
}

// A worker that has lost the run shows nothing more.
func TestShownIsFenced(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	began, release := make(chan bool, 2), make(chan bool)
	refused := make(chan error, 2)
	step := workflow.NewStep("step", func(ctx context.Context, n int) (int, error) {
		began <- true
		<-release
		err := lines.AppendInStep(ctx, "late")
		refused <- err
		return n, err
	}, workflow.StepOptions{})
	def := defines(func(ctx workflow.Context, n int) (int, error) { return step.Run(ctx, n) }, step)
	stop := f.start(worker.Config{Workflows: []*workflow.Definition{def}})
	run := f.enqueue(1)
	arrives(t, began)
	f.exec("UPDATE stepward.run SET epoch = epoch + 1") // as a reaper does
	close(release)
	if err := arrives(t, refused); !errors.Is(err, workflow.ErrLeaseLost) {
		t.Errorf("got %v", err)
	}
	stop()
	if got := f.values(run.ID); len(got) != 0 {
		t.Errorf("got %q", got)
	}
}

// Clients tail a run at once, from where they like, over turns and to its end.
func TestTail(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	const n = 2500 // more than a page
	f.start(worker.Config{Workflows: []*workflow.Definition{defines(func(ctx workflow.Context, _ int) (int, error) {
		for i := range n {
			if i%500 == 499 {
				if _, err := note.Receive(ctx, 0); err != nil {
					return 0, err
				}
			}
			if err := lines.Append(ctx, fmt.Sprint(i)); err != nil {
				return 0, err
			}
		}
		return n, nil
	})}})
	run := f.enqueue(1)
	const tails = 20
	type tailed struct {
		values []string
		err    error
	}
	results, half := make(chan tailed, tails), make(chan bool, tails)
	for i := range tails {
		go func() {
			var all tailed
			after := int64(0)
			for rounds := 0; rounds < 1+i%2; rounds++ { // every other one begins again in the middle
				for e, err := range lines.Tail(t.Context(), f.client, run.ID, after) {
					if err != nil {
						all.err = err
						break
					}
					all.values, after = append(all.values, e.Value), e.Offset
					if len(all.values) == n/5-1 {
						half <- true
						if i%2 == 1 {
							break
						}
					}
				}
			}
			results <- all
		}()
	}
	for range tails { // all have read what there is
		arrives(t, half)
	}
	if n := f.count("SELECT count(*) FROM pg_stat_activity WHERE query = $1", `LISTEN "`+f.schema+`_watch"`); n > 1 {
		t.Errorf("%d connections listen", n)
	}
	for range 5 {
		if err := note.Send(t.Context(), f.client, run.ID, "on"); err != nil {
			t.Fatal(err)
		}
	}
	for range tails {
		r := arrives(t, results)
		if r.err != nil || len(r.values) != n {
			t.Fatalf("%d values, %v", len(r.values), r.err)
		}
		for i, v := range r.values {
			if v != fmt.Sprint(i) {
				t.Fatalf("value %d is %s", i, v)
			}
		}
	}
	eventually(t, "nobody listens any more", func() bool {
		return f.count("SELECT count(*) FROM pg_stat_activity WHERE query = $1", `LISTEN "`+f.schema+`_watch"`) == 0
	})
}

// Only a run that somebody watches tells: the others take no part in the one
// queue of notifications that a database has.
func TestWatchedRunTells(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	conn, err := f.pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	defer conn.Exec(context.Background(), "UNLISTEN *")
	if _, err := conn.Exec(t.Context(), `LISTEN "`+f.schema+`_watch"`); err != nil {
		t.Fatal(err)
	}
	f.start(worker.Config{Workflows: []*workflow.Definition{defines(func(ctx workflow.Context, n int) (int, error) {
		for {
			if err := lines.Append(ctx, "ready"); err != nil || n == 0 {
				return n, err
			}
			if s, err := note.Receive(ctx, 0); err != nil || s == "end" {
				return n, err
			}
		}
	})}})
	ends(t, f.client, f.enqueue(0), 0)
	watched := f.enqueue(1)
	told := make(chan string, 1)
	go func() {
		n, err := conn.Conn().WaitForNotification(t.Context())
		if err != nil {
			told <- err.Error()
			return
		}
		told <- n.Payload
	}()
	payload := ""
	for _, err := range lines.Tail(t.Context(), f.client, watched.ID, 0) {
		if err != nil {
			t.Fatal(err)
		}
		word := "again" // until the worker has heard of the watch
		select {
		case payload = <-told:
			word = "end"
		default:
		}
		if payload != "" && word != "end" {
			continue
		}
		if err := note.Send(t.Context(), f.client, watched.ID, word); err != nil {
			t.Fatal(err)
		}
	}
	ends(t, f.client, watched, 1)
	if payload != fmt.Sprint(int64(watched.ID)) {
		t.Errorf("told %q", payload)
	}
}

// Each bad input is refused where it is passed, and nothing of it is stored.
func TestShownBadInput(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	long := strings.Repeat("x", 70<<10)
	bad := func(ctx workflow.Context) error {
		var option *workflow.OptionError
		var value *workflow.ValueError
		for what, ok := range map[string]bool{
			"name with NUL": errors.As(workflow.Stream[int]{Name: "a\x00"}.Append(ctx, 1), &option),
			"long name":     errors.As(workflow.Progress[int]{Name: long}.Set(ctx, 1), &option),
			"long value":    errors.As(lines.Append(ctx, long), &value) && value.Limit == 64<<10,
			"NaN":           errors.As(workflow.Progress[float64]{Name: "nan"}.Set(ctx, math.NaN()), &value) && value.Kind == "encode",
			"attribute":     errors.As(ctx.SetAttribute("x", []int{1}), &option) && strings.Contains(option.Error(), "[]int"),
			"no name":       errors.As(ctx.SetAttribute("", 1), &option),
		} {
			if !ok {
				return errors.New(what)
			}
		}
		for i := range 16 {
			if err := ctx.SetAttribute(fmt.Sprint("a", i), i); err != nil {
				return err
			}
		}
		if err := ctx.SetAttribute("a3", 33); err != nil {
			return err
		}
		if err := ctx.SetAttribute("one-too-many", 1); !errors.As(err, &option) {
			return fmt.Errorf("17 attributes: %w", err)
		}
		return nil
	}
	f.start(worker.Config{Workflows: []*workflow.Definition{defines(func(ctx workflow.Context, n int) (int, error) { return n, bad(ctx) })}})
	run := f.enqueue(3)
	ends(t, f.client, run, 3)
	if n := f.count("SELECT count(*) FROM stepward.entry") + f.count("SELECT count(*) FROM stepward.progress"); n != 0 {
		t.Errorf("%d rows", n)
	}
	if a := f.state(run.ID).Attributes; len(a) != 16 || a["a3"] != int64(33) {
		t.Errorf("attributes: %v", a)
	}
	if err := lines.AppendInStep(t.Context(), "x"); err == nil {
		t.Error("appended outside of a step")
	}
	for _, err := range lines.Tail(t.Context(), f.client, 1, 0) {
		if !errors.Is(err, workflow.ErrNotFound) {
			t.Errorf("tail of no run: %v", err)
		}
	}
	if _, err := f.client.Progress(t.Context(), 1); !errors.Is(err, workflow.ErrNotFound) {
		t.Errorf("progress of no run: %v", err)
	}
	var option *workflow.OptionError
	if _, _, err := (workflow.Stream[int]{Name: "\x00"}).Read(t.Context(), f.client, run.ID, 0, 0); !errors.As(err, &option) {
		t.Errorf("got %v", err)
	}
	// Another type than that which was written is an error of its entry; the stream goes on after it.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, err := range lines.Tail(ctx, f.client, run.ID, 0) {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	}
}
