//go:build unix

package worker_test

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stepward/stepward/audit"
	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

// tally is a step that counts its executions by input.
type tally struct {
	mu   sync.Mutex
	seen []string
}

func (c *tally) step(name string) *workflow.Step[string, string] {
	return workflow.NewStep(name, func(_ context.Context, s string) (string, error) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.seen = append(c.seen, name+" "+s)
		return s, nil
	}, workflow.StepOptions{})
}

// take returns what was executed since the last call, sorted.
func (c *tally) take() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	slices.Sort(c.seen)
	all := strings.Join(c.seen, ", ")
	c.seen = nil
	return all
}

var story = workflow.DurableWorkflow[string, string]{Name: "story"}

// tell enqueues a run of story and waits for its end.
func (f *fixture) tell(in string) workflow.RunID {
	f.t.Helper()
	run, err := story.Enqueue(f.t.Context(), f.client, in, workflow.EnqueueOptions{Tenant: "acme"})
	if err != nil {
		f.t.Fatal(err)
	}
	if _, err := outcome(f.t, f.client, run); err != nil {
		f.t.Fatal(err)
	}
	return run.ID
}

// forks forks a run, waits for the fork's end, and returns its output.
func (f *fixture) forks(id workflow.RunID, o workflow.ForkOptions) (workflow.RunID, string) {
	f.t.Helper()
	fork, err := f.client.Fork(f.t.Context(), id, o)
	if err != nil {
		f.t.Fatal(err)
	}
	out, err := outcome(f.t, f.client, story.Handle(f.client, fork))
	if err != nil {
		f.t.Fatalf("forked from %q: %v, %+v", o.From, err, f.state(fork))
	}
	return fork, out
}

// A fork executes what comes at its place and later, and takes the rest over:
// results, chance, times.
func TestFork(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	var count tally
	a, b, c := count.step("a"), count.step("b"), count.step("c")
	body := func(ctx workflow.Context, s string) (string, error) {
		began := ctx.Now()
		for i, step := range []*workflow.Step[string, string]{a, b, b, c} {
			if _, err := step.Run(ctx, fmt.Sprintf("%s%d %d", s, i, ctx.Random().IntN(1e9))); err != nil {
				return "", err
			}
		}
		return fmt.Sprint(began, ctx.Random().Uint64()), nil
	}
	define := func(version string, body func(workflow.Context, string) (string, error)) *workflow.Definition {
		return workflow.Define(story, body, workflow.Options{Version: version, Steps: []workflow.Declared{a, b, c}})
	}
	stop := f.start(worker.Config{Workflows: []*workflow.Definition{define("1", body)}})
	id := f.tell("x")
	want, err := outcome(t, f.client, story.Handle(f.client, id))
	if err != nil {
		t.Fatal(err)
	}
	all := strings.Split(count.take(), ", ")
	before := f.onRecord()

	fork, out := f.forks(id, workflow.ForkOptions{From: "b#2"})
	if got := count.take(); out != want || got != strings.Join(all[2:], ", ") {
		t.Errorf("the fork: %q, and executed %q; want %q, %q", out, got, want, all[2:])
	}
	again, out := f.forks(fork, workflow.ForkOptions{From: "c"})
	if got := count.take(); out != want || got != all[3] {
		t.Errorf("the fork of the fork: %q, and executed %q", out, got)
	}
	_, out = f.forks(id, workflow.ForkOptions{})
	if got := count.take(); out == want || out[strings.LastIndex(out, " "):] != want[strings.LastIndex(want, " "):] || got != strings.Join(all, ", ") {
		t.Errorf("from the beginning: %q, and executed %q", out, got)
	}
	if first, _, _ := strings.Cut(before, "\n"); !strings.Contains(f.onRecord(), first) {
		t.Errorf("the run itself was\n%s\nis\n%s", before, f.onRecord())
	}
	if n := f.count("SELECT count(*) FROM stepward.run WHERE tenant = 'acme'"); n != 4 {
		t.Errorf("%d runs of the tenant", n)
	}

	// Both have it on record, and what was copied is named so.
	for run, want := range map[workflow.RunID]int{id: 2, fork: 2, again: 1} {
		events, err := audit.Events(t.Context(), f.pool, audit.Filter{Schema: f.schema, Run: run, Kinds: []string{"run.forked"}})
		if err != nil || len(events) != want {
			t.Errorf("%v: %v, %v", run, events, err)
		}
	}
	if events, err := audit.Events(t.Context(), f.pool, audit.Filter{Schema: f.schema, Run: fork, Kinds: []string{"step.copied"}}); err != nil || len(events) != 3 {
		t.Errorf("copied: %v, %v", events, err)
	}

	// What cannot be forked.
	_, err = f.client.Fork(t.Context(), id, workflow.ForkOptions{From: "b#3"})
	if no := (*workflow.OptionError)(nil); !errors.As(err, &no) || no.Option != "ForkOptions.From" || no.Reason != id.String()+` has no call "b#3" on record; the nearest are "b#2", "b", "a"` {
		t.Errorf("got %v", err)
	}
	for field, o := range map[string]workflow.ForkOptions{"Version": {Version: "9"}, "From": {From: "a\x00"}} {
		_, err = f.client.Fork(t.Context(), id, o)
		if bad := (*workflow.OptionError)(nil); !errors.As(err, &bad) || bad.Option != "ForkOptions."+field {
			t.Errorf("got %v", err)
		}
	}
	if _, err = f.client.Fork(t.Context(), 1, workflow.ForkOptions{}); !errors.Is(err, workflow.ErrNotFound) {
		t.Errorf("got %v", err)
	}
	if n := f.count("SELECT count(*) FROM stepward.run"); n != 4 {
		t.Errorf("%d runs, after forks that failed", n)
	}

	// With other code from there on.
	stop()
	f.start(worker.Config{Workflows: []*workflow.Definition{define("1", body), define("2", func(ctx workflow.Context, s string) (string, error) {
		ctx.Now()
		r := ctx.Random()
		out, err := a.Run(ctx, fmt.Sprintf("%s0 %d", s, r.IntN(1e9)))
		if err != nil {
			return "", err
		}
		return c.Run(ctx, out[:2]+" is mended")
	})}})
	eventually(t, "version 2 is defined", func() bool {
		return f.count("SELECT count(*) FROM stepward.definition WHERE version = '2'") == 1
	})
	if fork, out = f.forks(id, workflow.ForkOptions{From: "b", Version: "2"}); out != "x0 is mended" || count.take() != "c x0 is mended" {
		t.Errorf("with version 2: %q", out)
	}
	if s := f.state(fork); s.Version != "2" {
		t.Errorf("pinned to %q", s.Version)
	}
}

