//go:build unix

package worker_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

// mended is a step that fails until it is mended.
type mended struct {
	*workflow.Step[int, int]
	well  atomic.Bool
	mu    sync.Mutex
	calls []string
}

func newMended(name string, o workflow.StepOptions) *mended {
	m := new(mended)
	m.Step = workflow.NewStep(name, func(ctx context.Context, n int) (int, error) {
		info, _ := workflow.StepInfoFrom(ctx)
		m.mu.Lock()
		m.calls = append(m.calls, fmt.Sprintf("%s %d", info.Step, info.Attempt))
		m.mu.Unlock()
		if n%2 == 1 && !m.well.Load() {
			return 0, errors.New("broken")
		}
		return n, nil
	}, o)
	return m
}

func (m *mended) took() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	calls := m.calls
	m.calls = nil
	slices.Sort(calls)
	return calls
}

func fails(t *testing.T, c *workflow.Client, run workflow.Run[int], step string) {
	t.Helper()
	_, err := outcome(t, c, run)
	var failed *workflow.RecordedError
	if !errors.As(err, &failed) || failed.Step != step {
		t.Fatalf("got %v, want a failure of %s", err, step)
	}
}

// A failed run goes on at the steps that failed. What was recorded before, and
// beside them, is not executed again; what came after is forgotten.
func TestRetry(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	item := newMended("item", workflow.StepOptions{Retry: workflow.Retry{MaxAttempts: 2, Backoff: time.Millisecond}})
	undo := newMended("undo", workflow.StepOptions{})
	f.start(worker.Config{Workflows: []*workflow.Definition{defines(func(ctx workflow.Context, n int) (int, error) {
		if _, err := keep.Run(ctx, n); err != nil {
			return 0, err
		}
		outs, err := workflow.Map(ctx, []int{0, 1, 2, 3, 4}, item.Step, workflow.MapOptions{Limit: 5})
		if err != nil {
			_, err2 := undo.Run(ctx, 2)
			return 0, errors.Join(err, err2)
		}
		return double.Run(ctx, sum(outs))
	}, keep, item, undo, double)}})
	run := f.enqueue(7)
	fails(t, f.client, run, "item[1]")
	item.took()
	before := f.kinds(run.ID)
	item.well.Store(true)
	if err := f.client.Retry(t.Context(), run.ID); err != nil {
		t.Fatal(err)
	}
	ends(t, f.client, run, 20)
	if got := item.took(); !slices.Equal(got, []string{"item[1] 3", "item[3] 3"}) {
		t.Errorf("executed %v", got)
	}
	steps, err := f.client.Steps(t.Context(), run.ID, 0)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range steps {
		got = append(got, fmt.Sprintf("%s %d %t", s.Step, s.Attempt, s.Recorded))
	}
	want := []string{"keep 1 true", "item[0] 1 true", "item[1] 1 false", "item[1] 2 false", "item[1] 3 true", "item[2] 1 true",
		"item[3] 1 false", "item[3] 2 false", "item[3] 3 true", "item[4] 1 true", "double 1 true"}
	if !slices.Equal(got, want) {
		t.Errorf("steps are %q", got)
	}
	after := f.kinds(run.ID)
	for _, kind := range before { // nothing that happened has left the record
		i := slices.Index(after, kind)
		if i < 0 {
			t.Errorf("%s is missing in %v", kind, after)
			continue
		}
		after = slices.Delete(after, i, i+1)
	}
	if !containsInOrder(f.kinds(run.ID), "run.failed", "run.retry", "run.claimed", "run.completed") {
		t.Errorf("events: %v", f.kinds(run.ID))
	}
	if err := f.client.Retry(t.Context(), run.ID); !elsewhere(err, workflow.StateFailed) {
		t.Errorf("again: %v", err)
	}
	f.nothingLeft()
}

