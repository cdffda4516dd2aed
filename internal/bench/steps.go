package main

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"

	"github.com/stepward/stepward/internal/bench/measure"
	"github.com/stepward/stepward/internal/enqueue"
	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

// The bars of a run that is alone, beside its ticket.
var stepBars = map[int]struct{ commits, bytes float64 }{1: {3, 1600}, 10: {12, 4500}}

// benchSteps counts what runs write. Autovacuum is off meanwhile: what it does
// and when is no property of a run.
func benchSteps(ctx context.Context, b *bench) error {
	if err := b.cluster.Set(ctx, "autovacuum = off"); err != nil {
		return err
	}
	defer func() { _ = b.cluster.Set(context.WithoutCancel(ctx), "autovacuum = on") }()
	if b.cluster.Settings["full_page_writes"] != "off" {
		b.report.note("full_page_writes is on: WAL bytes cannot be compared")
	}
	for _, steps := range []int{1, 10} {
		x, n, err := b.alone(ctx, steps, b.times(300))
		if err != nil {
			return err
		}
		bar := stepBars[steps]
		b.report.bar(fmt.Sprintf("%s, alone: write transactions per run", plural(steps, "step")), round(x.Xacts/n, 1), "", bar.commits) // upkeep is subtracted to about one in a hundred
		b.report.bar(fmt.Sprintf("%s, alone: WAL per run", plural(steps, "step")), x.Bytes/n, "B", bar.bytes)
		if x, n, err = b.enqueued(ctx, steps, b.times(300), 1); err != nil {
			return err
		}
		b.report.add(fmt.Sprintf("%s, alone, with its ticket: write transactions per run", plural(steps, "step")), x.Xacts/n, "")
		b.report.add(fmt.Sprintf("%s, alone, with its ticket: WAL per run", plural(steps, "step")), x.Bytes/n, "B")
	}
	x, n, err := b.tickets(ctx, b.times(300))
	if err != nil {
		return err
	}
	b.report.add("a ticket (River job inserted, fetched, completed): write transactions", x.Xacts/n, "")
	b.report.add("a ticket: WAL", x.Bytes/n, "B")
	for _, steps := range []int{1, 10} {
		if x, n, err = b.ready(ctx, steps, b.times(2000), 32); err != nil {
			return err
		}
		name := fmt.Sprintf("%s, 32 concurrent, already enqueued", plural(steps, "step"))
		b.report.add(name+": write transactions per step", x.Xacts/n/float64(steps), "")
		b.report.add(name+": WAL per run", x.Bytes/n, "B")
		if x, n, err = b.enqueued(ctx, steps, b.times(2000), 32); err != nil {
			return err
		}
		name = fmt.Sprintf("%s, 32 concurrent, with enqueue and tickets", plural(steps, "step"))
		bar := 0.0
		if steps == 10 {
			bar = 0.2
		}
		b.report.bar(name+": write transactions per step", x.Xacts/n/float64(steps), "", bar)
		b.report.add(name+": WAL per run", x.Bytes/n, "B")
	}
	return nil
}

// newLoner starts a worker for runs that come one at a time and without a
// ticket each. The first step of a run adds the next one; the worker, which holds
// one run and is full, looks for it when the run has ended.
func (b *bench) newLoner(ctx context.Context, cfg worker.Config, steps int) (a *app, execute func(n int) error, err error) {
	var left atomic.Int64
	last := make(chan struct{}, 1)
	cfg.MaxRuns = 1
	cfg.Workflows = []*workflow.Definition{chainOf(func(ctx context.Context, n int) (int, error) {
		if n > 0 {
			return n + 1, nil
		}
		if left.Add(-1) > 0 {
			return n + 1, a.add(ctx, steps, 1)
		}
		last <- struct{}{}
		return n + 1, nil
	})}
	if a, err = b.newApp(ctx, cfg); err != nil {
		return nil, nil, err
	}
	if err := a.work(ctx); err != nil {
		a.close()
		return nil, nil, err
	}
	return a, func(n int) error {
		left.Store(int64(n))
		if err := a.add(ctx, steps, 1); err != nil {
			return err
		}
		select {
		case <-last:
		case <-ctx.Done():
			return ctx.Err()
		}
		return a.settled(ctx)
	}, nil
}

