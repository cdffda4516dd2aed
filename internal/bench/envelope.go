package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/stepward/stepward/identity"
	"github.com/stepward/stepward/identity/filestore"
	"github.com/stepward/stepward/internal/bench/measure"
	"github.com/stepward/stepward/internal/brokerlink"
	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/sandbox/local"
	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

// How long it may take until what has said hello has its secrets, and until it is known which those are, in milliseconds.
const (
	barEnvelope = 10
	barCascade  = 1
)

// envStore says to a broker where its file store is.
const envStore = "STEPWARD_BENCH_STORE"

// wayOf are the parts of the way of an attempt's secrets, in their order: what the broker is asked, and what the
// worker and the sandbox do in between.
var wayOf = []string{"the broker begins", "the sandbox makes a key and says hello", "the broker issues", "the sandbox opens", "the broker hears of it"}

// benchEnvelope has a worker lend secrets to a step in one local sandbox after another, with a broker that is a child
// of this process.
func benchEnvelope(ctx context.Context, b *bench) error {
	if err := b.cascade(b.times(1000)); err != nil {
		return err
	}
	if b.runnerErr != nil {
		return b.runnerErr
	}
	program, err := filepath.EvalSymlinks(b.runner.Path)
	if err != nil {
		return err
	}
	backend := local.New(local.Config{Program: program})
	if _, err := backend.Probe(ctx); err != nil {
		b.report.note("left out: %v", err)
		return nil
	}
	dir, err := os.MkdirTemp("", "bench") // short: it holds a socket
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := store(ctx, filepath.Join(dir, "secrets")); err != nil {
		return err
	}

	var began time.Time
	holds := workflow.DurableWorkflow[int, int]{Name: "holds"}
	held := workflow.NewToolStep("held", func(context.Context, *sandbox.Sandbox, int) (int, error) {
		began = time.Now()
		return 0, nil
	}, workflow.StepOptions{Mode: workflow.Identity, Secrets: []string{"TOKEN"}})
	address := filepath.Join(dir, "broker")
	r := &between{}
	defer r.close() // after the worker
	a, err := b.newApp(ctx, worker.Config{
		Backends: []sandbox.Backend{backend}, Broker: "unix://" + address,
		Workflows: []*workflow.Definition{workflow.Define(holds, func(ctx workflow.Context, n int) (int, error) { return held.Run(ctx, n) },
			workflow.Options{Steps: []workflow.Declared{held}})},
	})
	if err != nil {
		return err
	}
	defer a.close()
	profiles, err := identity.New(a.pool, identity.Options{Schema: a.schema})
	if err != nil {
		return err
	}
	err = profiles.Put(ctx, identity.Profile{Name: "acme", Scope: identity.Scope{Tenant: "acme"}, Keys: map[string]identity.Key{"TOKEN": {Ref: "file://token"}}})
	if err != nil {
		return err
	}
	r.link = brokerlink.Child(brokerlink.NewSetup(a.pool, a.schema), func(line string) { b.log.Info("broker", "said", line) })
	if err := r.listen(address); err != nil {
		return err
	}
	if err := a.work(ctx); err != nil {
		return err
	}
	once := func() ([]call, error) {
		run, err := holds.Enqueue(ctx, a.client, 1, workflow.EnqueueOptions{Tenant: "acme"})
		if err != nil {
			return nil, err
		}
		if _, err := run.Result(ctx); err != nil {
			return nil, err
		}
		calls := r.take()
		if len(calls) != 3 {
			return nil, fmt.Errorf("the broker was called %d times for one attempt", len(calls))
		}
		return calls, nil
	}

	n := b.times(200)
	var hello, whole []time.Duration
	parts := make([][]time.Duration, len(wayOf))
	for i := range n + n/5 {
		c, err := once()
		if err != nil {
			return err
		}
		if i < n/5 { // warm up
			continue
		}
		hello = append(hello, c[2].asked.Sub(c[1].asked))
		whole = append(whole, began.Sub(c[0].asked))
		for p := range parts {
			took := c[p/2].answered.Sub(c[p/2].asked)
			if p%2 == 1 {
				took = c[p/2+1].asked.Sub(c[p/2].answered)
			}
			parts[p] = append(parts[p], took)
		}
	}
	writes := make([][]float64, 3)
	r.counts = b.cluster
	for range 5 {
		c, err := once()
		if err != nil {
			return err
		}
		for i := range writes {
			writes[i] = append(writes[i], c[i].writes)
		}
	}

	b.report.bar("hello to the sandbox's secrets, p50", measure.Quantile(hello, 0.5), "ms", barEnvelope)
	b.report.durations("hello to the sandbox's secrets", hello, 0.99)
	b.report.durations("the broker's begin to the step's function", whole, 0.5, 0.99)
	t := table{Suite: b.report.suite, Title: fmt.Sprintf("the parts of the way, of %s.", plural(n, "attempt")), Columns: []string{"", "p50, ms", "p99, ms", "write transactions"}}
	for p, took := range parts {
		wrote := ""
		if p%2 == 0 {
			wrote = measure.Number(slices.Min(writes[p/2]))
		}
		t.Rows = append(t.Rows, []string{wayOf[p], measure.Number(measure.Quantile(took, 0.5)), measure.Number(measure.Quantile(took, 0.99)), wrote})
	}
	b.report.Tables = append(b.report.Tables, t)
	b.report.note("what the worker asks of the broker goes through a relay, which is timed as well")
	return nil
}

// cascade resolves profiles of every kind of scope, with the same keys in each.
func (b *bench) cascade(n int) error {
	const keys = 50
	place := identity.Scope{Tenant: "acme", Project: "web", Environment: "prod", Workflow: "site", Step: "publish"}
	scopes := []identity.Scope{
		{}, {Tenant: "acme"}, {Tenant: "acme", Project: "web"}, {Tenant: "acme", Project: "web", Environment: "prod"},
		{Tenant: "acme", Project: "web", Environment: "prod", Workflow: "site"}, place,
	}
	var profiles []identity.Profile
	for i, s := range scopes {
		p := identity.Profile{Name: fmt.Sprint("profile-", i), Scope: s, Keys: map[string]identity.Key{}}
		for j := range keys {
			p.Keys[fmt.Sprint("KEY_", j)] = identity.Key{Ref: fmt.Sprint("vault://kv/", i, "/", j), Commands: []string{"deploy", "git"}}
		}
		profiles = append(profiles, p)
	}
	var took []time.Duration
	for i := range n + n/5 {
		begin := time.Now()
		all := identity.Resolve(profiles, place, nil)
		if i >= n/5 { // warm
			took = append(took, time.Since(begin))
		}
		if r := all["KEY_7"]; len(all) != keys || r.Err != nil || r.Key.Ref != "vault://kv/5/7" {
			return fmt.Errorf("%d keys resolve, one of them to %q: %w", len(all), r.Key.Ref, r.Err)
		}
	}
	name := fmt.Sprintf("cascade of %d scopes with %d keys each", len(scopes), keys)
	b.report.bar(name+", p50", measure.Quantile(took, 0.5), "ms", barCascade)
	b.report.durations(name, took, 0.99)
	return nil
}

// store makes the file store, with one secret in it.
func store(ctx context.Context, dir string) (err error) {
	s, err := filestore.Open(filestore.Config{Dir: dir})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if _, err := s.Put(ctx, "acme", "token", []byte("a secret of the bench")); err != nil {
		return err
	}
	return os.Setenv(envStore, dir)
}
