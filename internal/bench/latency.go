package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/stepward/stepward/internal/bench/measure"
	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

// benchLatency times what a caller waits for.
func benchLatency(ctx context.Context, b *bench) error {
	if err := b.alonelatency(ctx, b.times(300)); err != nil {
		return err
	}
	for _, steps := range []int{1, 10} {
		if err := b.throughput(ctx, steps, b.times(4000/steps), 64); err != nil {
			return err
		}
	}
	return nil
}

// alonelatency enqueues runs one at a time. The worker is in this process, but
// hears of a run through Postgres only.
func (b *bench) alonelatency(ctx context.Context, n int) error {
	began := make(chan time.Time, 1)
	stamp := workflow.NewStep("stamp", func(context.Context, int) (int, error) {
		began <- time.Now()
		return 0, nil
	}, workflow.StepOptions{})
	w := workflow.DurableWorkflow[int, int]{Name: "stamp"}
	def := workflow.Define(w, func(ctx workflow.Context, n int) (int, error) { return stamp.Run(ctx, n) },
		workflow.Options{Steps: []workflow.Declared{stamp}})
	a, err := b.newApp(ctx, worker.Config{Workflows: []*workflow.Definition{def}})
	if err != nil {
		return err
	}
	defer a.close()
	if err := a.work(ctx); err != nil {
		return err
	}
	var enqueued, started, ended []time.Duration
	for i := range n + n/5 {
		begin := time.Now()
		run, err := w.Enqueue(ctx, a.client, 0, workflow.EnqueueOptions{})
		if err != nil {
			return err
		}
		committed := time.Now()
		if _, err := run.Result(ctx); err != nil {
			return err
		}
		end := time.Now()
		start := <-began
		if i < n/5 { // warm up
			continue
		}
		enqueued = append(enqueued, committed.Sub(begin))
		started = append(started, start.Sub(begin))
		ended = append(ended, end.Sub(begin))
	}
	b.report.durations("Enqueue returns", enqueued, 0.5, 0.95, 0.99)
	b.report.durations("Enqueue to start of the first step", started, 0.5, 0.95, 0.99)
	b.report.durations("Enqueue to Result, 1 step", ended, 0.5, 0.95, 0.99)
	return nil
}

// throughput keeps so many callers busy, each with one run at a time, and then
// lets the worker empty a backlog.
func (b *bench) throughput(ctx context.Context, steps, n, concurrent int) error {
	a, err := b.newApp(ctx, worker.Config{MaxRuns: concurrent})
	if err != nil {
		return err
	}
	defer a.close()
	if err := a.work(ctx); err != nil {
		return err
	}
	var mu sync.Mutex
	var all []time.Duration
	one := func(ctx context.Context) error {
		begin := time.Now()
		err := a.execute(ctx, steps)
		mu.Lock()
		defer mu.Unlock()
		all = append(all, time.Since(begin))
		return err
	}
	if err := measure.Parallel(ctx, concurrent, n/5, one); err != nil {
		return err
	}
	all = nil
	begin := time.Now()
	if err := measure.Parallel(ctx, concurrent, n, one); err != nil {
		return err
	}
	took := time.Since(begin).Seconds()
	name := fmt.Sprintf("%s, %d concurrent", plural(steps, "step"), concurrent)
	b.report.add(name+": runs", float64(n)/took, "/s")
	if steps > 1 {
		b.report.add(name+": steps", float64(n*steps)/took, "/s")
	}
	b.report.durations(name+": Enqueue to Result", all, 0.5, 0.95, 0.99)
	if err := a.settled(ctx); err != nil {
		return err
	}
	if err := a.add(ctx, steps, n); err != nil {
		return err
	}
	if err := a.until(ctx, "SELECT count(*) < "+fmt.Sprint(n)+" FROM "+a.schema+".ready"); err != nil {
		return err
	}
	begin = time.Now() // the worker has looked
	if err := a.settled(ctx); err != nil {
		return err
	}
	b.report.add(fmt.Sprintf("%s, backlog of %d, %d held at once: steps", plural(steps, "step"), n, concurrent), float64(n*steps)/time.Since(begin).Seconds(), "/s")
	return nil
}
