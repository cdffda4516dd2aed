package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/stepward/stepward/internal/bench/measure"
)

// A load is what is timed: callers that each enqueue a run, wait for its result
// and begin again.
type load struct {
	name    string
	shape   shape
	n       int
	callers int
	backlog int // if not 0, so many runs are enqueued first, and the time is until all are done
}

var loads = []load{
	{name: "runs of 1 step, 1 caller", shape: chain, n: 1, callers: 1},
	{name: "runs of 1 step, 100 callers", shape: chain, n: 1, callers: 100},
	{name: "runs of 10 steps, 1 caller", shape: chain, n: 10, callers: 1},
	{name: "runs of 10 steps, 100 callers", shape: chain, n: 10, callers: 100},
	{name: "runs of 1 step, 1,000 enqueued by 100 callers, until the last step", shape: chain, n: 1, callers: 100, backlog: 1000},
	{name: "runs of 10 steps, 200 enqueued by 100 callers, until the last step", shape: chain, n: 10, callers: 100, backlog: 200},
	{name: "runs that fan out to 100 steps, 1 caller", shape: fan, n: 100, callers: 1},
}

// execute does one run and checks its result.
func execute(ctx context.Context, p peer, s shape, n int) error {
	h, err := p.enqueue(ctx, s, n)
	if err != nil {
		return err
	}
	return check(ctx, h, n)
}

func check(ctx context.Context, h handle, want int) error {
	got, err := h.result(ctx)
	if err == nil && got != want {
		err = fmt.Errorf("the result is %d, not %d", got, want)
	}
	return err
}

// timing is what one load took one system in one round.
type timing struct {
	rate     float64 // runs per second
	p50, p99 float64 // ms, from before enqueue to the result; 0 if none was taken
}

func (l load) time(ctx context.Context, p peer, scale float64) (timing, error) {
	if l.backlog > 0 {
		return l.drain(ctx, p, max(int(scale*float64(l.backlog)), l.callers))
	}
	var mu sync.Mutex
	var all []time.Duration
	begin := time.Now()
	span := time.Duration(scale * float64(3*time.Second))
	err := measure.Parallel(ctx, l.callers, l.callers, func(ctx context.Context) error {
		for first := true; first || time.Since(begin) < span; first = false {
			from := time.Now()
			if err := execute(ctx, p, l.shape, l.n); err != nil {
				return err
			}
			mu.Lock()
			all = append(all, time.Since(from))
			mu.Unlock()
		}
		return nil
	})
	took := time.Since(begin).Seconds()
	return timing{float64(len(all)) / took, measure.Quantile(all, 0.5), measure.Quantile(all, 0.99)}, err
}

// drain times from the first enqueue to the last step, which needs nobody to
// poll for results. They are checked after that.
func (l load) drain(ctx context.Context, p peer, n int) (timing, error) {
	var mu sync.Mutex
	var runs []handle
	want := executed.Load() + int64(n*l.n)
	begin := time.Now()
	if err := measure.Parallel(ctx, l.callers, n, func(ctx context.Context) error {
		h, err := p.enqueue(ctx, l.shape, l.n)
		mu.Lock()
		defer mu.Unlock()
		runs = append(runs, h)
		return err
	}); err != nil {
		return timing{}, err
	}
	if err := steps(ctx, want); err != nil {
		return timing{}, err
	}
	took := time.Since(begin).Seconds()
	return timing{rate: float64(n) / took}, results(ctx, runs, l.n)
}

// steps waits until so many have been executed in all.
func steps(ctx context.Context, want int64) error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for executed.Load() < want {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

func results(ctx context.Context, runs []handle, want int) error {
	todo := make(chan handle, len(runs))
	for _, h := range runs {
		todo <- h
	}
	return measure.Parallel(ctx, 100, len(runs), func(ctx context.Context) error { return check(ctx, <-todo, want) })
}
