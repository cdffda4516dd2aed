package main

import (
	"context"
	"runtime"
	"sync"
	"time"

	"github.com/stepward/stepward/internal/bench/measure"
)

// settle is how long runs wait before memory is looked at: longer than any
// system keeps them in a cache.
const settle = 15 * time.Second

// parking is what runs cost that wait for a signal.
type parking struct {
	bytes, goroutines float64 // per run
	woken             float64 // runs per second, from the first signal to the last result
}

func memory() (bytes, goroutines float64) {
	runtime.GC()
	runtime.GC() // finalizers of the first may have freed more
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc + m.StackInuse), float64(runtime.NumGoroutine())
}

// park lets n runs wait, looks at the memory, and signals them all.
func park(ctx context.Context, p peer, n int, settle time.Duration) (x parking, err error) {
	bytes, goroutines := memory()
	var mu sync.Mutex
	var runs []handle
	want := executed.Load() + int64(n)
	if err := measure.Parallel(ctx, 100, n, func(ctx context.Context) error {
		h, err := p.enqueue(ctx, letter, 0)
		mu.Lock()
		defer mu.Unlock()
		runs = append(runs, h)
		return err
	}); err != nil {
		return x, err
	}
	if err := steps(ctx, want); err != nil {
		return x, err
	}
	select {
	case <-ctx.Done():
		return x, context.Cause(ctx)
	case <-time.After(settle):
	}
	b, g := memory()
	x.bytes, x.goroutines = (b-bytes)/float64(n), (g-goroutines)/float64(n)
	todo := make(chan handle, n)
	for _, h := range runs {
		todo <- h
	}
	begin := time.Now()
	if err := measure.Parallel(ctx, 100, n, func(ctx context.Context) error {
		return (<-todo).signal(ctx, 7)
	}); err != nil {
		return x, err
	}
	err = results(ctx, runs, 7)
	x.woken = float64(n) / time.Since(begin).Seconds()
	return x, err
}