// A run that is parked, or fails, is forked as well as one that has completed.
func TestForkStuck(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	run := f.replayed() // double and keep are on record, and it is parked at gate
	fork, err := f.client.Fork(t.Context(), run.ID, workflow.ForkOptions{From: "keep"})
	if err != nil {
		t.Fatal(err)
	}
	canceled, err := f.client.Fork(t.Context(), run.ID, workflow.ForkOptions{From: "keep"})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.client.Cancel(t.Context(), canceled); err != nil {
		t.Fatal(err)
	}
	cleaned := make(chan workflow.RunID, 3)
	f.start(worker.Config{Workflows: []*workflow.Definition{defines(func(ctx workflow.Context, n int) (int, error) {
		ctx.Finally(func(ctx workflow.Context) error { cleaned <- ctx.Info().Run; return nil })
		return passes(double, keep, gate)(ctx, n)
	}, double, keep, gate)}})
	ends(t, f.client, changing.Handle(f.client, fork), 42)
	ends(t, f.client, run, 42)
	// A fork has something to clean up from the beginning.
	if _, err := outcome(t, f.client, changing.Handle(f.client, canceled)); !errors.Is(err, workflow.ErrCanceled) {
		t.Errorf("got %v", err)
	}
	if all := []workflow.RunID{arrives(t, cleaned), arrives(t, cleaned), arrives(t, cleaned)}; !slices.Contains(all, canceled) {
		t.Errorf("cleaned up: %v", all)
	}
}