// alone measures n runs, one at a time and without a ticket each.
func (b *bench) alone(ctx context.Context, steps, n int) (measure.Cost, float64, error) {
	a, execute, err := b.newLoner(ctx, worker.Config{}, steps)
	if err != nil {
		return measure.Cost{}, 0, err
	}
	defer a.close()
	if err := execute(n/3 + 1); err != nil { // warm up: pages, plans, prepared statements
		return measure.Cost{}, 0, err
	}
	x, err := b.cluster.measure(ctx, func() error { return execute(n) })
	if err == nil && b.wal {
		err = b.walTable(ctx, a.schema, fmt.Sprintf("%s, alone", plural(steps, "step")), x, n)
	}
	return x, float64(n), err
}

// ready measures runs that are there when the worker looks.
func (b *bench) ready(ctx context.Context, steps, n, concurrent int) (measure.Cost, float64, error) {
	a, err := b.newApp(ctx, worker.Config{MaxRuns: concurrent})
	if err != nil {
		return measure.Cost{}, 0, err
	}
	defer a.close()
	if err := a.work(ctx); err != nil {
		return measure.Cost{}, 0, err
	}
	once := func(n int) func() error {
		return func() error {
			if err := a.add(ctx, steps, n); err != nil {
				return err
			}
			return a.settled(ctx)
		}
	}
	if err := once(n / 5)(); err != nil {
		return measure.Cost{}, 0, err
	}
	x, err := b.cluster.measure(ctx, once(n))
	return x, float64(n), err
}

// enqueued measures runs from the client's call to the result, tickets and all.
func (b *bench) enqueued(ctx context.Context, steps, n, concurrent int) (measure.Cost, float64, error) {
	a, err := b.newApp(ctx, worker.Config{})
	if err != nil {
		return measure.Cost{}, 0, err
	}
	defer a.close()
	if err := a.work(ctx); err != nil {
		return measure.Cost{}, 0, err
	}
	once := func(n int) func() error {
		return func() error {
			if err := measure.Parallel(ctx, concurrent, n, func(ctx context.Context) error { return a.execute(ctx, steps) }); err != nil {
				return err
			}
			return a.settled(ctx)
		}
	}
	if err := once(n / 5)(); err != nil {
		return measure.Cost{}, 0, err
	}
	x, err := b.cluster.measure(ctx, once(n))
	if err == nil && b.wal && concurrent == 1 {
		err = b.walTable(ctx, a.schema, fmt.Sprintf("%s, alone, with its ticket", plural(steps, "step")), x, n)
	}
	return x, float64(n), err
}

// ticketDone is a River worker that says that it worked.
type ticketDone struct {
	river.WorkerDefaults[enqueue.Ticket]
	done chan struct{}
}

func (t *ticketDone) Work(context.Context, *river.Job[enqueue.Ticket]) error {
	t.done <- struct{}{}
	return nil
}

// tickets measures the River jobs alone, one at a time, with River configured as
// a worker does.
func (b *bench) tickets(ctx context.Context, n int) (measure.Cost, float64, error) {
	a, err := b.newApp(ctx, worker.Config{})
	if err != nil {
		return measure.Cost{}, 0, err
	}
	defer a.close()
	done := &ticketDone{done: make(chan struct{}, 1)}
	workers := river.NewWorkers()
	river.AddWorker(workers, done)
	client, err := river.NewClient(riverpgxv5.New(a.pool), &river.Config{
		Schema: a.q.River, Workers: workers, Logger: b.log,
		Queues:        map[string]river.QueueConfig{enqueue.Queue: {MaxWorkers: 8}},
		FetchCooldown: river.FetchCooldownMin, FetchPollInterval: fetchPoll, // the client of an application notifies as often
	})
	if err != nil {
		return measure.Cost{}, 0, err
	}
	if err := client.Start(ctx); err != nil {
		return measure.Cost{}, 0, err
	}
	defer func() { _ = client.StopAndCancel(context.WithoutCancel(ctx)) }()
	once := func(n int) func() error {
		return func() error {
			for i := range n {
				if err := pgx.BeginFunc(ctx, a.pool, func(tx pgx.Tx) error {
					_, err := client.InsertTx(ctx, tx, enqueue.Ticket{Run: int64(i) << 40, Count: 1}, nil)
					return err
				}); err != nil {
					return err
				}
				select {
				case <-done.done:
				case <-ctx.Done():
					return ctx.Err()
				}
			}
			return a.settled(ctx)
		}
	}
	if err := once(n / 5)(); err != nil {
		return measure.Cost{}, 0, err
	}
	x, err := b.cluster.measure(ctx, once(n))
	return x, float64(n), err
}
