package worker_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
	"github.com/stepward/stepward/workflow/sealed"
)

// relay is a run that waits for a signal between two steps.
var (
	relay   = workflow.DurableWorkflow[string, string]{Name: "relay"}
	relayV1 = workflow.Define(relay, func(ctx workflow.Context, in string) (string, error) {
		out, err := sings.Run(ctx, in)
		if err != nil {
			return "", err
		}
		next, err := tweet.Receive(ctx, 0)
		if err != nil {
			return "", err
		}
		return sings.Run(ctx, out+next)
	}, workflow.Options{Steps: []workflow.Declared{sings}})
)

// A key is rotated, and the codec set and unset, while a run is under way. A
// worker without the key parks the run; one that has it goes on.
func TestCodecRotation(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx := t.Context()
	o := workflow.EnqueueOptions{Key: "once"}
	run, err := relay.Enqueue(ctx, f.client, "a", o) // before there was a codec
	if err != nil {
		t.Fatal(err)
	}
	with := func(c workflow.Codec, do func()) {
		t.Helper()
		stop := f.start(worker.Config{Codec: c, Workflows: []*workflow.Definition{relayV1}})
		do()
		stop()
	}
	older, newer := newRing(t, "older"), newRing(t, "newer", "older")
	with(older, func() { f.waits(run.ID) })
	f.encodes(older)
	if err := tweet.Send(ctx, f.client, run.ID, "b"); err != nil {
		t.Fatal(err)
	}
	f.encodes(newRing(t, "older", "other")) // the second worker encodes the reason with its own key
	for i, c := range []workflow.Codec{nil, newRing(t, "other")} {
		with(c, func() {
			eventually(t, "the run parks again", func() bool { return f.count("SELECT count(*) FROM stepward.event WHERE kind = 'run.parked'") == i+1 })
			s := f.parksAs(run.ID, "undecodable")
			if !strings.Contains(s.Err.Error(), `"older"`) {
				t.Errorf("parked with %v", s.Err)
			}
		})
	}
	if n := f.count("SELECT count(*) FROM stepward.step"); n != 1 {
		t.Errorf("%d steps are on record", n)
	}
	f.encodes(newer)
	with(newer, func() { ends(t, f.client, f.as(run), "aabaab") })
	again, err := relay.Enqueue(ctx, f.client, "a", o)
	if err != nil || again.ID != run.ID {
		t.Errorf("with the same key: %v, %v", again.ID, err)
	}
	if _, err := relay.Enqueue(ctx, f.client, "a", workflow.EnqueueOptions{Key: "sealed"}); err != nil {
		t.Fatal(err)
	}

	f.encodes(newRing(t, "other"))
	var undecodable *workflow.ValueError
	var missing *sealed.KeyError
	if _, err := outcome(t, f.client, f.as(run)); !errors.As(err, &undecodable) || !errors.As(err, &missing) || missing.ID != "newer" {
		t.Errorf("without the key: %v", err)
	}
	if _, err := f.client.Steps(ctx, run.ID, 0); !errors.As(err, &undecodable) {
		t.Errorf("without the key: %v", err)
	}
	if _, err := relay.Enqueue(ctx, f.client, "a", workflow.EnqueueOptions{Key: "sealed"}); !errors.As(err, &undecodable) {
		t.Errorf("without the key: %v", err)
	}
}

// moody is a codec that fails before it works, or for good.
type moody struct {
	workflow.Codec
	fails     atomic.Int64
	permanent atomic.Bool
	deaf      atomic.Bool // it decodes nothing
}

func (m *moody) mood() error {
	switch {
	case m.permanent.Load():
		return workflow.Permanent(errors.New("never"))
	case m.fails.Add(-1) >= 0:
		return errors.New("not yet")
	}
	return nil
}

func (m *moody) Encode(ctx context.Context, plain []byte) (string, []byte, error) {
	if err := m.mood(); err != nil {
		return "", nil, err
	}
	return m.Codec.Encode(ctx, plain)
}

func (m *moody) Decode(ctx context.Context, keyID string, data []byte) ([]byte, error) {
	if m.deaf.Load() {
		return nil, errors.New("no answer")
	}
	if err := m.mood(); err != nil {
		return nil, err
	}
	return m.Codec.Decode(ctx, keyID, data)
}

// A codec that fails for a while delays a run. One that cannot encode parks it,
// with a reason that needs no codec to be read.
func TestCodecFails(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ring := newRing(t, "k")
	f.encodes(ring)
	m := &moody{Codec: ring}
	m.fails.Store(3)
	stop := f.start(worker.Config{Codec: m, Workflows: []*workflow.Definition{relayV1}})
	run, err := relay.Enqueue(t.Context(), f.client, "a", workflow.EnqueueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	f.waits(run.ID)
	m.permanent.Store(true)
	if err := tweet.Send(t.Context(), f.client, run.ID, "b"); err != nil {
		t.Fatal(err)
	}
	if s := f.parksAs(run.ID, "undecodable"); s.Err == nil || !strings.Contains(s.Err.Message, "never") {
		t.Errorf("parked with %v", s.Err)
	}
	stop()
	m.permanent.Store(false)
	f.start(worker.Config{Codec: m, Workflows: []*workflow.Definition{relayV1}})
	ends(t, f.client, run, "aabaab")
}

// A codec that does not answer for long parks a run, and has it tried again.
func TestCodecIsAway(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ring := newRing(t, "k")
	f.encodes(ring)
	m := &moody{Codec: ring}
	f.start(worker.Config{Codec: m, Workflows: []*workflow.Definition{relayV1}})
	run, err := relay.Enqueue(t.Context(), f.client, "a", workflow.EnqueueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	f.waits(run.ID)
	m.deaf.Store(true)
	if err := tweet.Send(t.Context(), f.client, run.ID, "b"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the run parks", func() bool { return f.count("SELECT count(*) FROM stepward.parked WHERE reason = 'unreadable'") == 1 })
	m.deaf.Store(false)
	f.because(run.ID, "parked", "the Codec or the BlobStore", "a worker tries it again at")
	f.exec("UPDATE stepward.parked SET retry_at = clock_timestamp()")
	ends(t, f.client, run, "aabaab")
}

// as is the handle of a run for the fixture's present client.
func (f *fixture) as(run workflow.Run[string]) workflow.Run[string] {
	return relay.Handle(f.client, run.ID)
}
