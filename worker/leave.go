package worker

import (
	"cmp"
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"github.com/stepward/stepward/internal/engine"
	"github.com/stepward/stepward/internal/payload"
)

// leave records why a run leaves this worker without having ended.
func (w *worker) leave(ctx context.Context, t *heldTurn, end engine.End) error {
	h := &host{w: w, t: t}
	x, err := h.seal(context.WithoutCancel(ctx), engine.Batch{End: &end})
	var park *engine.ParkError
	switch {
	case err == nil:
		end = *x.End
	case errors.As(err, &park): // nothing can be encoded: of an error that would say more, only this is stored
		end = engine.End{Kind: engine.Parked, Reason: cmp.Or(end.Reason, park.Reason), Error: plainError(park.Err), Err: park.Err}
	default:
		return err
	}
	err = w.retry(context.WithoutCancel(ctx), t, func(ctx context.Context) error {
		var dest string
		var err error
		switch end.Kind {
		case engine.Renewed:
			dest, err = w.renewTo(ctx, w.Pool, t, end)
		case engine.Timer:
			dest, err = w.leaveToWait(ctx, t, end)
		default:
			dest, err = w.leaveTo(ctx, w.Pool, t, end, nil, true)
		}
		if errors.Is(err, pgx.ErrNoRows) {
			return engine.ErrLeaseLost // or an earlier try went through; both end the turn
		}
		if err == nil && dest == "ready" {
			w.wake()
		}
		return err
	})
	return err
}

// pausedDetail is the record of a run that is parked because it was paused.
var pausedDetail = []byte(`{"message":"workflow: run paused"}`)

// querier is a pool or a transaction.
type querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

func (w *worker) leaveTo(ctx context.Context, q querier, t *heldTurn, end engine.End, delay *float64, waits bool) (dest string, err error) {
	to := map[engine.EndKind]string{engine.Timer: "timer", engine.Parked: "parked", engine.Released: "ready"}[end.Kind]
	detail := end.Error
	if detail == nil {
		detail = pausedDetail
	}
	err = q.QueryRow(ctx, w.q.TurnLeave, t.session, t.run, t.epoch, to, delay, end.Reason, detail, w.actor(), waits, late, end.Aware).Scan(&dest)
	return dest, err
}

// renewTo lets a run begin anew.
func (w *worker) renewTo(ctx context.Context, q querier, t *heldTurn, end engine.End) (dest string, err error) {
	err = q.QueryRow(ctx, w.q.TurnRenew, t.session, t.run, t.epoch, end.Output, w.actor(), payload.BlobKey(end.Output), pausedDetail).Scan(&dest)
	return dest, err
}

// leaveToWait lets a run wait in Postgres, unless what it waits for has arrived:
// who sends locks the run as well, so one of the two sees the other.
func (w *worker) leaveToWait(ctx context.Context, t *heldTurn, end engine.End) (dest string, err error) {
	err = pgx.BeginFunc(ctx, w.Pool, func(tx pgx.Tx) error {
		var waits bool
		if _, err := tx.Exec(ctx, w.q.TurnLock, t.run); err != nil {
			return err
		}
		if err := tx.QueryRow(ctx, w.q.TurnWaits, t.run).Scan(&waits); err != nil {
			return err
		}
		var due *float64
		if end.Delay >= 0 {
			due = new(end.Delay.Seconds())
		}
		dest, err = w.leaveTo(ctx, tx, t, end, due, waits)
		return err
	})
	return dest, err
}
