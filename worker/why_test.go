package worker_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

func (f *fixture) why(id workflow.RunID) workflow.Why {
	f.t.Helper()
	w, err := f.client.Why(f.t.Context(), id)
	if err != nil {
		f.t.Fatal(err)
	}
	return w
}

// because waits until a run does not move for a cause, and returns that. Its
// text has to hold what is wanted, in this order.
func (f *fixture) because(id workflow.RunID, cause string, want ...string) (w workflow.Why) {
	f.t.Helper()
	eventually(f.t, "the cause is "+cause, func() bool {
		w = f.why(id)
		return w.Cause == cause
	})
	rest := w.String()
	for _, part := range want {
		_, after, ok := strings.Cut(rest, part)
		if !ok {
			f.t.Errorf("%q does not say %q", w.String(), part)
		}
		rest = after
	}
	if w.Run != id || w.Since.IsZero() || time.Since(w.Since).Abs() > time.Minute {
		f.t.Errorf("%s: run %v, since %v", cause, w.Run, w.Since)
	}
	return w
}

// What a waiting body waits for is named, with what ends it.
func TestWhyWaiting(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	kid := workflow.DurableWorkflow[int, int]{Name: "kid"}
	flaky := workflow.NewStep("flaky", func(context.Context, int) (int, error) { return 0, errors.New("busy") },
		workflow.StepOptions{Retry: workflow.Retry{Backoff: time.Hour, MaxBackoff: time.Hour}})
	f.start(worker.Config{Workflows: []*workflow.Definition{defines(func(ctx workflow.Context, n int) (int, error) {
		a := note.Go(ctx, time.Hour)
		b := kid.Go(ctx, n) // nobody has defined it
		c := flaky.Go(ctx, n)
		d := workflow.Go(ctx, "nap", func(ctx workflow.Context) (int, error) { return 0, workflow.Sleep(ctx, 9*time.Hour) })
		_, err := a.Get(ctx)
		_, err2 := b.Get(ctx)
		_, err3 := c.Get(ctx)
		_, err4 := d.Get(ctx)
		return 0, errors.Join(err, err2, err3, err4)
	}, flaky)}})
	run := f.enqueue(7)
	w := f.because(run.ID, "waiting", "it waits since", ", for signal note until", "(send it), child:kid run_", "(see Client.Why of that run)", "nap/sleep:", "1 more")
	if len(w.On) != 4 || w.On[0].Cause != "signal" || w.On[1].Cause != "child" || w.On[2].Cause != "timer" || w.On[3].Cause != "step" {
		t.Fatalf("waits for %+v", w.On)
	}
	if left := time.Until(w.On[0].Until); left < 50*time.Minute || left > time.Hour {
		t.Errorf("the signal is awaited for %v", left)
	}
	if s := w.On[3]; s.Key != "flaky" || s.Err == nil || s.Err.Message != "busy" || time.Until(s.Until) < 20*time.Minute {
		t.Errorf("the step: %+v", s)
	}
	f.because(w.On[1].Run, "undefined", "no worker has defined kid since", "list", "Config.Workflows")

	if err := note.Send(t.Context(), f.client, run.ID, "x"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the signal is no cause any more", func() bool { return len(f.why(run.ID).On) == 3 })
	if err := run.Cancel(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.because(run.ID, "finished", "it ended as canceled since")
}

// A run that is held by a worker that lives, that does not answer, and by none.
func TestWhyHeld(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	began, release := make(chan int, 2), make(chan struct{})
	hold := workflow.NewStep("hold", func(ctx context.Context, n int) (int, error) {
		began <- n
		select {
		case <-release:
		case <-ctx.Done():
		}
		return n, context.Cause(ctx)
	}, workflow.StepOptions{})
	def := defines(passes(hold), hold)
	stop := f.start(worker.Config{Name: "w1", MaxRuns: 1, LeaseTTL: time.Hour, Workflows: []*workflow.Definition{def}})
	run := f.enqueue(1)
	arrives(t, began)
	f.because(run.ID, "held", "worker w1 holds it since")

	next := f.enqueue(2)
	f.because(next.ID, "full", "it is ready, and w1, with changing@1, hold 1 of 1 runs since", "wait for a place")
	f.exec("UPDATE stepward.worker SET max_runs = 2") // what it looks like between the end of a turn and a claim
	f.because(next.ID, "claim", "worker w1 is about to claim it")

	pass := func(lack, kind string, left time.Duration) {
		f.exec("UPDATE stepward.worker SET passes = jsonb_build_object($2::text, jsonb_build_object('lack', $1::text, 'until', extract(epoch FROM clock_timestamp())::float8 + $3))", lack, kind, left.Seconds())
	}
	pass("level TOKEN", "0 changing acme", time.Hour)
	f.because(next.ID, "lacking", "it is ready, worker w1 leaves it to others until ", "Z (its broker cannot promise the level of TOKEN) since", "see to the brokers")
	pass("level TOKEN", "0 changing acme", -time.Second)
	f.because(next.ID, "claim")
	pass("store TOKEN", "0 changing other", time.Hour) // another tenant's
	f.because(next.ID, "claim")
	pass("broker", "all", time.Hour)
	f.because(next.ID, "claim") // it needs no secrets
	f.exec("INSERT INTO stepward.binding (run_id, body) VALUES ($1, 'x')", int64(next.ID))
	f.because(next.ID, "lacking", "(its broker does not start) since")
	f.exec("UPDATE stepward.worker SET passes = '{}'")

	f.exec("UPDATE stepward.worker SET state = 'x', lease_until = clock_timestamp() - interval '1 hour'") // nobody reaps it
	f.because(run.ID, "silent", "worker w1, whose lease has run out, holds it since", "another worker takes over")
	f.because(next.ID, "no_worker", "no live worker has changing@1 since", "Client.Repin")
	f.exec("UPDATE stepward.worker SET state = 'live', lease_until = clock_timestamp() + interval '1 hour', max_runs = 1")
	close(release)
	ends(t, f.client, run, 1)
	ends(t, f.client, next, 2)
	stop()
	f.because(run.ID, "finished", "it ended as completed since")
}

// Each reason of a parked run comes with what cures it.
func TestWhyParked(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	run := f.replayed()
	w := f.because(run.ID, "parked", "it is parked, undeclared_step", `"gate"`, "since", "Options.Steps")
	if w.Key != "undeclared_step" || w.Err == nil || len(w.On) != 0 {
		t.Errorf("got %+v", w)
	}
	stop := f.start(worker.Config{Workflows: []*workflow.Definition{defines(passes(keep, double, gate), double, keep, gate)}})
	f.parksAs(run.ID, "nondeterminism")
	f.because(run.ID, "parked", "nondeterminism", "step 1 was recorded as double, and the body calls keep", "deploy a body that fits")
	stop()
	for reason, cure := range map[string]string{"crashed": "Client.Resume", "no_backend": "sandbox backend", "undecodable": "types", "unreadable": "Codec", "panic": "does not panic", "storage": "BlobStore", "bad_name": "good names", "bad_call": "can take", "unencodable": "Codec", "spinning": "Sleep", "store": "backup", "broker": "from starting", "level": "MinLevel", "identity": "profiles", "other": "see to the reason"} {
		f.exec("UPDATE stepward.parked SET reason = $1", reason)
		f.because(run.ID, "parked", reason, cure)
	}
	if _, err := f.client.Why(t.Context(), 1); !errors.Is(err, workflow.ErrNotFound) || !strings.Contains(fmt.Sprint(err), workflow.RunID(1).String()) {
		t.Errorf("of no run: %v", err)
	}
}