// What was received by a copied call is received; a fork waits for the rest, or
// is given it. Children of copied calls are not started again.
func TestForkSignalsAndChildren(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	var count tally
	a := count.step("a")
	body := func(ctx workflow.Context, s string) (string, error) {
		for i := range 4 {
			word, err := note.Receive(ctx, 0)
			if err != nil {
				return "", err
			}
			if s += word; i == 1 {
				if _, err := kin.Run(ctx, "first"); err != nil {
					return "", err
				}
			}
			if _, err := a.Run(ctx, s); err != nil {
				return "", err
			}
		}
		_, err := kin.Run(ctx, "second")
		return s, err
	}
	f.start(worker.Config{Workflows: []*workflow.Definition{kinV1, workflow.Define(story, body, workflow.Options{Steps: []workflow.Declared{a}})}})
	run, err := story.Enqueue(t.Context(), f.client, "", workflow.EnqueueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	send := func(id workflow.RunID, words ...string) {
		t.Helper()
		for _, w := range words {
			if err := note.Send(t.Context(), f.client, id, w); err != nil {
				t.Fatal(err)
			}
		}
	}
	send(run.ID, "1", "2", "3", "4", "5")
	ends(t, f.client, run, "1234")
	kins := func() int { return f.count("SELECT count(*) FROM stepward.run WHERE workflow = 'kin'") }
	if n := kins(); n != 2 {
		t.Fatalf("%d children", n)
	}
	count.take()

	fork, err := f.client.Fork(t.Context(), run.ID, workflow.ForkOptions{From: "a#3"})
	if err != nil {
		t.Fatal(err)
	}
	send(fork, "z")
	ends(t, f.client, story.Handle(f.client, fork), "123z")
	if n, seen := kins(), count.take(); n != 3 || seen != "a 123, a 123z" {
		t.Errorf("%d children, executed %s", n, seen)
	}
	fork, out := f.forks(run.ID, workflow.ForkOptions{From: "signal:note#3", Signals: true})
	if n := kins(); n != 4 || out != "1234" {
		t.Errorf("%d children, %q", n, out)
	}
	// The fork of a fork has what that has.
	if _, out = f.forks(fork, workflow.ForkOptions{From: "signal:note", Signals: true}); out != "1234" {
		t.Errorf("got %q", out)
	}
	if n := f.count("SELECT count(*) FROM stepward.signal WHERE NOT received"); n != 3 {
		t.Errorf("%d signals are left over; want one of each run that was given all", n)
	}
}

// A fork of a canceled run is not canceled, unless it is forked in its cleanup;
// nor does a time limit that has passed end the call that is repeated.
func TestForkAfterTheEnd(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	var count tally
	a, b, c := count.step("a"), count.step("b"), count.step("c")
	var mended sync.Map
	slow := workflow.NewStep("slow", func(ctx context.Context, s string) (string, error) {
		if _, ok := mended.Load("slow"); ok {
			return s, nil
		}
		if info, _ := workflow.StepInfoFrom(ctx); info.Attempt == 1 {
			return "", errors.New("an attempt on record")
		}
		<-ctx.Done()
		return "", ctx.Err()
	}, workflow.StepOptions{Retry: workflow.Retry{Backoff: time.Millisecond}})
	body := func(ctx workflow.Context, s string) (string, error) {
		ctx.Finally(func(ctx workflow.Context) error {
			_, err := b.Run(ctx, s)
			if err == nil {
				_, err = c.Run(ctx, s)
			}
			return err
		})
		if _, err := a.Run(ctx, s); err != nil {
			return "", err
		}
		if s == "limit" {
			limited, cancel := ctx.WithTimeout(100 * time.Millisecond)
			defer cancel()
			if _, err := slow.Run(limited, s); errors.Is(err, workflow.ErrTimeout) {
				return "too slow", nil
			}
			return s, nil
		}
		return note.Receive(ctx, 0)
	}
	f.start(worker.Config{Workflows: []*workflow.Definition{workflow.Define(story, body, workflow.Options{Steps: []workflow.Declared{a, b, c, slow}})}})
	run, err := story.Enqueue(t.Context(), f.client, "x", workflow.EnqueueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "it receives", func() bool { return f.count("SELECT count(*) FROM stepward.wait") == 1 })
	if err := run.Cancel(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := outcome(t, f.client, run); !errors.Is(err, workflow.ErrCanceled) {
		t.Fatal(err)
	}
	count.take()

	fork, err := f.client.Fork(t.Context(), run.ID, workflow.ForkOptions{From: "c"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := outcome(t, f.client, story.Handle(f.client, fork)); !errors.Is(err, workflow.ErrCanceled) || count.take() != "c x" {
		t.Errorf("from its cleanup: %v", err)
	}
	if fork, err = f.client.Fork(t.Context(), run.ID, workflow.ForkOptions{From: "a"}); err != nil {
		t.Fatal(err)
	}
	if err := note.Send(t.Context(), f.client, fork, "word"); err != nil {
		t.Fatal(err)
	}
	ends(t, f.client, story.Handle(f.client, fork), "word")
	if s := count.take(); s != "a x, b x, c x" {
		t.Errorf("from its beginning: %s", s)
	}

	id := f.tell("limit")
	mended.Store("slow", true)
	if _, out := f.forks(id, workflow.ForkOptions{From: "slow"}); out != "limit" {
		t.Errorf("got %q", out)
	}
}

// What was called before the place is kept though it was ready after what was
// called later: also when the body asks for the time in between.
func TestForkBranches(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	var count tally
	a := count.step("a")
	var mu sync.Mutex
	gates := map[string]chan struct{}{}
	open := func(s string) chan struct{} {
		mu.Lock()
		defer mu.Unlock()
		if gates[s] == nil {
			gates[s] = make(chan struct{})
		}
		return gates[s]
	}
	gated := workflow.NewStep("gated", func(_ context.Context, s string) (string, error) { <-open(s); return s, nil }, workflow.StepOptions{})
	body := func(ctx workflow.Context, s string) (string, error) {
		var fs []*workflow.Future[string]
		for _, name := range []string{"p", "q", "r"} {
			fs = append(fs, workflow.Go(ctx, name, func(ctx workflow.Context) (string, error) {
				if _, err := gated.Run(ctx, name); err != nil {
					return "", err
				}
				ctx.Now()
				return a.Run(ctx, name)
			}))
		}
		for _, f := range fs {
			if _, err := f.Get(ctx); err != nil {
				return "", err
			}
		}
		return s, nil
	}
	f.start(worker.Config{Workflows: []*workflow.Definition{workflow.Define(story, body, workflow.Options{Steps: []workflow.Declared{a, gated}})}})
	run, err := story.Enqueue(t.Context(), f.client, "x", workflow.EnqueueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"r", "p", "q"} { // ready in another order than called
		close(open(name))
		eventually(t, name+" is on record", func() bool { return f.count("SELECT count(*) FROM stepward.step WHERE key = $1", name+"/a") == 1 })
	}
	ends(t, f.client, run, "x")
	count.take()
	// q's Now is new, and comes while the result of p, r, or both is to be handed over.
	for from, want := range map[string]string{"r/gated": "a p, a q, a r", "r/now:": "a p, a q, a r", "r/a": "a p, a q, a r", "p/now:": "a p, a q", "q/a": "a q"} {
		fork, _ := f.forks(run.ID, workflow.ForkOptions{From: from})
		if got := count.take(); got != want {
			t.Errorf("from %s: executed %s, want %s", from, got, want)
		}
		if err := f.client.Replay(t.Context(), fork, workflow.Define(story, body, workflow.Options{Steps: []workflow.Declared{a, gated}})); err != nil {
			t.Errorf("from %s: %v", from, err)
		}
	}
}

// The largest histories are forked, too.
func TestForkLarge(t *testing.T) {
	t.Parallel()
	const n = 100_000
	f := newFixture(t)
	body := func(ctx workflow.Context, n int) (int, error) {
		for range n {
			if _, err := keep.Run(ctx, 7); err != nil {
				return 0, err
			}
		}
		return n, nil
	}
	run := f.enqueue(n)
	f.exec("DELETE FROM stepward.ready")
	f.exec("UPDATE stepward.run SET state = 'completed'")
	f.exec(`INSERT INTO stepward.step (run_id, started_at, input_hash, seq, epoch, done, elapsed, attempt, mode, key, output)
		SELECT $1, now(), $3, n, 1, n, 0, 1, 0::"char", 'keep' || CASE WHEN n > 1 THEN '#' || n ELSE '' END, '7' FROM generate_series(1, $2) n`, run.ID, n, hashOf("7"))
	fork, err := f.client.Fork(t.Context(), run.ID, workflow.ForkOptions{From: fmt.Sprint("keep#", n)})
	if err != nil {
		t.Fatal(err)
	}
	f.start(worker.Config{Workflows: []*workflow.Definition{defines(body, keep)}})
	ends(t, f.client, changing.Handle(f.client, fork), n)
	if got := f.count("SELECT count(*) FROM stepward.step WHERE run_id = $1", fork); got != n {
		t.Errorf("%d steps", got)
	}
	if got := f.count("SELECT count(*) FROM stepward.step WHERE run_id = $1 AND epoch > 0", fork); got != 1 {
		t.Errorf("%d were executed", got)
	}
	if err := f.client.Replay(t.Context(), fork, defines(body, keep)); err != nil {
		t.Error(err)
	}
	_, err = f.client.Fork(t.Context(), run.ID, workflow.ForkOptions{From: "kep#77"})
	if no := (*workflow.OptionError)(nil); !errors.As(err, &no) || !strings.Contains(no.Reason, `the nearest are "keep#77", `) {
		t.Errorf("got %v", err)
	}
}

// hashOf is what a checkpoint keeps of an input.
func hashOf(input string) int64 {
	h := fnv.New64a()
	h.Write([]byte(input)) // never fails
	return int64(h.Sum64())
}

// Large values are there for a fork when the run itself is gone.
func TestForkLargeValues(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	var count tally
	a, b := count.step("a"), count.step("b")
	f.start(worker.Config{Workflows: []*workflow.Definition{workflow.Define(story, func(ctx workflow.Context, s string) (string, error) {
		s, err := a.Run(ctx, s)
		if err != nil {
			return "", err
		}
		return b.Run(ctx, s)
	}, workflow.Options{Steps: []workflow.Declared{a, b}})}})
	large := strings.Repeat("x", 100_000)
	id := f.tell(large)
	fork, out := f.forks(id, workflow.ForkOptions{From: "b"})
	if out != large {
		t.Errorf("%d bytes", len(out))
	}
	if n := f.count("SELECT count(*) FROM stepward.blob b WHERE NOT EXISTS (SELECT FROM stepward.blob_use u WHERE u.key = b.key AND u.run_id = $1)", fork); n != 0 {
		t.Errorf("%d blobs are not of the fork", n)
	}
}

// Whether a time limit had passed before a call is known by the order in which
// the body got to know, whatever the clock did meanwhile.
func TestForkAfterTimeLimit(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.appTables()
	f.start(worker.Config{Workflows: []*workflow.Definition{randomV1, childV1}})
	in := program{App: f.schema, Part: part{Op: "seq", Parts: []part{{Op: "late"}, {Op: "plus", N: 2}, {Op: "plus", N: 3}}}}
	run, err := random.Enqueue(t.Context(), f.client, in, workflow.EnqueueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ends(t, f.client, run, 7)
	f.exec("UPDATE stepward.step SET started_at = started_at + interval '1 hour' WHERE key = 'timeout:'")
	fork, err := f.client.Fork(t.Context(), run.ID, workflow.ForkOptions{From: "plus#2"})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the fork ends, or parks", func() bool {
		s := f.state(fork).State
		return s == workflow.StateCompleted || s == workflow.StateParked
	})
	if s := f.state(fork); s.State != workflow.StateCompleted {
		t.Errorf("%v: %v", s.State, s.Err)
	}
}

// A fork has the limit of the run, whether it has results or begins anew.
func TestForkKeepsLimit(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	hold := newHeld("hold")
	f.start(worker.Config{Workflows: []*workflow.Definition{defines(passes(double, keep, hold.Step), double, keep, hold)}})
	run, err := changing.Enqueue(t.Context(), f.client, 3, workflow.EnqueueOptions{Limit: workflow.Limit{Key: "one", Concurrency: 1, Rate: 2, Per: time.Hour}})
	if err != nil {
		t.Fatal(err)
	}
	arrives(t, hold.began)
	for _, from := range []string{"", "keep"} {
		fork, err := f.client.Fork(t.Context(), run.ID, workflow.ForkOptions{From: from})
		if err != nil {
			t.Fatal(err)
		}
		if s, w := f.state(fork), f.why(fork); s.Limit != "one" || s.Since.IsZero() || w.Cause != "limit" || !strings.Contains(w.String(), "1 of 1 in use") {
			t.Errorf("the fork from %q: %+v, %v", from, s, w)
		}
		if n := f.count("SELECT rate FROM stepward.run_limit WHERE key = 'one' AND concurrency = 1 AND per_s = 3600"); n != 2 {
			t.Errorf("rate %d", n)
		}
		gone, err := f.client.Fork(t.Context(), run.ID, workflow.ForkOptions{From: from})
		if err != nil {
			t.Fatal(err)
		}
		if err := f.client.Terminate(t.Context(), gone); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		hold.release <- struct{}{}
	}
	ends(t, f.client, run, 6)
	eventually(t, "the forks end", func() bool { return f.count("SELECT count(*) FROM stepward.run WHERE state = 'completed'") == 3 })
	f.nothingLeft()
}