// A signal that was received by a call which a retry takes off the record is not
// lost; one that was received before stays received.
func TestRetryGivesSignalsBack(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	item := newMended("item", workflow.StepOptions{Retry: workflow.Retry{MaxAttempts: 1}})
	f.start(worker.Config{Workflows: []*workflow.Definition{defines(func(ctx workflow.Context, n int) (int, error) {
		first, err := note.Receive(ctx, 0)
		if err != nil {
			return 0, err
		}
		_, err = item.Run(ctx, n)
		second, err2 := note.Receive(ctx, 0) // either way
		if err = errors.Join(err, err2); err != nil {
			return 0, err
		}
		return len(first + second), nil
	}, item)}})
	run := f.enqueue(7)
	for _, v := range []string{"a", "bcd"} {
		if err := note.Send(t.Context(), f.client, run.ID, v); err != nil {
			t.Fatal(err)
		}
	}
	fails(t, f.client, run, "item")
	item.well.Store(true)
	if err := f.client.Retry(t.Context(), run.ID); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the run ends", func() bool { return f.state(run.ID).State == workflow.StateCompleted })
	ends(t, f.client, run, 4)
}

// Retries add up; attempts are counted anew each time, and never numbered anew.
func TestRetryAgain(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	item := newMended("item", workflow.StepOptions{Retry: workflow.Retry{MaxAttempts: 2, Backoff: time.Millisecond}})
	f.start(worker.Config{Workflows: []*workflow.Definition{defines(passes(keep, item.Step), keep, item)}})
	run := f.enqueue(1)
	for i := range 3 {
		fails(t, f.client, run, "item")
		if got, want := item.took(), []string{fmt.Sprintf("item %d", 2*i+1), fmt.Sprintf("item %d", 2*i+2)}; !slices.Equal(got, want) {
			t.Errorf("executed %v, want %v", got, want)
		}
		if err := f.client.Retry(t.Context(), run.ID); err != nil {
			t.Fatal(err)
		}
	}
	fails(t, f.client, run, "item")
	item.well.Store(true)
	if err := f.client.Retry(t.Context(), run.ID); err != nil {
		t.Fatal(err)
	}
	ends(t, f.client, run, 1)
}

// A failure that the body has handled stays; the child that a run failed with is
// started anew; and one whose body just said no is asked again.
func TestRetryOfOtherFailures(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	optional := newMended("optional", workflow.StepOptions{Retry: workflow.Retry{MaxAttempts: 1}})
	item := newMended("item", workflow.StepOptions{Retry: workflow.Retry{MaxAttempts: 1}})
	kid := workflow.DurableWorkflow[int, int]{Name: "kid"}
	kidV1 := workflow.Define(kid, func(ctx workflow.Context, n int) (int, error) { return item.Run(ctx, n) }, workflow.Options{Steps: []workflow.Declared{item}})
	var no atomic.Bool
	no.Store(true)
	f.start(worker.Config{Workflows: []*workflow.Definition{kidV1, defines(func(ctx workflow.Context, n int) (int, error) {
		if _, err := optional.Run(ctx, n); err == nil {
			return 0, errors.New("it was to fail")
		}
		if _, err := keep.Run(ctx, n); err != nil {
			return 0, err
		}
		m, err := kid.Run(ctx, n)
		if err == nil && no.Load() {
			err = errors.New("no")
		}
		return m, err
	}, optional, keep)}})
	run := f.enqueue(1)
	fails(t, f.client, run, "child:kid")
	optional.well.Store(true)
	item.well.Store(true)
	if err := f.client.Retry(t.Context(), run.ID); err != nil {
		t.Fatal(err)
	}
	fails(t, f.client, run, "")
	no.Store(false)
	if err := f.client.Retry(t.Context(), run.ID); err != nil {
		t.Fatal(err)
	}
	ends(t, f.client, run, 1)
	if got := optional.took(); len(got) != 1 {
		t.Errorf("a handled failure is executed again: %v", got)
	}
	if n := f.count("SELECT count(*) FROM stepward.run WHERE workflow = 'kid'"); n != 2 {
		t.Errorf("%d children", n)
	}
}

