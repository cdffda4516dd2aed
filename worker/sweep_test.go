//go:build linux

package worker_test

import (
	"context"
	"testing"

	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

// sticky is a backend that does not get rid of one of its sandboxes.
type sticky struct {
	sandbox.Backend
	id string
}

func (s sticky) Destroy(ctx context.Context, id string) error {
	if id != s.id {
		return s.Backend.Destroy(ctx, id)
	}
	<-ctx.Done() // as on a node that is gone
	return context.Cause(ctx)
}

// A sandbox that cannot be removed holds up no other.
func TestSweepIsNotHeldUp(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	b := backends(t)[0]
	if _, err := b.Probe(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"sticks", "to-be-swept", "to-be-swept-too"} { // which is how List has them
		sb, err := sandbox.Start(t.Context(), b, sandbox.Options{ID: id, Labels: sandbox.Labels{Schema: f.schema, Session: 1}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = sb.Destroy(context.Background()) })
	}
	f.start(worker.Config{Workflows: []*workflow.Definition{censusV1}, Backends: []sandbox.Backend{sticky{b, "sticks"}}})
	eventually(t, "the others are removed", func() bool {
		listed, err := b.List(t.Context(), f.schema)
		if err != nil {
			t.Fatal(err)
		}
		return len(listed) == 1 && listed[0].ID == "sticks"
	})
}
