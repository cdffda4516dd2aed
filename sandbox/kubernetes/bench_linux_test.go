package kubernetes

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

// report gives quantiles of what an iteration took, in milliseconds.
func report(b *testing.B, took []time.Duration) {
	slices.Sort(took)
	for _, q := range []float64{0.5, 0.99} {
		b.ReportMetric(float64(took[int(q*float64(len(took)-1))].Microseconds())/1000, fmt.Sprintf("p%g-ms", 100*q))
	}
}

// BenchmarkStart is from nothing to a sandbox that is connected.
func BenchmarkStart(b *testing.B) {
	backend := newPlace(b, "restricted").backend()
	if _, err := backend.Probe(b.Context()); err != nil {
		b.Fatal(err)
	}
	var took []time.Duration
	for b.Loop() {
		begin := time.Now()
		s, err := sandbox.Start(b.Context(), backend, sandbox.Options{})
		if err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(begin))
		b.StopTimer()
		if err := s.Destroy(b.Context()); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
	report(b, took)
}

// BenchmarkAcquire is from the call of a step in a body to the begin of its function,
// which has a pod that was ready: claimed, with an environment and a policy of its
// network, and with what a worker writes down before.
func BenchmarkAcquire(b *testing.B) {
	in := newPlace(b, "restricted").install(b)
	var called, began time.Time
	clock := time.Now // of the process: what is timed is no matter of the run
	boxed := workflow.NewToolStep("boxed", func(context.Context, *sandbox.Sandbox, int) (int, error) {
		began = time.Now()
		return 0, nil
	}, workflow.StepOptions{Mode: workflow.Sandboxed, Sandbox: sandbox.Spec{
		Env: map[string]string{"LANG": "C.UTF-8", "STAGE": "bench"}, Network: sandbox.NetworkPolicy{Allow: []string{"example.com:443"}},
	}})
	asks := workflow.DurableWorkflow[int, int]{Name: "asks"}
	health := new(worker.Health)
	const ready = 2
	in.work(worker.Config{
		Health: health, Warm: worker.Warm{Min: ready, Max: ready},
		Workflows: []*workflow.Definition{workflow.Define(asks, func(ctx workflow.Context, n int) (int, error) {
			called = clock()
			return boxed.Run(ctx, n)
		}, workflow.Options{Steps: []workflow.Declared{boxed}})},
	})
	var took []time.Duration
	for b.Loop() {
		b.StopTimer()
		// None is being made or removed, or that would be timed as well.
		eventually(b, "pods are ready", func() bool {
			r, _ := health.Report()
			return r.Warm == ready && in.count("SELECT count(*) FROM stepward.sandbox WHERE destroyed_at IS NULL") == ready
		})
		b.StartTimer()
		run, err := asks.Enqueue(b.Context(), in.client, 1, workflow.EnqueueOptions{})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := run.Result(bounded(b)); err != nil {
			b.Fatal(err)
		}
		took = append(took, began.Sub(called))
	}
	if n := in.count("SELECT count(*) FROM stepward.attempt WHERE sandbox_id LIKE 'warm-%'"); n != len(took) {
		b.Errorf("%d of %d had a pod that was ready", n, len(took))
	}
	report(b, took)
}
