package worker

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stepward/stepward/internal/boottime"
)

// Retention is how long runs are kept after they have ended; 0 is for ever. Any
// worker with a Retention deletes them, within minutes, whichever workflow they
// are of: the run, its steps, signals, records and large values, and the
// idempotency keys that belong to it, which may be used again then. An event is
// left of how many there were.
//
// A run that has not ended is never deleted, however old it is: its age begins
// when it ends. A child stays until its parent has got its result or has ended
// itself; and for a week at most, a run stays until the leases of its secrets have ended at
// their source.
type Retention struct {
	Completed, Failed, Canceled time.Duration
}

func (r Retention) any() bool { return r != Retention{} }

const (
	// expireEvery is the pause between two passes over all runs.
	expireEvery = time.Minute

	// expireLooks and expireDeletes bound one transaction, expirePages how many
	// there are at a time.
	expireLooks   = 1000
	expireDeletes = 100
	expirePages   = 100
)

// expiry is how far the pass over all runs has got. It goes in the order of ids:
// no index is about a run's state.
type expiry struct {
	after int64         // id
	next  time.Duration // on the clock of package boottime
}

// expire goes on with the pass.
func (w *worker) expire(ctx context.Context, e *expiry) error {
	for range expirePages {
		try, cancel := context.WithTimeout(ctx, sweepEvery)
		var n int
		var last *int64
		err := w.Pool.QueryRow(try, w.q.RunExpire, e.after, expireLooks, expireDeletes,
			keepFor(w.Retention.Completed), keepFor(w.Retention.Failed), keepFor(w.Retention.Canceled), w.actor()).Scan(&n, &last)
		cancel()
		if err != nil {
			return err
		}
		if n > 0 {
			w.tel.deleted.Add(ctx, int64(n))
			w.log.InfoContext(ctx, "old runs deleted", "runs", n)
		}
		if last == nil {
			e.after, e.next = 0, boottime.Now()+expireEvery
			return w.dropLimits(ctx)
		}
		e.after = *last
	}
	return nil
}

// dropLimits deletes limits that no run has any more.
func (w *worker) dropLimits(ctx context.Context) error {
	for n := 100; n == 100; {
		err := pgx.BeginFunc(ctx, w.Pool, func(tx pgx.Tx) error {
			rows, err := tx.Query(ctx, w.q.LimitIdle)
			if err != nil {
				return err
			}
			keys, err := pgx.CollectRows(rows, pgx.RowTo[string])
			if n = len(keys); err != nil || n == 0 {
				return err
			}
			_, err = tx.Exec(ctx, w.q.LimitDelete, keys)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// keepFor is null for what is kept for ever.
func keepFor(d time.Duration) *float64 {
	if d == 0 {
		return nil
	}
	return new(d.Seconds())
}
