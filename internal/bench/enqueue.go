package main

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stepward/stepward/internal/bench/measure"
	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

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
	return nil
}
