// Package batch groups calls that arrive together into one.
//
// There is no linger: a caller that finds the group idle runs its own item at
// once, alone; what arrives meanwhile forms the next batch, which the first of
// its callers runs. So a lone caller never waits for company, and under load the
// number of batches falls as the number of callers rises.
package batch

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
)

// ErrRun reports that Run did not come to an end: it panicked, or ended its
// goroutine. What became of the items is unknown.
var ErrRun = errors.New("batch: the function that runs batches did not return")

// ErrUnknown reports that a caller left before its batch was over.
var ErrUnknown = errors.New("the outcome is unknown")

// A Group runs items of one kind in batches, one batch at a time. Its zero
// value with Run set is ready.
type Group[I, O any] struct {
	// Run executes one batch and returns one output per item, in order, or an
	// error for all. It is called by one goroutine at a time. The context is
	// the caller's when its item is alone; one of several can cancel nothing.
	Run func(ctx context.Context, items []I) ([]O, error)

	// MaxItems and MaxBytes bound a batch, unless they are zero; Size measures
	// an item in bytes. An item that is larger than MaxBytes runs alone.
	MaxItems, MaxBytes int
	Size               func(I) int

	// Impatient makes Do return at the end of its context though the item's batch
	// has begun, with an error that wraps ErrUnknown and the context's: the batch
	// goes on. A panic of it is nobody's then.
	Impatient bool

	mu      sync.Mutex
	busy    bool
	waiting []*call[I, O]
}

type call[I, O any] struct {
	item I
	lead chan struct{} // closed to make this call's goroutine run the next batch
	done chan struct{}
	out  O
	err  error
}

// Do runs item as part of a batch and returns when that has run. When ctx ends
// before the item's batch begins, Do returns ctx's cause and the item never runs.
// When it ends later, Do waits for the batch, unless the group is impatient.
func (g *Group[I, O]) Do(ctx context.Context, item I) (O, error) {
	c := &call[I, O]{item: item, lead: make(chan struct{}), done: make(chan struct{})}
	g.mu.Lock()
	if !g.busy {
		g.busy = true
		g.mu.Unlock()
		g.flush(ctx, []*call[I, O]{c})
		return c.out, c.err
	}
	g.waiting = append(g.waiting, c)
	g.mu.Unlock()
	select {
	case <-c.done:
		return c.out, c.err
	case <-c.lead:
		return g.run(ctx, c)
	case <-ctx.Done():
	}
	g.mu.Lock()
	i := slices.Index(g.waiting, c)
	if i >= 0 { // not begun: take it back
		g.waiting = slices.Delete(g.waiting, i, i+1)
	}
	g.mu.Unlock()
	if i >= 0 {
		select {
		case <-c.lead: // but it was to lead: somebody else must
			g.handOver()
		default:
		}
		var zero O
		return zero, context.Cause(ctx)
	}
	if g.Impatient {
		return left[O](ctx)
	}
	<-c.done // it is being executed: the outcome is worth waiting for
	return c.out, c.err
}

// run runs the next batch, which c leads.
func (g *Group[I, O]) run(ctx context.Context, c *call[I, O]) (O, error) {
	calls := g.take()
	if !g.Impatient || len(calls) == 1 || ctx.Done() == nil {
		g.flush(ctx, calls)
		return c.out, c.err
	}
	over := make(chan any, 1)
	go func() {
		defer func() { over <- recover() }()
		g.flush(ctx, calls)
	}()
	select {
	case p := <-over:
		if p != nil {
			panic(p)
		}
		return c.out, c.err
	case <-ctx.Done():
		return left[O](ctx)
	}
}

func left[O any](ctx context.Context) (out O, err error) {
	return out, fmt.Errorf("%w: %w", ErrUnknown, ctx.Err())
}

// take removes the next batch from the queue.
func (g *Group[I, O]) take() []*call[I, O] {
	g.mu.Lock()
	defer g.mu.Unlock()
	n, bytes := 0, 0
	for n < len(g.waiting) && (n < g.MaxItems || g.MaxItems <= 0) {
		if g.Size != nil && g.MaxBytes > 0 {
			bytes += g.Size(g.waiting[n].item)
			if n > 0 && bytes > g.MaxBytes {
				break
			}
		}
		n++
	}
	calls := slices.Clone(g.waiting[:n])
	g.waiting = slices.Delete(g.waiting, 0, n)
	return calls
}

// flush runs a batch, answers its callers and hands the lead over. When Run
// panics, the panic is its own caller's; the others get ErrRun.
func (g *Group[I, O]) flush(ctx context.Context, calls []*call[I, O]) {
	var out []O
	err := ErrRun
	defer func() {
		for i, c := range calls {
			if c.err = err; err == nil {
				c.out = out[i]
			}
			close(c.done)
		}
		g.handOver()
	}()
	items := make([]I, len(calls))
	for i, c := range calls {
		items[i] = c.item
	}
	if len(calls) > 1 {
		ctx = context.WithoutCancel(ctx)
	}
	results, runErr := g.Run(ctx, items)
	if runErr == nil && len(results) != len(items) {
		runErr = fmt.Errorf("batch: %d results for %d items", len(results), len(items))
	}
	out, err = results, runErr
}

// handOver makes the first waiting caller run the next batch, or leaves the
// group idle.
func (g *Group[I, O]) handOver() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.waiting) == 0 {
		g.busy = false
		return
	}
	close(g.waiting[0].lead)
}