// A canceled run goes on where it was interrupted.
func TestRetryCanceled(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	hold := newHeld("hold")
	f.start(worker.Config{Workflows: []*workflow.Definition{defines(func(ctx workflow.Context, n int) (int, error) {
		ctx.Finally(func(ctx workflow.Context) error { _, err := double.Run(ctx, n); return err })
		n, err := keep.Run(ctx, n)
		if err != nil {
			return 0, err
		}
		return hold.Run(ctx, n)
	}, keep, hold, double)}})
	run := f.enqueue(7)
	for i, end := range []func(context.Context, workflow.RunID) error{f.client.Cancel, f.client.Terminate, nil} {
		arrives(t, hold.began)
		if end == nil {
			break
		}
		if err := end(t.Context(), run.ID); err != nil {
			t.Fatal(err)
		}
		if _, err := outcome(t, f.client, run); !errors.Is(err, workflow.ErrCanceled) {
			t.Fatalf("got %v", err)
		}
		arrives(t, hold.ended)
		if n := f.count("SELECT count(*) FROM stepward.step WHERE key = 'double'"); n != 1-i {
			t.Errorf("%d cleanups", n)
		}
		if err := f.client.Retry(t.Context(), run.ID); err != nil {
			t.Fatal(err)
		}
	}
	hold.release <- struct{}{}
	ends(t, f.client, run, 7)
	if n := f.count("SELECT count(*) FROM stepward.step WHERE key = 'double'"); n != 1 {
		t.Errorf("%d cleanups", n)
	}
	if n := f.count("SELECT count(*) FROM stepward.step WHERE key = 'keep'"); n != 1 {
		t.Errorf("keep is recorded %d times", n)
	}

	never := f.enqueueOf("unknown") // canceled before it began
	if err := f.client.Cancel(t.Context(), never); err != nil {
		t.Fatal(err)
	}
	if err := f.client.Retry(t.Context(), never); err != nil {
		t.Fatal(err)
	}
	if s := f.state(never); s.State != workflow.StateReady || s.CancelRequested || s.Err != nil {
		t.Errorf("the run is %+v", s)
	}
}

// A run that was ended while its body went on has no failure: one that the body
// has dealt with stays, though it is the last result.
func TestRetryEndedFromOutside(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	optional := newMended("optional", workflow.StepOptions{Retry: workflow.Retry{MaxAttempts: 1}})
	var broken atomic.Bool
	broken.Store(true)
	f.start(worker.Config{Workflows: []*workflow.Definition{defines(func(ctx workflow.Context, n int) (int, error) {
		if _, err := optional.Run(ctx, n); err == nil {
			return 0, errors.New("it was to fail")
		}
		if n == 3 && broken.Load() {
			panic("broken")
		}
		_, err := note.Receive(ctx, 0)
		return n, err
	}, optional)}})
	terminated, parked := f.enqueue(1), f.enqueue(3)
	f.waits(terminated.ID)
	f.parksAs(parked.ID, "panic")
	if err := errors.Join(f.client.Terminate(t.Context(), terminated.ID), f.client.Cancel(t.Context(), parked.ID)); err != nil {
		t.Fatal(err)
	}
	optional.well.Store(true)
	broken.Store(false)
	for _, run := range []workflow.Run[int]{terminated, parked} {
		if _, err := outcome(t, f.client, run); !errors.Is(err, workflow.ErrCanceled) {
			t.Fatalf("got %v", err)
		}
		if err := f.client.Retry(t.Context(), run.ID); err != nil {
			t.Fatal(err)
		}
		if err := note.Send(t.Context(), f.client, run.ID, "go on"); err != nil {
			t.Fatal(err)
		}
	}
	ends(t, f.client, terminated, 1)
	ends(t, f.client, parked, 3)
	if got := optional.took(); len(got) != 2 {
		t.Errorf("a handled failure is executed again: %v", got)
	}
}

// enqueueOf adds a run of a workflow by name.
func (f *fixture) enqueueOf(name string) workflow.RunID {
	f.t.Helper()
	run, err := workflow.DurableWorkflow[int, int]{Name: name}.Enqueue(f.t.Context(), f.client, 1, workflow.EnqueueOptions{})
	if err != nil {
		f.t.Fatal(err)
	}
	return run.ID
}

