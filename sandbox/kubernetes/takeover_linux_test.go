package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stepward/stepward/audit"
	"github.com/stepward/stepward/sandbox/kubernetes/internal/shape"
	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

// The step of census is executed by the probe in the sandbox: see sandboxtest.
var (
	census  = workflow.DurableWorkflow[[2]int, string]{Name: "census"}
	numbers = workflow.Stream[string]{Name: "numbers"}

	countStep = workflow.NewStep("count", func(context.Context, [2]int) (string, error) {
		return "", errors.New("the function of a guest step was called on a worker")
	}, workflow.StepOptions{Mode: workflow.Sandboxed, Retry: workflow.Retry{MaxAttempts: 1}})

	censusV1 = workflow.Define(census, func(ctx workflow.Context, in [2]int) (string, error) { return countStep.Run(ctx, in) },
		workflow.Options{Version: "1", Steps: []workflow.Declared{countStep}})
)

// A guest step goes on in its pod when its worker is killed, and when the next one is: it
// runs once, all that it shows is there once, byte for byte, and its result is
// recorded once, as of the attempt that it began as.
func TestGuestSurvivesWorker(t *testing.T) {
	t.Parallel()
	p := newPlace(t, "restricted")
	const n = 30
	for name, c := range map[string]struct {
		size    int // of what it shows at a time
		victims []victim
	}{
		"more than is kept":        {60 << 10, []victim{{After: 28}}},
		"its result is not stored": {0, []victim{{Before: 31}}},
		"the next one, too":        {0, []victim{{After: 10}, {Before: 10}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := p.install(t)
			run, err := census.Enqueue(t.Context(), in.client, [2]int{n, c.size}, workflow.EnqueueOptions{})
			if err != nil {
				t.Fatal(err)
			}
			for i, v := range c.victims {
				v.Name = fmt.Sprint("victim-", i)
				dead := in.startVictim(v)
				dead.dies()
				dead.believedDead()
			}
			pod := in.onlyPod()
			in.work(worker.Config{Workflows: []*workflow.Definition{censusV1}})
			if out, err := run.Result(bounded(t)); err != nil || out != "begun 1, attempt 1" {
				t.Fatalf("got %q, %v", out, err)
			}
			entries, _, err := numbers.Read(t.Context(), in.client, run.ID, 0, 0)
			if err != nil || len(entries) != n {
				t.Errorf("%d entries, %v", len(entries), err)
			}
			for i, e := range entries {
				if e.Value != fmt.Sprintf("%-*d", c.size, i+1) || e.Attempt != 1 {
					t.Fatalf("entry %d of attempt %d is %.20q, of %d bytes", i, e.Attempt, e.Value, len(e.Value))
				}
			}
			steps, err := in.client.Steps(t.Context(), run.ID, 0)
			if err != nil || len(steps) != 1 || !steps[0].Recorded || steps[0].Attempt != 1 {
				t.Errorf("steps: %+v, %v", steps, err)
			}
			in.onRecordOnce(run.ID, pod)
		})
	}
}

// onlyPod returns the pod of the installation's only sandbox.
func (in *installation) onlyPod() core.Pod {
	in.t.Helper()
	l, err := in.admin.CoreV1().Pods(in.name).List(in.t.Context(), meta.ListOptions{LabelSelector: shape.LabelSandbox})
	if err != nil {
		in.t.Fatal(err)
	}
	of := slices.DeleteFunc(l.Items, func(p core.Pod) bool { return !strings.Contains(p.Annotations[shape.AnnotationLabels], in.schema) })
	if len(of) != 1 {
		in.t.Fatalf("%d pods", len(of))
	}
	return of[0]
}

// onRecordOnce checks that a run had one sandbox, which is this pod, and that it is gone.
func (in *installation) onRecordOnce(id workflow.RunID, pod core.Pod) {
	in.t.Helper()
	eventually(in.t, "its sandbox is gone", func() bool { return in.count("SELECT count(*) FROM stepward.sandbox WHERE destroyed_at IS NULL") == 0 })
	if l, err := in.admin.CoreV1().Pods(in.name).List(in.t.Context(), meta.ListOptions{FieldSelector: "metadata.name=" + pod.Name}); err != nil || len(l.Items) > 0 {
		in.t.Errorf("%d pods are left, %v", len(l.Items), err)
	}
	seen := map[string]int{}
	events, err := audit.Events(in.t.Context(), in.pool, audit.Filter{Schema: in.schema, Run: id})
	if err != nil {
		in.t.Fatal(err)
	}
	for _, e := range events {
		seen[e.Kind]++
	}
	if seen[audit.SandboxCreated] != 1 || seen[audit.SandboxDestroyed] != 1 || seen[audit.SandboxTaken] == 0 {
		in.t.Errorf("events: %v", seen)
	}
}
