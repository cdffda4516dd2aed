package worker_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

// A signal whose sender had another type parks the run, and says which call
// received it. A body that can read it goes on with it; a fork from that call
// waits for another one.
func TestSignalOfAnotherType(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	count := workflow.NewSignal[int]("note") // note is of strings
	receives := defines(func(ctx workflow.Context, _ int) (int, error) {
		first, err := count.Receive(ctx, 0)
		if err != nil {
			return 0, err
		}
		second, err := count.Receive(ctx, 0)
		return first + second, err
	})
	stop := f.start(worker.Config{Workflows: []*workflow.Definition{receives}})
	run := f.enqueue(0)
	if err := count.Send(t.Context(), f.client, run.ID, 40); err != nil {
		t.Fatal(err)
	}
	if err := note.Send(t.Context(), f.client, run.ID, "two"); err != nil {
		t.Fatal(err)
	}
	s := f.parksAs(run.ID, "undecodable")
	if want := "workflow: decode signal note, which call signal:note#2 received as int: "; s.Err.Kind != "decode" || !strings.HasPrefix(s.Err.Message, want) {
		t.Errorf("got %+v", s.Err)
	}
	if w := f.why(run.ID); !strings.Contains(w.Unblock, "Client.Fork from the call") {
		t.Errorf("got %v", w)
	}
	fork, err := f.client.Fork(t.Context(), run.ID, workflow.ForkOptions{From: "signal:note#2"})
	if err != nil {
		t.Fatal(err)
	}
	f.waits(fork)
	if err := count.Send(t.Context(), f.client, fork, 2); err != nil {
		t.Fatal(err)
	}
	ends(t, f.client, changing.Handle(f.client, fork), 42)
	stop()

	raw := workflow.NewSignal[json.RawMessage]("note")
	f.start(worker.Config{Workflows: []*workflow.Definition{defines(func(ctx workflow.Context, _ int) (n int, err error) {
		for range 2 {
			v, err := raw.Receive(ctx, 0)
			if err != nil {
				return 0, err
			}
			n += len(v)
		}
		return n, nil
	})}})
	ends(t, f.client, run, len(`40"two"`))
}
