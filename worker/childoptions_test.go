//go:build unix

package worker_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

// A body says of its children what an enqueue says of a run.
func TestChildOptions(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	child := workflow.DurableWorkflow[string, string]{Name: "child"}
	childV1 := workflow.Define(child, func(ctx workflow.Context, s string) (string, error) {
		said, err := note.Receive(ctx, 0)
		return s + said, err
	}, workflow.Options{})
	parentV1 := defines(func(ctx workflow.Context, n int) (int, error) {
		plain := child.Go(ctx, "plain")
		rich := child.With(workflow.EnqueueOptions{Priority: -3, Attributes: map[string]any{"page": 7}, Limit: workflow.Limit{Key: "pages", Concurrency: 9}}).Go(ctx, "rich")
		_, err := child.With(workflow.EnqueueOptions{Timeout: time.Hour}).Run(ctx, "late")
		if !errors.Is(err, workflow.ErrTimeout) {
			return 0, fmt.Errorf("the late one: %w", err)
		}
		a, err := plain.Get(ctx)
		b, err2 := rich.Get(ctx)
		if a != "plain!" || b != "rich!" {
			return 0, fmt.Errorf("got %q, %q, %w", a, b, errors.Join(err, err2))
		}
		return n, nil
	})
	f.start(worker.Config{Workflows: []*workflow.Definition{childV1, parentV1}})
	run, err := changing.Enqueue(t.Context(), f.client, 1, workflow.EnqueueOptions{Tenant: "acme", Priority: 5})
	if err != nil {
		t.Fatal(err)
	}
	children := func() (all []workflow.RunStatus) {
		for s, err := range f.client.Runs(t.Context(), workflow.RunFilter{Workflow: "child", State: workflow.StateWaiting}) {
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, s)
		}
		return all
	}
	eventually(t, "the children wait", func() bool { return len(children()) == 3 })
	var plain, rich, late workflow.RunStatus
	for _, s := range children() { // in whichever order they were added
		switch {
		case s.Tenant != "acme", s.Parent != run.ID, time.Since(s.Enqueued).Abs() > time.Hour:
			t.Errorf("got %+v", s)
		case s.Limit != "":
			rich = s
		case !s.Deadline.IsZero():
			late = s
		default:
			plain = s
		}
	}
	if plain.Priority != 5 || plain.Attributes != nil {
		t.Errorf("plain: %+v", plain)
	}
	if rich.Priority != -3 || rich.Limit != "pages" || !maps.Equal(rich.Attributes, map[string]any{"page": int64(7)}) || !rich.Deadline.IsZero() {
		t.Errorf("rich: %+v", rich)
	}
	if left := time.Until(late.Deadline); late.Priority != 5 || left < 50*time.Minute || left > 70*time.Minute {
		t.Errorf("late: %+v", late)
	}
	f.elapse()
	for _, s := range []workflow.RunStatus{plain, rich} {
		if err := note.Send(t.Context(), f.client, s.ID, "!"); err != nil {
			t.Fatal(err)
		}
	}
	ends(t, f.client, run, 1)
	if err := f.client.Replay(t.Context(), run.ID, parentV1); err != nil {
		t.Error(err)
	}
	f.nothingLeft()
}

// A run that nobody waits for may have a key: there is one run of it, whoever
// starts it.
func TestStartWithKey(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	other := workflow.DurableWorkflow[int, int]{Name: "other"}
	key := workflow.EnqueueOptions{Key: "invoice-7"}
	parentV1 := defines(func(ctx workflow.Context, n int) (int, error) {
		id, err := other.With(key).Start(ctx, n)
		if failed, ok := errors.AsType[*workflow.RecordedError](err); ok && failed.Kind == "conflict" {
			return -1, nil
		}
		return int(id), err
	})
	f.start(worker.Config{Workflows: []*workflow.Definition{sameAs("other", "1"), parentV1}})
	outs := make(map[int]int) // of runs, by what became of their call
	for _, run := range []workflow.Run[int]{f.enqueue(7), f.enqueue(7), f.enqueue(8), f.enqueue(8)} {
		out, err := outcome(t, f.client, run)
		if err != nil {
			t.Fatal(err)
		}
		outs[out]++
		if err := f.client.Replay(t.Context(), run.ID, parentV1); err != nil {
			t.Error(err)
		}
	}
	key.Tenant = "acme"
	var got []workflow.RunID // by a client: that run as well, or a conflict
	for n := range 2 {
		run, err := other.Enqueue(t.Context(), f.client, 7+n, key)
		conflict, ok := errors.AsType[*workflow.KeyConflictError](err)
		if ok {
			run.ID = conflict.Run
		} else if err != nil {
			t.Fatal(err)
		}
		got = append(got, run.ID)
	}
	if outs[-1] != 2 || outs[int(got[0])] != 2 || got[0] != got[1] {
		t.Errorf("bodies got %v, clients %v", outs, got)
	}
	if n := f.count("SELECT count(*) FROM stepward.run WHERE workflow = 'other'"); n != 1 {
		t.Errorf("%d runs", n)
	}
	f.nothingLeft()
}

