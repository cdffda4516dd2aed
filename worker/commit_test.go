package worker_test

import (
	"testing"

	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

// What Postgres refuses for its data parks one run. Those whose results were in
// the same statement are not harmed.
func TestBadRowParksAlone(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.exec("ALTER TABLE stepward.step ADD CHECK (output <> '13')")
	f.start(worker.Config{Workflows: []*workflow.Definition{defines(passes(keep), keep)}})
	var runs []workflow.Run[int]
	for n := range 40 {
		run, err := changing.Enqueue(t.Context(), f.client, n, workflow.EnqueueOptions{})
		if err != nil {
			t.Fatal(err)
		}
		runs = append(runs, run)
	}
	for n, run := range runs {
		if n == 13 {
			continue
		}
		if out, err := outcome(t, f.client, run); err != nil || out != n {
			t.Errorf("got %d, %v", out, err)
		}
	}
	f.parksAs(runs[13].ID, "storage")
	f.exec("ALTER TABLE stepward.step DROP CONSTRAINT step_output_check")
	if err := f.client.Resume(t.Context(), runs[13].ID); err != nil {
		t.Fatal(err)
	}
	if out, err := outcome(t, f.client, runs[13]); err != nil || out != 13 {
		t.Errorf("mended: %d, %v", out, err)
	}
	if err := f.client.Cancel(t.Context(), runs[13].ID); !finished(err) {
		t.Errorf("got %v", err)
	}
}
