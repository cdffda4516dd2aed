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
	open   []string      // what it found: worth a try for a moment
	only   time.Time     // when nothing was ready but runs with a limit
}

// For how long limits that were open are tried without a look, and runs with a
// limit are claimed without a look at the others.
const (
	openFor = 100 * time.Millisecond
	onlyFor = 20 * time.Millisecond
)

// found notes whether nothing is ready but runs with a limit.
func (l *limits) found(only bool) {
	l.only = time.Time{}
	if only {
		l.only = time.Now()
	}
}

// alone reports whether the others need no look, for a moment.
func (l *limits) alone() bool {
	if left := onlyFor - time.Since(l.only); l.only.IsZero() || left <= 0 {
		return false
	} else if l.again == 0 || left < l.again {
		l.again = left
	}
	return true
}

// rest is how long limits are left alone. With many thousands of them that hold
// runs back a look costs something, and what is over 20 ms may take a twentieth of
// the time.
func (l *limits) rest() time.Duration {
	return 20*max(0, l.took-20*time.Millisecond) - time.Since(l.looked)
}

// next returns when the dispatcher looks again, after d at the latest.
func (l *limits) next(d time.Duration) time.Duration {
	if l.again > 0 {
		d = min(d, max(l.again, time.Millisecond))
	}
	l.again = 0
	return d
}

// claimLimited claims up to n runs that have a limit.
func (w *worker) claimLimited(ctx context.Context, n int) (turns []*heldTurn, err error) {
	if len(w.limits.open) > 0 && time.Since(w.limits.looked) < openFor {
		if turns, err = w.claimOpen(ctx, n); err != nil || len(turns) > 0 {
			return turns, err
		}
	}
	if rest := w.limits.rest(); rest > 0 {
		w.limits.again = rest
		return nil, nil
	}
	if w.limits.open, err = w.openLimits(ctx, n); err != nil || len(w.limits.open) == 0 {
		return nil, err
	}
	return w.claimOpen(ctx, n)
}

func (w *worker) claimOpen(ctx context.Context, n int) ([]*heldTurn, error) {
	turns, err := w.claimBy(ctx, w.q.ClaimLimited, n, w.limits.open)
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
