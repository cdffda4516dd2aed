package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stepward/stepward/identity"
	"github.com/stepward/stepward/internal/bench/measure"
	"github.com/stepward/stepward/internal/enqueue"
	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

// barBound is how often as long as another the Enqueue of a run takes that is bound to what a profile says.
const barBound = 1.3

// benchEnqueue times the adding of runs, without a worker.
func benchEnqueue(ctx context.Context, b *bench) error {
	a, err := b.newApp(ctx, worker.Config{})
	if err != nil {
		return err
	}
	defer a.close()
	plain := func(ctx context.Context) error {
		_, err := chain.Enqueue(ctx, a.client, 1, workflow.EnqueueOptions{})
		return err
	}
	inTx := func(ctx context.Context) error {
		return pgx.BeginFunc(ctx, a.pool, func(tx pgx.Tx) error {
			_, err := chain.EnqueueTx(ctx, a.client, tx, 1, workflow.EnqueueOptions{})
			return err
		})
	}
	for _, x := range []struct {
		name       string
		callers, n int
		f          func(context.Context) error
	}{
		{"Enqueue, 1 caller", 1, 1000, plain},
		{"Enqueue, 64 callers", 64, 20000, plain},
		{"EnqueueTx, 1 caller, 1 run per transaction", 1, 1000, inTx},
		{"EnqueueTx, 16 callers, 1 run per transaction", 16, 4000, inTx},
	} {
		n := b.times(x.n)
		if err := measure.Parallel(ctx, x.callers, n/5, x.f); err != nil {
			return err
		}
		from, err := b.cluster.Mark(ctx)
		if err != nil {
			return err
		}
		if err := measure.Parallel(ctx, x.callers, n, x.f); err != nil {
			return err
		}
		took := time.Since(from.At).Seconds()
		to, err := b.cluster.Mark(ctx)
		if err != nil {
			return err
		}
		b.report.add(x.name+": runs", float64(n)/took, "/s")
		b.report.add(x.name+": write transactions per run", from.To(to).Xacts/float64(n), "")
	}
	return a.bound(ctx, b)
}

// bound compares runs that are bound to what a profile says with others, in pairs whose order alternates.
func (a *app) bound(ctx context.Context, b *bench) error {
	for name, steps := range map[string]string{"plain": `[{"name": "build"}]`, "holds": `[{"name": "publish", "secrets": ["TOKEN", "REGION?"]}]`} {
		mode := "bare"
		if name == "holds" {
			mode = "identity"
		}
		err := pgx.BeginFunc(ctx, a.pool, func(tx pgx.Tx) error {
			ids, err := enqueue.Requirements(ctx, tx, a.q, []enqueue.Need{{Workflow: name, Version: "1", Modes: []string{mode}}})
			if err == nil {
				_, err = tx.Exec(ctx, a.q.DefinitionInsert, name, "1", ids[0], []byte(steps), 0)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	profiles, err := identity.New(a.pool, identity.Options{Schema: a.schema})
	if err != nil {
		return err
	}
	for name, scope := range map[string]identity.Scope{"acme": {Tenant: "acme"}, "prod": {Tenant: "acme", Environment: "prod"}} {
		err := profiles.Put(ctx, identity.Profile{Name: name, Scope: scope, Keys: map[string]identity.Key{"TOKEN": {Ref: "file://token"}, "REGION": {Knob: "eu"}}})
		if err != nil {
			return err
		}
	}
	var took [2][]time.Duration
	var ratios []float64
	n := b.times(1000)
	for i := range n + n/5 {
		var d [2]time.Duration
		for j := range d {
			which := (i + j) % 2
			w := workflow.DurableWorkflow[int, int]{Name: []string{"plain", "holds"}[which]}
			begin := time.Now()
			if _, err := w.Enqueue(ctx, a.client, 1, workflow.EnqueueOptions{Tenant: "acme"}); err != nil {
				return err
			}
			d[which] = time.Since(begin)
		}
		if i < n/5 { // warm up
			continue
		}
		took[0], took[1], ratios = append(took[0], d[0]), append(took[1], d[1]), append(ratios, d[1].Seconds()/d[0].Seconds())
	}
	b.report.durations("Enqueue of a tenant's run without secrets", took[0], 0.5)
	b.report.durations("Enqueue of one with a profile's", took[1], 0.5)
	slices.Sort(ratios)
	b.report.bar(fmt.Sprintf("Enqueue with a profile, times without, p50 of %d pairs", n), ratios[len(ratios)/2], "x", barBound)
	return nil
}
