package worker

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// claimed is what a claim returns of a run.
type claimed struct {
	tenant, workflow, version string
	traceparent               *string
	tick                      *time.Time
	input                     []byte
	cancel                    bool
	priority                  int16
	waited                    float64 // seconds in ready
	seed                      int64
	limit                     string // its key: the end of the turn lets another run begin
}

// claim takes runs until the worker is full or none is left.
func (w *worker) claim(ctx, base context.Context) error {
	for ctx.Err() == nil && w.lease.slack() > 0 && len(w.offers().ids) > 0 {
		w.settle()
		free := w.MaxRuns - w.held()
		if free <= 0 {
			w.hungry.Store(true)
			return nil
		}
		n, more := 0, false
		w.limits.add(w.takeFreed())
		places := w.limits.share(free)
		if places > 0 {
			turns, cut, limited, err := w.claimSome(ctx, places)
			w.beginAll(base, turns)
			if err != nil {
				return err
			}
			n = len(turns)
			more = cut || n == places
			w.limits.wait = limited
		}
		if w.limits.wait && n < free {
			turns, cut, others, err := w.claimLimited(ctx, free-n)
			w.beginAll(base, turns)
			if err != nil {
				return err
			}
			n += len(turns)
			more = more || cut
			w.limits.alone = !others
			if others && places == 0 {
				continue // it is their turn
			}
		}
		if n == 0 || n < free && !more {
			w.hungry.Store(more)
			return nil
		}
	}
	return nil
}

func (w *worker) beginAll(base context.Context, turns []*heldTurn) {
	for _, t := range turns {
		w.begin(base, t)
	}
}

// claimSome claims up to n runs without a limit; more says that there may be
// others, limited that there are some with a limit.
func (w *worker) claimSome(ctx context.Context, n int) (turns []*heldTurn, more, limited bool, err error) {
	answer, err := w.claimBy(ctx, w.q.Claim, n, w.served)
	for _, t := range answer {
		switch {
		case t.run != 0:
			turns, w.served = append(turns, t), t.tenant
		case t.epoch == 0:
			more = true
		default:
			limited = true
		}
	}
	return turns, more, limited, err
}

// claimBy executes a statement that claims up to n runs. It is not interrupted by
// ctx, so that what was claimed is known; a claim whose answer is lost is found
// by reconcile.
func (w *worker) claimBy(ctx context.Context, statement string, n int, arg any) ([]*heldTurn, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), w.LeaseTTL)
	defer cancel()
	session := w.lease.session()
	offers := w.offers()
	requirements, tenants, bindings := w.lacks.kinds()
	rows, err := w.Pool.Query(ctx, statement, session, offers.ids, offers.pins, offers.versions, n, arg, requirements, tenants, bindings)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (*heldTurn, error) {
		t := &heldTurn{session: session, canceled: make(chan struct{}), news: make(chan struct{}, 1)}
		return t, row.Scan(&t.run, &t.epoch, &t.tenant, &t.workflow, &t.version, &t.traceparent, &t.tick, &t.input, &t.cancel, &t.priority, &t.waited, &t.seed, &t.limit)
	})
}
