package main

import (
	"context"
	"time"

	"github.com/stepward/stepward/internal/bench/measure"
)

// A bill is what a run costs Postgres.
type bill struct {
	statements, commits, writes, bytes float64
}

func (t tally) to(u tally) bill {
	x := t.mark.To(u.mark)
	return bill{u.statements - t.statements, u.commits - t.commits, x.Xacts, x.Bytes}
}

func (b bill) less(o bill) bill {
	return bill{max(b.statements-o.statements, 0), max(b.commits-o.commits, 0), max(b.writes-o.writes, 0), max(b.bytes-o.bytes, 0)}
}

func (b bill) per(n float64) bill {
	return bill{b.statements / n, b.commits / n, b.writes / n, b.bytes / n}
}

// session opens a system, does something with it, and closes it.
func (b *bench) session(ctx context.Context, s system, f func(ctx context.Context, p peer) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	d := b.databases[s.name]
	d.fail = cancel
	p, err := s.open(ctx, d)
	if err != nil {
		return err
	}
	defer p.close()
	return f(ctx, p)
}

// count returns what each of n runs costs, and what an idle worker costs in a
// second. A session in which nothing is done for as long is subtracted: the start
// and the end of a worker, and what it does whether or not there are runs.
func (b *bench) count(ctx context.Context, s system, steps, callers, n int) (run, idle bill, err error) {
	if _, err := b.cluster.Pool.Exec(ctx, "CHECKPOINT"); err != nil {
		return run, idle, err
	}
	d := b.databases[s.name]
	measured := func(f func(ctx context.Context, p peer) error) (x bill, took time.Duration, err error) {
		from, err := d.tally(ctx, b.cluster)
		if err != nil {
			return x, 0, err
		}
		err = b.session(ctx, s, func(ctx context.Context, p peer) error {
			begin := time.Now()
			defer func() { took = time.Since(begin) }()
			return f(ctx, p)
		})
		if err != nil {
			return x, 0, err
		}
		to, err := d.tally(ctx, b.cluster)
		return from.to(to), took, err
	}
	nothing := func(span time.Duration) func(ctx context.Context, p peer) error {
		return func(ctx context.Context, p peer) error {
			if err := execute(ctx, p, chain, 1); err != nil { // the worker is there
				return err
			}
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-time.After(span):
				return nil
			}
		}
	}
	busy, took, err := measured(func(ctx context.Context, p peer) error {
		if err := execute(ctx, p, chain, 1); err != nil {
			return err
		}
		return measure.Parallel(ctx, callers, n, func(ctx context.Context) error { return execute(ctx, p, chain, steps) })
	})
	if err != nil {
		return run, idle, err
	}
	short, first, err := measured(nothing(0))
	if err != nil {
		return run, idle, err
	}
	long, second, err := measured(nothing(max(took-first, b.idle)))
	if err != nil {
		return run, idle, err
	}
	idle = long.less(short).per((second - first).Seconds())
	rest := (took - first).Seconds()
	base := bill{short.statements + idle.statements*rest, short.commits + idle.commits*rest, short.writes + idle.writes*rest, short.bytes + idle.bytes*rest}
	return busy.less(base).per(float64(n)), idle, nil
}