// A transaction of the application that holds the key which a body needs, and
// then needs the body's run, is not the victim of a deadlock.
func TestStartGivesWay(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	other := workflow.DurableWorkflow[int, int]{Name: "other"}
	cfg := f.pool.Config()
	cfg.ConnConfig.RuntimeParams["deadlock_timeout"] = "10min" // the worker would never be the victim
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	f.start(worker.Config{Pool: pool, Workflows: []*workflow.Definition{sameAs("other", "1"), defines(func(ctx workflow.Context, n int) (int, error) {
		id, err := other.With(workflow.EnqueueOptions{Key: "k"}).Start(ctx, n)
		return int(id), err
	})}})
	eventually(t, "the workflows are defined", func() bool { return f.count("SELECT count(*) FROM stepward.definition") == 2 })
	tx := f.begin()
	held, err := other.EnqueueTx(t.Context(), f.client, tx, 7, workflow.EnqueueOptions{Tenant: "acme", Key: "k"})
	if err != nil {
		t.Fatal(err)
	}
	run := f.enqueue(7)
	eventually(t, "the worker waits for the key", func() bool { return f.blocks(tx) })
	if err := note.SendTx(t.Context(), f.client, tx, run.ID, "hello"); err != nil {
		t.Fatal(err)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	ends(t, f.client, run, int(held.ID))
}

// What makes no sense of a child is refused, and starts nothing. The options of
// children are for nothing else.
func TestChildOptionsRefused(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	other := workflow.DurableWorkflow[int, int]{Name: "other"}
	bad := map[string]workflow.EnqueueOptions{
		"EnqueueOptions.Tenant":              {Tenant: "acme"},
		"EnqueueOptions.Key":                 {Key: "k"},
		"EnqueueOptions.Priority":            {Priority: 1001},
		"EnqueueOptions.Timeout":             {Timeout: -1},
		"EnqueueOptions.Limit.Concurrency":   {Limit: workflow.Limit{Key: "k"}},
		`EnqueueOptions.Attributes["a\x00"]`: {Attributes: map[string]any{"a\x00": 1}},
	}
	refused := func(err error, want string) error {
		if wrong, ok := errors.AsType[*workflow.OptionError](err); !ok || wrong.Option != want {
			return fmt.Errorf("%s: got %w", want, err)
		}
		return nil
	}
	f.start(worker.Config{Workflows: []*workflow.Definition{sameAs("other", "1"), defines(func(ctx workflow.Context, n int) (int, error) {
		var errs []error
		for _, want := range slices.Sorted(maps.Keys(bad)) {
			_, err := other.With(bad[want]).Run(ctx, n)
			errs = append(errs, refused(err, want))
		}
		_, err := other.With(workflow.EnqueueOptions{Key: "k\x00"}).Start(ctx, n)
		errs = append(errs, refused(err, "EnqueueOptions.Key"))
		return n, errors.Join(errs...)
	})}})
	ends(t, f.client, f.enqueue(1), 1)
	if n := f.count("SELECT count(*) FROM stepward.run"); n != 1 {
		t.Errorf("%d runs", n)
	}

	const with = "DurableWorkflow.With"
	misused := other.With(workflow.EnqueueOptions{})
	_, enqueue := misused.Enqueue(t.Context(), f.client, 1, workflow.EnqueueOptions{})
	_, tx := misused.EnqueueTx(t.Context(), f.client, f.begin(), 1, workflow.EnqueueOptions{})
	_, schedule := misused.Schedule(t.Context(), f.client, 1, workflow.ScheduleOptions{Name: "s", Every: time.Hour})
	errs := []error{refused(enqueue, with), refused(tx, with), refused(schedule, with), refused(misused.ContinueAsNew(1), with)}
	for _, err := range misused.EnqueueMany(t.Context(), f.client, maps.All(map[int]workflow.EnqueueOptions{1: {}})) {
		errs = append(errs, refused(err, with))
	}
	def := workflow.Define(misused, func(workflow.Context, int) (int, error) { return 0, nil }, workflow.Options{})
	err := worker.Run(t.Context(), worker.Config{Pool: f.pool, Schema: f.schema, Workflows: []*workflow.Definition{def}})
	if wrong, ok := errors.AsType[*workflow.DefinitionError](err); !ok || wrong.Workflow != "other" {
		errs = append(errs, fmt.Errorf("defined: %w", err))
	}
	if err := errors.Join(errs...); err != nil {
		t.Error(err)
	}
}

func sameAs(name, version string) *workflow.Definition {
	return workflow.Define(workflow.DurableWorkflow[int, int]{Name: name}, func(_ workflow.Context, n int) (int, error) { return n, nil },
		workflow.Options{Version: version})
}
