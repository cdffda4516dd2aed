package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/stepward/stepward/internal/db"
	"github.com/stepward/stepward/internal/enqueue"
	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

// chain executes as many steps as its input says, one after the other.
var chain = workflow.DurableWorkflow[int, int]{Name: "chain"}

var chainV1 = chainOf(func(_ context.Context, n int) (int, error) { return n + 1, nil })

func chainOf(f func(ctx context.Context, n int) (int, error)) *workflow.Definition {
	noop := workflow.NewStep("noop", f, workflow.StepOptions{})
	return workflow.Define(chain, func(ctx workflow.Context, steps int) (n int, err error) {
		for range steps {
			if n, err = noop.Run(ctx, n); err != nil {
				return 0, err
			}
		}
		return n, nil
	}, workflow.Options{Steps: []workflow.Declared{noop}})
}

// app is an application in a schema of its own: a client, and a worker in the
// same process, with a pool each.
type app struct {
	c            *cluster
	schema       string
	pool         *pgxpool.Pool // the client's
	client       *workflow.Client
	q            *db.Queries
	workerConfig worker.Config
	counter      *counter // of the worker's statements
	closers      []func()
}

func (b *bench) newApp(ctx context.Context, cfg worker.Config) (_ *app, err error) {
	a := &app{c: b.cluster, workerConfig: cfg, counter: &counter{n: make(map[string]int)}}
	defer func() {
		if err != nil {
			a.close()
		}
	}()
	schema, drop, err := b.cluster.newSchema(ctx)
	if err != nil {
		return nil, err
	}
	a.schema, a.closers = schema, append(a.closers, drop)
	if a.pool, err = b.cluster.NewPool(ctx, 16, schema, nil); err != nil {
		return nil, err
	}
	a.closers = append(a.closers, a.pool.Close)
	if a.q, err = db.New(schema); err != nil {
		return nil, err
	}
	if a.client, err = workflow.NewClient(workflow.ClientConfig{Pool: a.pool, Schema: schema, Logger: b.log}); err != nil {
		return nil, err
	}
	a.workerConfig.Schema, a.workerConfig.Logger = schema, b.log
	if a.workerConfig.Workflows == nil {
		a.workerConfig.Workflows = []*workflow.Definition{chainV1}
	}
	if a.workerConfig.Pool, err = b.cluster.NewPool(ctx, 16, schema, a.counter); err != nil {
		return nil, err
	}
	a.closers = append(a.closers, a.workerConfig.Pool.Close)
	return a, nil
}

// work starts the worker, and returns when it executes runs.
func (a *app) work(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- worker.Run(ctx, a.workerConfig) }()
	a.closers = append(a.closers, sync.OnceFunc(func() { cancel(); <-done })) //nolint:errcheck // the figures are taken by then
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			cancel()
			done <- err
			return fmt.Errorf("the worker ended: %w", err)
		case <-tick.C:
		}
		var n int
		if err := a.pool.QueryRow(ctx, "SELECT count(*) FROM "+a.schema+".worker WHERE state = 'live'").Scan(&n); err != nil {
			return err
		}
		if n > 0 {
			return nil
		}
	}
}

func (a *app) close() {
	for i := len(a.closers) - 1; i >= 0; i-- {
		a.closers[i]()
	}
}

// add inserts n runs together, without announcing them. The worker finds them by
// polling, or when it has been full and a place gets free.
func (a *app) add(ctx context.Context, steps, n int) error {
	items := slices.Repeat([]enqueue.Item{{Workflow: chain.Name, Input: fmt.Appendf(nil, "%d", steps)}}, n)
	return pgx.BeginFunc(ctx, a.pool, func(tx pgx.Tx) error {
		_, err := enqueue.Insert(ctx, tx, a.q, items)
		return err
	})
}

// settled returns when all runs have ended and River has put all tickets away.
func (a *app) settled(ctx context.Context) error {
	return a.until(ctx, fmt.Sprintf(`SELECT NOT EXISTS (SELECT FROM %[1]s.run WHERE state = 'live')
		AND NOT EXISTS (SELECT FROM %[1]s_river.river_job WHERE finalized_at IS NULL)`, a.schema))
}

// until returns when a query answers true.
func (a *app) until(ctx context.Context, query string) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		var is bool
		if err := a.pool.QueryRow(ctx, query).Scan(&is); err != nil || is {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// execute enqueues a run and waits for its result.
func (a *app) execute(ctx context.Context, steps int) error {
	run, err := chain.Enqueue(ctx, a.client, steps, workflow.EnqueueOptions{})
	if err != nil {
		return err
	}
	n, err := run.Result(ctx)
	if err == nil && n != steps {
		err = fmt.Errorf("run %v of %d steps returned %d", run.ID, steps, n)
	}
	return err
}
