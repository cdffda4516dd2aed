package worker

import (
	"context"
	"slices"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
)

// limits is what the dispatcher knows of limits.
type limits struct {
	looked time.Time     // when they were looked at last
	took   time.Duration // how long that took
	again  time.Duration // until the next look is worth it; 0: nobody knows
	open   []string      // let runs through the last time, or a turn of theirs has ended since
	cut    bool          // the last look found more than were asked for
	news   atomic.Bool   // since the last look runs may have become ready
	wait   bool          // the last claim found ready runs with a limit
	alone  bool          // and no others
	odd    bool          // who got more places the last time
}

// openFor is for how long limits are claimed from without a look.
const openFor = 100 * time.Millisecond

// fresh reports whether a look would tell nothing new.
func (l *limits) fresh() bool { return !l.news.Load() && time.Since(l.looked) < openFor }

// add notes limits that may be open.
func (l *limits) add(keys []string) {
	for _, key := range keys {
		if !slices.Contains(l.open, key) {
			l.open = append(l.open, key)
		}
	}
}

// takeFreed returns the limits whose turns have ended here since the last time.
func (w *worker) takeFreed() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	keys := w.freed
	w.freed = nil
	return keys
}

// share returns how many of the free places are first for runs without a limit: half
// of them while runs wait whose limit may be open, and none while there are no
// others.
func (l *limits) share(free int) int {
	switch {
	case !l.wait || len(l.open) == 0 && l.fresh():
		return free
	case l.alone:
		return 0
	}
	l.odd = !l.odd
	if l.odd {
		free++
	}
	return free / 2
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

// claimLimited claims up to n runs that have a limit; cut says that there may be
// more, others that some without a limit are ready, or that nobody knows.
func (w *worker) claimLimited(ctx context.Context, n int) (turns []*heldTurn, cut, others bool, err error) {
	l := &w.limits
	if len(l.open) > 0 && l.fresh() {
		turns, others, err = w.claimOpen(ctx, n)
		switch {
		case err != nil || len(turns) == n:
			return turns, true, others, err
		case len(turns) > 0 && !l.cut: // the end of a turn and a run that becomes ready ring
			l.again = openFor
			return turns, false, others, nil
		}
	}
	if rest := l.rest(); rest > 0 {
		l.again = rest
		return turns, false, true, nil
	}
	if l.open, err = w.openLimits(ctx, n-len(turns)); err != nil || len(l.open) == 0 {
		return turns, false, true, err
	}
	more, others, err := w.claimOpen(ctx, n-len(turns))
	return append(turns, more...), l.cut, others, err
}

// claimOpen claims up to n runs of the limits that may be open, and keeps those
// that were.
func (w *worker) claimOpen(ctx context.Context, n int) (turns []*heldTurn, others bool, err error) {
	answer, err := w.claimBy(ctx, w.q.ClaimLimited, n, w.limits.open)
	w.limits.open = nil
	for _, t := range answer {
		if t.run == 0 {
			others = true
			continue
		}
		turns = append(turns, t)
		w.limits.add([]string{t.limit})
	}
	return turns, others, err
}

// openLimits returns up to n limits that let runs through, and notes when to look
// again for those that have no tokens.
func (w *worker) openLimits(ctx context.Context, n int) (keys []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, w.LeaseTTL)
	defer cancel()
	w.limits.looked = time.Now()
	w.limits.news.Store(false)
	offers := w.offers()
	requirements, tenants, bindings := w.lacks.kinds()
	rows, err := w.Pool.Query(ctx, w.q.LimitOpen, offers.ids, n, offers.pins, requirements, tenants, bindings)
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
	w.limits.cut = len(keys) == n
	return keys, err
}
