package kubernetes

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/stepward/stepward/identity"
	"github.com/stepward/stepward/identity/filestore"
	"github.com/stepward/stepward/internal/bench/measure"
	"github.com/stepward/stepward/internal/bench/trees"
	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

// report gives quantiles of what an iteration took, in milliseconds.
func report(b *testing.B, took []time.Duration) {
	for _, q := range []float64{0.5, 0.99} {
		b.ReportMetric(measure.Quantile(took, q), fmt.Sprintf("p%g-ms", 100*q))
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
// network, and with what a worker writes down before. With secrets the pod has those
// by then as well: the broker is a process of its own, and has them in a file store.
func BenchmarkAcquire(b *testing.B) {
	for _, secrets := range [][]string{nil, {"FIRST", "SECOND", "THIRD"}} {
		b.Run(fmt.Sprintf("Secrets%d", len(secrets)), func(b *testing.B) { benchmarkAcquire(b, secrets) })
	}
}

func benchmarkAcquire(b *testing.B, secrets []string) {
	in := newPlace(b, "restricted").install(b)
	o := workflow.StepOptions{Mode: workflow.Sandboxed, Sandbox: sandbox.Spec{
		Env: map[string]string{"LANG": "C.UTF-8", "STAGE": "bench"}, Network: sandbox.NetworkPolicy{Allow: []string{"example.com:443"}},
	}}
	if secrets != nil {
		in.keeps(b, secrets)
		o.Mode, o.Secrets = workflow.Identity, secrets
	}
	var called, began time.Time
	clock := time.Now // of the process: what is timed is no matter of the run
	boxed := workflow.NewToolStep("boxed", func(ctx context.Context, sb *sandbox.Sandbox, _ int) (int, error) {
		began = time.Now()
		for _, name := range secrets { // they were there
			c := sb.Command(ProgramPath, "probe:getenv", name)
			c.Secrets = []string{name}
			out, err := c.Output(ctx)
			if sum := sha256.Sum256([]byte(secretOf(name))); err != nil || string(out) != hex.EncodeToString(sum[:8]) {
				return 0, workflow.Permanent(fmt.Errorf("%s is %q: %w", name, out, err))
			}
		}
		return 0, nil
	}, o)
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
	once := func() time.Duration {
		run, err := asks.Enqueue(b.Context(), in.client, 1, workflow.EnqueueOptions{Tenant: "acme"})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := run.Result(bounded(b)); err != nil {
			b.Fatal(err)
		}
		return began.Sub(called)
	}
	settle := func() { // none is being made or removed, or that would be timed as well
		eventually(b, "pods are ready", func() bool {
			r, _ := health.Report()
			return r.Warm == ready && in.count("SELECT count(*) FROM stepward.sandbox WHERE destroyed_at IS NULL") == ready
		})
	}
	settle()
	once() // the first one starts the broker
	var took []time.Duration
	for b.Loop() {
		b.StopTimer()
		settle()
		b.StartTimer()
		took = append(took, once())
	}
	if n := in.count("SELECT count(*) FROM stepward.attempt WHERE sandbox_id LIKE 'warm-%'"); n != 1+len(took) {
		b.Errorf("%d of %d had a pod that was ready", n, 1+len(took))
	}
	report(b, took)
}

// BenchmarkKill is from the end of a command's context until nothing is left of what it
// has started.
func BenchmarkKill(b *testing.B) {
	s, err := sandbox.Start(b.Context(), newPlace(b, "restricted").backend(), sandbox.Options{Spec: sandbox.Spec{Limits: sandbox.Limits{PIDs: trees.PIDs}}})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = s.Destroy(context.Background()) })
	if err := trees.Put(b.Context(), s); err != nil {
		b.Fatal(err)
	}
	var all []time.Duration
	for _, tree := range trees.All {
		b.Run(tree.Name, func(b *testing.B) {
			var took []time.Duration
			for b.Loop() {
				d, err := tree.Kill(bounded(b), s)
				if err != nil {
					b.Fatal(err)
				}
				took = append(took, d)
			}
			report(b, took)
			all = append(all, took...)
		})
	}
	b.Run("all", func(b *testing.B) { report(b, all) })
}

// envStore says to a broker where its file store is.
const envStore = "KUBE_TEST_STORE"

// keeps has a tenant's profile name secrets of a file store.
func (in *installation) keeps(b *testing.B, names []string) {
	b.Helper()
	dir := filepath.Join(b.TempDir(), "secrets")
	b.Setenv(envStore, dir)
	s, err := filestore.Open(filestore.Config{Dir: dir})
	if err != nil {
		b.Fatal(err)
	}
	keys := map[string]identity.Key{}
	for _, name := range names {
		if _, err := s.Put(b.Context(), "acme", name, []byte(secretOf(name))); err != nil {
			b.Fatal(err)
		}
		keys[name] = identity.Key{Ref: "file://" + name, Commands: []string{ProgramPath}}
	}
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
	profiles, err := identity.New(in.pool, identity.Options{Schema: in.schema})
	if err != nil {
		b.Fatal(err)
	}
	if err := profiles.Put(b.Context(), identity.Profile{Name: "acme", Scope: identity.Scope{Tenant: "acme"}, Keys: keys}); err != nil {
		b.Fatal(err)
	}
}

func secretOf(name string) string { return "the secret " + name + " of a benchmark" }
