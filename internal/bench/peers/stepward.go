package main

import (
	"context"

	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

var (
	stepwardStep = workflow.NewStep("step", step, workflow.StepOptions{})
	stepwardMail = workflow.NewSignal[int]("mail")

	stepwardNames = map[shape]workflow.DurableWorkflow[int, int]{
		chain: {Name: "chain"}, fan: {Name: "fan"}, letter: {Name: "letter"},
	}
	stepwardBodies = []*workflow.Definition{
		workflow.Define(stepwardNames[chain], func(ctx workflow.Context, steps int) (n int, err error) {
			for range steps {
				if n, err = stepwardStep.Run(ctx, n); err != nil {
					return 0, err
				}
			}
			return n, nil
		}, workflow.Options{Steps: []workflow.Declared{stepwardStep}}),
		workflow.Define(stepwardNames[fan], func(ctx workflow.Context, steps int) (int, error) {
			outs, err := workflow.Map(ctx, make([]int, steps), stepwardStep, workflow.MapOptions{Limit: steps})
			return sum(outs), err
		}, workflow.Options{Steps: []workflow.Declared{stepwardStep}}),
		workflow.Define(stepwardNames[letter], func(ctx workflow.Context, n int) (int, error) {
			if _, err := stepwardStep.Run(ctx, n); err != nil {
				return 0, err
			}
			return stepwardMail.Receive(ctx, 0)
		}, workflow.Options{Steps: []workflow.Declared{stepwardStep}}),
	}
)

type stepward struct {
	client *workflow.Client
	end    func()
}

func openStepward(ctx context.Context, d *database) (peer, error) {
	pool, err := d.pool(ctx)
	if err != nil {
		return nil, err
	}
	p, err := startStepward(ctx, d, worker.Config{Pool: pool, Workflows: stepwardBodies, MaxRuns: workers, Logger: d.log})
	if err != nil {
		pool.Close()
	}
	return p, err
}

func startStepward(ctx context.Context, d *database, cfg worker.Config) (*stepward, error) {
	if err := workflow.Migrate(ctx, cfg.Pool, workflow.MigrateOptions{}); err != nil {
		return nil, err
	}
	client, err := workflow.NewClient(workflow.ClientConfig{Pool: cfg.Pool, Logger: cfg.Logger})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := worker.Run(ctx, cfg); err != nil && ctx.Err() == nil {
			d.fail(err)
		}
	}()
	return &stepward{client, func() { cancel(); <-done; cfg.Pool.Close() }}, nil
}

func (p *stepward) enqueue(ctx context.Context, s shape, n int) (handle, error) {
	run, err := stepwardNames[s].Enqueue(ctx, p.client, n, workflow.EnqueueOptions{})
	if err != nil {
		return handle{}, err
	}
	return handle{
		result: run.Result,
		signal: func(ctx context.Context, v int) error { return stepwardMail.Send(ctx, p.client, run.ID, v) },
	}, nil
}

func (p *stepward) close() { p.end() }

func sum(of []int) (n int) {
	for _, v := range of {
		n += v
	}
	return n
}
