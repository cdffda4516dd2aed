package worker

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// limits is what the dispatcher knows of limits.
type limits struct {
	looked time.Time     // when they were looked at last
	took   time.Duration // how long that took
	again  time.Duration // until the next look is worth it; 0: nobody knows
}

// rest is how long limits are left alone. With many thousands of them that hold
// runs back a look costs something, and may take a twentieth of the time.
func (l *limits) rest() time.Duration { return 20*l.took - time.Since(l.looked) }

// next returns when the dispatcher looks again, after d at the latest.
func (l *limits) next(d time.Duration) time.Duration {
	if l.again > 0 {
		d = min(d, max(l.again, time.Millisecond))
	}
	l.again = 0
	return d
}

// claimLimited claims up to n runs that have a limit.
func (w *worker) claimLimited(ctx context.Context, n int) ([]*heldTurn, error) {
	if rest := w.limits.rest(); rest > 0 {
		w.limits.again = rest
		return nil, nil
	}
	keys, err := w.openLimits(ctx, n)
	if err != nil || len(keys) == 0 {
		return nil, err
	}
	turns, err := w.claimBy(ctx, w.q.ClaimLimited, n, keys)
	for _, t := range turns {
		t.limited = true
	}
	return turns, err
}

// openLimits returns up to n limits that let runs through, and notes when to look
// again for those that have no tokens.
func (w *worker) openLimits(ctx context.Context, n int) (keys []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, w.LeaseTTL)
	defer cancel()
	w.limits.looked = time.Now()
	rows, err := w.Pool.Query(ctx, w.q.LimitOpen, w.wants.ids, n)
	if err != nil {
		return nil, err
	}
	var key string
	var wait float64
	_, err = pgx.ForEachRow(rows, []any{&key, &wait}, func() error {
		if key == "" {
			w.limits.again = seconds(wait)
		} else {
			keys = append(keys, key)
		}
		return nil
	})
	w.limits.took = time.Since(w.limits.looked)
	return keys, err
}
