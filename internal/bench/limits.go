package main

import (
	"context"
	"fmt"
	"time"

	"github.com/stepward/stepward/internal/bench/measure"
	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

// benchLimits works off runs without and with limits, priorities and tenants, in
// turn, so that what else the machine does concerns both.
func benchLimits(ctx context.Context, b *bench) error {
	a, err := b.newApp(ctx, worker.Config{})
	if err != nil {
		return err
	}
	defer a.close()
	if err := a.work(ctx); err != nil {
		return err
	}
	n := b.times(3000)
	once := func(options func(i int) workflow.EnqueueOptions) (time.Duration, error) {
		start := time.Now()
		for _, err := range chain.EnqueueMany(ctx, a.client, func(yield func(int, workflow.EnqueueOptions) bool) {
			for i := range n {
				if !yield(1, options(i)) {
					return
				}
			}
		}) {
			if err != nil {
				return 0, err
			}
		}
		// Not from table run, which it would read from end to end each time: that was a third of the load.
		err := a.until(ctx, fmt.Sprintf("SELECT NOT EXISTS (SELECT FROM %[1]s.ready) AND NOT EXISTS (SELECT FROM %[1]s.turn)", a.schema))
		return time.Since(start), err
	}
	kinds := []struct {
		name    string
		options func(i int) workflow.EnqueueOptions
		took    []time.Duration
	}{
		{name: "neither", options: func(int) workflow.EnqueueOptions { return workflow.EnqueueOptions{} }},
		{name: "10 tenants and 3 priorities", options: func(i int) workflow.EnqueueOptions {
			return workflow.EnqueueOptions{Tenant: fmt.Sprint(i % 10), Priority: i % 3}
		}},
		{name: "4 limits of concurrency and rate that hold none back", options: func(i int) workflow.EnqueueOptions {
			return workflow.EnqueueOptions{Limit: workflow.Limit{Key: fmt.Sprint("wide", i%4), Concurrency: 10000, Rate: 1000000}}
		}},
		{name: "4 limits that together let as many through as the worker has places", options: func(i int) workflow.EnqueueOptions {
			return workflow.EnqueueOptions{Limit: workflow.Limit{Key: fmt.Sprint("narrow", i%4), Concurrency: worker.MaxRunsDefault / 4}}
		}},
	}
	const rounds = 7
	for round := range rounds + 1 {
		for i := range kinds {
			took, err := once(kinds[i].options)
			if err != nil {
				return err
			}
			if round > 0 { // the first warms up
				kinds[i].took = append(kinds[i].took, took)
			}
		}
	}
	b.report.add("runs of 1 step, enqueued together", float64(n)/(measure.Quantile(kinds[0].took, 0.5)/1000), "/s")
	for _, k := range kinds[1:] {
		ratios := make([]time.Duration, len(k.took))
		for i, took := range k.took {
			ratios[i] = time.Duration(float64(took) / float64(kinds[0].took[i]) * float64(time.Millisecond))
		}
		b.report.bar("with "+k.name+", times as long, p50 of "+fmt.Sprint(rounds)+" pairs", measure.Quantile(ratios, 0.5), "", 1.25)
	}
	return nil
}
