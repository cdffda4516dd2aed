//go:build linux

package worker_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/stepward/stepward/audit"
	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

// Steps take sandboxes that are ready: each one for one attempt, with the variables of
// its own Spec. What is ready and has ended all the same is replaced, and a worker
// that stops leaves none behind.
func TestWarm(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	backend := backends(t)[0]
	named := workflow.NewToolStep("named", func(ctx context.Context, sb *sandbox.Sandbox, in int) (string, error) {
		out, err := sb.Command("/bin/sh", "-c", `echo "$WHO"; ls /workspace; echo left > /workspace/left`).Output(ctx)
		return sb.ID() + " " + strings.TrimSpace(string(out)), err
	}, workflow.StepOptions{Mode: workflow.Sandboxed, Sandbox: sandbox.Spec{Env: map[string]string{"WHO": "the step's own"}}})
	asks := workflow.DurableWorkflow[int, string]{Name: "asks"}
	v1 := workflow.Define(asks, func(ctx workflow.Context, in int) (string, error) { return named.Run(ctx, in) },
		workflow.Options{Version: "1", Steps: []workflow.Declared{named}})
	health := new(worker.Health)
	stop := f.start(worker.Config{Workflows: []*workflow.Definition{v1}, Backends: []sandbox.Backend{backend}, Warm: worker.Warm{Min: 1, Max: 1}, Health: health})
	ready := func() {
		t.Helper()
		eventually(t, "no sandbox is ready", func() bool { r, _ := health.Report(); return r.Warm == 1 })
	}
	seen := map[string]bool{}
	ask := func(warm bool) {
		t.Helper()
		run, err := asks.Enqueue(t.Context(), f.client, 1, workflow.EnqueueOptions{})
		if err != nil {
			t.Fatal(err)
		}
		out, err := outcome(t, f.client, run)
		id, said, _ := strings.Cut(out, " ")
		if err != nil || said != "the step's own" || seen[id] {
			t.Fatalf("got %q, %v; sandboxes before: %v", out, err, seen)
		}
		seen[id] = true
		events, err := audit.Events(t.Context(), f.pool, audit.Filter{Schema: f.schema, Run: run.ID, Kinds: []string{audit.SandboxCreated}})
		if err != nil || len(events) != 1 || strings.Contains(string(events[0].Detail), `"warm":true`) != warm || !strings.Contains(string(events[0].Detail), id) {
			t.Errorf("%+v, %v, want warm: %v", events, err, warm)
		}
		if n := f.count("SELECT count(*) FROM stepward.sandbox WHERE id = '" + id + "' AND run_id = " + fmt.Sprint(int64(run.ID))); n != 1 {
			t.Errorf("%d rows tie %s to its run", n, id)
		}
	}
	for range 3 {
		ready()
		ask(true)
	}
	ready()
	all, err := backend.List(t.Context(), f.schema)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range all {
		if l.Labels.Run == 0 {
			if err := backend.Destroy(t.Context(), l.ID); err != nil {
				t.Fatal(err)
			}
		}
	}
	ask(false)
	ready()
	stop()
	if all, err := backend.List(t.Context(), f.schema); err != nil || len(all) != 0 {
		t.Errorf("left behind: %+v, %v", all, err)
	}
	if n := f.count("SELECT count(*) FROM stepward.sandbox WHERE destroyed_at IS NULL OR run_id IS NULL"); n != 0 {
		t.Errorf("%d rows of sandboxes are left", n)
	}
}
