package workflow

import (
	"fmt"
	"iter"
	"slices"
)

// MapOptions configures [Map] and [MapFunc].
type MapOptions struct {
	// Limit is how many items run at once. Defaults to 8, as does what is negative. A run may have 10,000
	// calls under way at once, and as many branches.
	Limit int
}

func (o MapOptions) limit() int {
	if o.Limit <= 0 {
		return 8
	}
	return o.Limit
}

// Map executes a step for every item and returns the outputs in the order of
// the items. Once one has failed no further item starts; those that run are
// waited for; then Map returns the error of the failed item with the lowest
// index, a *[StepError] whose Step names it, and the outputs that there are.
func Map[In, Out any](ctx Context, items []In, s *Step[In, Out], o MapOptions) ([]Out, error) {
	b, sc := caller(ctx)
	b.enter()
	core := s.of(b)
	name := b.occurrence(core.Name)
	g := &group{b: b}
	fs := make([]*future, len(items))
	for i, item := range items {
		fs[i] = b.call(sc, core, fmt.Sprintf("%s[%d]", name, i), item)
		if fs[i].done { // its input was refused
			g.failed++
		} else {
			fs[i].watch(g)
		}
	}
	return fan[Out](b, g, fs, o.limit(), func(i int) { b.t.launch(fs[i], fs[i].begin) })
}

// MapFunc runs a function for every item, each in a branch of its own, as [Go]
// does, and returns the outputs in the order of the items. When one fails, the others
// are treated as by [Map]; the error is what fn returned.
func MapFunc[In, Out any](ctx Context, name string, items []In, fn func(Context, In) (Out, error), o MapOptions) ([]Out, error) {
	b, sc := caller(ctx)
	b.enter()
	b.needs(fn != nil, "function of branch "+name, isNil)
	name = b.occurrence(b.checked("a branch", name))
	g := &group{b: b}
	fs := make([]*future, len(items))
	return fan[Out](b, g, fs, o.limit(), func(i int) {
		fs[i] = goBranch(b, sc, fmt.Sprintf("%s[%d]", name, i), func(c Context) (Out, error) { return fn(c, items[i]) }, g)
	})
}

// fan starts calls, so many at once, and gathers their results.
func fan[Out any](b *branch, g *group, fs []*future, limit int, start func(i int)) ([]Out, error) {
	next := 0
	for ; next < len(fs); next++ {
		b.await(func() bool { return g.active < limit || g.failed > 0 })
		if g.failed > 0 {
			break
		}
		g.active++
		start(next)
	}
	b.await(func() bool { return g.active == 0 })
	g.b = nil
	for _, f := range fs[next:] { // never started
		if f != nil && !f.done {
			b.t.forget(f)
		}
	}
	outs := make([]Out, len(fs))
	var failed error
	for i, f := range fs {
		if f == nil || !f.done {
			continue
		}
		out, err := result[Out](b, f)
		if err != nil && failed == nil {
			failed = err
		}
		f.output = nil // of two copies one will do
		outs[i] = out
	}
	return outs, failed
}

// group counts the futures of one Map.
type group struct {
	b              *branch // that waits; nil when nobody does any more
	active, failed int
}

func (g *group) resolved(f *future) {
	if g.b == nil {
		return
	}
	if f.launched || f.local { // a cancelation reaches items that have not started, too
		g.active--
	}
	if f.err != nil {
		g.failed++
	}
	g.b.t.ready(g.b)
}

// Ready yields futures as they are resolved, with their index, the first one
// first; a replay yields them in the same order. One that is given twice is yielded
// twice. It ends after the last one, or
// when the loop is left: use it to wait for the first of several. When the
// Context is canceled it yields the rest as they are, in the order of their index:
// their Get returns the cancelation. A run waits for steps, branches and children
// that lost, unless their Context is canceled, and not for signals.
func Ready[Out any](ctx Context, futures ...*Future[Out]) iter.Seq2[int, *Future[Out]] {
	return func(yield func(int, *Future[Out]) bool) {
		b, s := caller(ctx)
		b.enter()
		r := &arrivals{b: b}
		for i, f := range futures {
			if of := f.of(b); of.done {
				r.order = append(r.order, i)
			} else {
				of.watch(arrival{r, i})
			}
		}
		s.watchers = append(s.watchers, b)
		defer func() { s.watchers = remove(s.watchers, b) }()
		for n := range futures {
			b.await(func() bool { return len(r.order) > n || s.err != nil })
			if len(r.order) <= n {
				r.rest(len(futures))
			}
			if !yield(r.order[n], futures[r.order[n]]) {
				return
			}
			b.enter()
		}
	}
}

// arrivals is the order in which futures are resolved.
type arrivals struct {
	b     *branch
	order []int
}

// rest puts those of n futures that are not resolved behind the others.
func (r *arrivals) rest(n int) {
	for i := range n {
		if !slices.Contains(r.order, i) {
			r.order = append(r.order, i)
		}
	}
}

// arrival is that of the i-th of the futures.
type arrival struct {
	r *arrivals
	i int
}

func (a arrival) resolved(*future) {
	a.r.order = append(a.r.order, a.i)
	a.r.b.t.ready(a.r.b)
}
