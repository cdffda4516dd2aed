package workflow

import (
	"cmp"
	"slices"
	"time"

	"github.com/stepward/stepward/internal/engine"
)

// A scope is what a cancelation reaches.
type scope struct {
	t        *turn
	err      error // why it is canceled
	outer    *scope
	inner    []*scope
	futures  map[*future]struct{} // unresolved ones, and those that wait for none
	watchers []*branch
}

func newScope(t *turn, outer *scope) *scope {
	s := &scope{t: t, outer: outer, futures: make(map[*future]struct{})}
	if outer != nil {
		outer.inner = append(outer.inner, s)
		s.err = outer.err
	}
	return s
}

// cancel ends all that is unresolved in the scope and in those within it, in
// program order.
func (s *scope) cancel(err error) {
	if s.err != nil {
		return
	}
	s.err = err
	fs := make([]*future, 0, len(s.futures))
	for f := range s.futures {
		fs = append(fs, f)
	}
	slices.SortFunc(fs, func(a, b *future) int { return cmp.Compare(a.seq, b.seq) })
	for _, f := range fs {
		s.t.abandon(f, err)
	}
	for _, b := range s.watchers {
		s.t.ready(b)
	}
	for _, in := range s.inner {
		in.cancel(err)
	}
	s.inner = nil
}

// drop takes an inner scope off.
func (s *scope) drop(in *scope) {
	s.inner = slices.DeleteFunc(s.inner, func(o *scope) bool { return o == in })
}

// abandon ends a future without a result. On a replay it ends at the same place,
// as what made it end is on record. What it waited for may be there still: a child
// whose addition nobody heard of.
func (t *turn) abandon(f *future, err error) {
	if f.done {
		return
	}
	if f.cancel != nil {
		f.cancel(err)
	}
	if f.wait != nil && f.wait.Child > 0 {
		t.pending.Cancel = append(t.pending.Cancel, f.wait.Child)
	}
	if f.wait != nil && f.written {
		t.pending.Dropped = append(t.pending.Dropped, f.seq)
	}
	t.resolve(f, nil, &StepError{Step: f.key, Attempt: f.attempt, Err: err})
}

// WithCancel implements Context.
func (c bodyContext) WithCancel() (Context, func()) {
	b, s := c.at()
	b.enter()
	in := newScope(b.t, s)
	return bodyContext{b, in}, func() {
		b.t.holder.Load().enter()
		in.cancel(ErrCanceled)
		s.drop(in)
	}
}

// WithTimeout implements Context.
func (c bodyContext) WithTimeout(d time.Duration) (Context, func()) {
	b, s := c.at()
	b.enter()
	in := newScope(b.t, s)
	f := b.reserve(s, b.occurrence(keyTimeout))
	f.wait = &engine.Wait{Seq: f.seq, Key: f.key, Left: max(d, 0)}
	f.watch(timeLimit{in})
	b.t.launch(f, f.listen)
	return bodyContext{b, in}, func() {
		b.t.holder.Load().enter()
		b.t.abandon(f, ErrCanceled)
		in.cancel(ErrCanceled)
		s.drop(in)
	}
}

// timeLimit cancels a scope when its time has passed.
type timeLimit struct{ s *scope }

func (l timeLimit) resolved(f *future) {
	if f.err == nil {
		l.s.cancel(ErrTimeout)
	}
}
