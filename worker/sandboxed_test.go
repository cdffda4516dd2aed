//go:build linux

package worker_test

import (
	"strings"
	"testing"

	"github.com/stepward/stepward/internal/testenv"
	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/sandbox/docker"
	"github.com/stepward/stepward/sandbox/sandboxtest"
	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

// Without a backend that works, runs with sandboxed steps park, and say why. A
// worker that has one takes them up.
func TestNoBackendParks(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	r := f.travel("a", "box")
	stop := f.start(worker.Config{Workflows: []*workflow.Definition{journeyNew}, Backends: []sandbox.Backend{}})
	f.parksAs(r.run.ID, "no_backend")
	f.start(worker.Config{Name: "able", Workflows: []*workflow.Definition{journeyNew}, Backends: backends(t)})
	r.arrives(t.Context(), nil, 0)
	// As long as it lives, the other one leaves such runs to it.
	next := f.travel("b", "box")
	next.arrives(t.Context(), nil, 0)
	stop()
}

// An image that is not there parks the run, and names it.
func TestMissingImageParks(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	engine := docker.New(docker.Config{Host: testenv.Docker(t), Program: sandboxtest.BuildProbe(t), NoPull: true})
	t.Cleanup(func() {
		if err := engine.Close(); err != nil {
			t.Error(err)
		}
	})
	pictured := workflow.NewStep("pictured", keepIt, workflow.StepOptions{Mode: workflow.Sandboxed, Sandbox: sandbox.Spec{Image: "stepward.invalid/none:1"}})
	f.start(worker.Config{Workflows: []*workflow.Definition{defines(passes(double, pictured), double, pictured)}, Backends: []sandbox.Backend{engine}})
	run, err := changing.Enqueue(t.Context(), f.client, 21, workflow.EnqueueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if s := f.parksAs(run.ID, "image"); !strings.Contains(s.Err.Message, "stepward.invalid/none:1") {
		t.Errorf("got %q", s.Err.Message)
	}
	if n := f.count("SELECT count(*) FROM stepward.step"); n != 1 {
		t.Errorf("%d steps are on record", n)
	}
	eventually(t, "its sandbox is not on record as there", func() bool {
		return f.count("SELECT count(*) FROM stepward.sandbox WHERE destroyed_at IS NULL") == 0
	})
}