// A repetition of the commit that ended a run, after an answer that got lost,
// does not end the run again that was retried meanwhile.
func TestRetryAgainstLateEnd(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	item := newMended("item", workflow.StepOptions{Retry: workflow.Retry{MaxAttempts: 1}})
	f.start(worker.Config{Workflows: []*workflow.Definition{defines(passes(item.Step), item)}})
	run := f.enqueue(1)
	fails(t, f.client, run, "item")
	item.well.Store(true)
	tx := f.begin() // the run must not be claimed and end before this test has looked
	if _, err := tx.Exec(t.Context(), f.sql("LOCK TABLE stepward.claim IN EXCLUSIVE MODE")); err != nil {
		t.Fatal(err)
	}
	epoch := f.count("SELECT epoch FROM stepward.run")
	if err := f.client.Retry(t.Context(), run.ID); err != nil {
		t.Fatal(err)
	}
	if n := f.count("SELECT count(*) FROM stepward.run WHERE epoch > $1 AND session IS NULL", epoch); n != 1 {
		t.Error("the turn that ended the run could end it again")
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	ends(t, f.client, run, 1)
}

// A run moves to another version and is replayed against it.
func TestRepin(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	hold := newHeld("hold")
	version := func(v string, body bodyOf, steps ...workflow.Declared) *workflow.Definition {
		return workflow.Define(changing, body, workflow.Options{Version: v, Steps: steps})
	}
	one := version("1", func(ctx workflow.Context, n int) (int, error) {
		n, err := keep.Run(ctx, n)
		if err != nil {
			return 0, err
		}
		if n == 1 {
			return hold.Run(ctx, n)
		}
		_, err = note.Receive(ctx, 0)
		return n, err
	}, keep, hold)
	two := version("2", passes(keep, double), keep, double)
	three := version("3", passes(double, keep), keep, double)
	stop := f.start(worker.Config{Workflows: []*workflow.Definition{one}})
	a, b, c := f.enqueue(1), f.enqueue(2), f.enqueue(3)
	f.waits(b.ID)
	f.waits(c.ID)
	arrives(t, hold.began)
	var unknown *workflow.DefinitionError
	if err := f.client.Repin(t.Context(), b.ID, "2"); !errors.As(err, &unknown) || !strings.Contains(err.Error(), `"2"`) {
		t.Errorf("to a version that nobody has: %v", err)
	}
	stop2 := f.start(worker.Config{Workflows: []*workflow.Definition{two, three}})
	eventually(t, "the versions are defined", func() bool { return f.count("SELECT count(*) FROM stepward.definition") == 3 })
	if err := f.client.Repin(t.Context(), a.ID, "2"); !elsewhere(err, workflow.StateReady) {
		t.Errorf("of a run that is held: %v", err)
	}
	if err := f.client.Pause(t.Context(), a.ID); err != nil {
		t.Fatal(err)
	}
	hold.release <- struct{}{}
	// Its next durable call is its end: it does not pause, and is done.
	ends(t, f.client, a, 1)

	for range 2 { // twice is no change
		if err := f.client.Repin(t.Context(), b.ID, "2"); err != nil {
			t.Fatal(err)
		}
	}
	if s := f.state(b.ID); s.Version != "2" || s.State != workflow.StateWaiting {
		t.Errorf("the run is %+v", s)
	}
	if err := note.Send(t.Context(), f.client, b.ID, "go"); err != nil {
		t.Fatal(err)
	}
	ends(t, f.client, b, 4)

	if err := f.client.Repin(t.Context(), c.ID, "3"); err != nil {
		t.Fatal(err)
	}
	if err := note.Send(t.Context(), f.client, c.ID, "go"); err != nil {
		t.Fatal(err)
	}
	if s := f.parksAs(c.ID, "nondeterminism"); !strings.Contains(s.Err.Message, "keep") || s.Version != "3" {
		t.Errorf("the run is %+v", s)
	}
	if err := f.client.Repin(t.Context(), c.ID, "2"); err != nil { // and becomes ready
		t.Fatal(err)
	}
	ends(t, f.client, c, 6)
	if got := f.kinds(c.ID); !containsInOrder(got, "run.repin", "run.parked", "run.repin", "run.completed") {
		t.Errorf("events: %v", got)
	}
	stop()
	stop2()

	// A ready run moves from one queue to the other; one that is paused stays so.
	ready, paused := f.enqueue(5), f.enqueue(6) // both of the newest, 3
	if err := f.client.Pause(t.Context(), paused.ID); err != nil {
		t.Fatal(err)
	}
	for _, r := range []workflow.Run[int]{ready, paused} {
		if err := f.client.Repin(t.Context(), r.ID, "2"); err != nil {
			t.Fatal(err)
		}
	}
	f.start(worker.Config{Workflows: []*workflow.Definition{two}})
	ends(t, f.client, ready, 10)
	if s := f.state(paused.ID); s.Reason != "paused" || s.Version != "2" {
		t.Errorf("the run is %+v", s)
	}
	if err := f.client.Resume(t.Context(), paused.ID); err != nil {
		t.Fatal(err)
	}
	ends(t, f.client, paused, 12)
	f.nothingLeft()
}

// What the old version waits for is not what the new one does.
func TestRepinWaits(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	kid, other := workflow.DurableWorkflow[int, int]{Name: "kid"}, workflow.NewSignal[string]("other")
	bodies := map[string]bodyOf{
		"signal": func(ctx workflow.Context, n int) (int, error) { _, err := note.Receive(ctx, 0); return n, err },
		"other":  func(ctx workflow.Context, n int) (int, error) { _, err := other.Receive(ctx, 0); return n, err },
		"child":  kid.Run,
		"step":   passes(keep),
	}
	var defs []*workflow.Definition
	for version, body := range bodies {
		defs = append(defs, workflow.Define(changing, body, workflow.Options{Version: version, Steps: []workflow.Declared{keep}}))
	}
	slices.SortFunc(defs, func(a, b *workflow.Definition) int { return strings.Compare(b.Engine().Version, a.Engine().Version) })
	f.start(worker.Config{Workflows: defs}) // the newest is child
	eventually(t, "the versions are defined", func() bool { return f.count("SELECT count(*) FROM stepward.definition") == 4 })
	run := f.enqueue(7)
	for _, version := range []string{"signal", "child", "other"} {
		f.waits(run.ID)
		if err := f.client.Repin(t.Context(), run.ID, version); err != nil {
			t.Fatal(err)
		}
		f.exec("UPDATE stepward.timer SET wake_at = clock_timestamp()")
		eventually(t, "it waits as "+version, func() bool {
			w := f.why(run.ID)
			want := map[string]string{"signal": "note", "child": "child:kid", "other": "other"}[version]
			return w.Cause == "waiting" && len(w.On) == 1 && w.On[0].Key == want
		})
	}
	if n := f.count("SELECT count(*) FROM stepward.run WHERE workflow = 'kid'"); n != 2 {
		t.Errorf("%d children", n)
	}
	if err := other.Send(t.Context(), f.client, run.ID, "x"); err != nil {
		t.Fatal(err)
	}
	ends(t, f.client, run, 7)
	f.nothingLeft()
}

// A verb applied to many runs: those that have got on are passed over, what goes
// wrong is said and keeps nobody else from it, and calling it again does the rest.
func TestEach(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for n := range 25 {
		f.enqueue(n)
	}
	other := f.enqueueOf("unknown")
	filter := workflow.RunFilter{Workflow: "changing", State: workflow.StateReady}
	boom := errors.New("boom")
	var calls atomic.Int32
	n, err := f.client.Each(t.Context(), filter, func(ctx context.Context, id workflow.RunID) error {
		switch calls.Add(1) {
		case 3, 7:
			return fmt.Errorf("%v: %w", id, boom)
		case 5: // somebody else is faster
			if err := f.client.Cancel(ctx, id); err != nil {
				return err
			}
		}
		return f.client.Pause(ctx, id)
	})
	if n != 22 || !errors.Is(err, boom) || strings.Count(err.Error(), "boom") != 2 || calls.Load() != 25 {
		t.Errorf("%d of %d runs, %v", n, calls.Load(), err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	calls.Store(0)
	n, err = f.client.Each(ctx, workflow.RunFilter{State: workflow.StateParked, Reason: "paused"}, func(ctx context.Context, id workflow.RunID) error {
		if calls.Add(1) == 6 {
			cancel()
		}
		return f.client.Resume(context.WithoutCancel(ctx), id)
	})
	if n < 5 || n > 9 || !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %d runs, %v", n, err)
	}
	m, err := f.client.Each(t.Context(), workflow.RunFilter{State: workflow.StateParked, Reason: "paused"}, f.client.Resume)
	if n+m != 22 || err != nil {
		t.Errorf("the rest: %d runs, %v", m, err)
	}
	n, err = f.client.Each(t.Context(), workflow.RunFilter{Version: "none"}, f.client.Terminate)
	if n != 0 || err != nil {
		t.Errorf("of no version: %d, %v", n, err)
	}
	some := filter
	some.Limit = 4
	if n, err = f.client.Each(t.Context(), some, f.client.Terminate); n != 4 || err != nil {
		t.Errorf("of four, terminated %d, %v", n, err)
	}
	if n, err = f.client.Each(t.Context(), filter, f.client.Terminate); n != 20 || err != nil {
		t.Errorf("terminated %d, %v", n, err)
	}
	if s := f.state(other); s.State != workflow.StateReady {
		t.Errorf("a run that was not meant is %v", s.State)
	}
}
