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
		if end.Kind == engine.Renewed {
			dest, err = w.renewTo(ctx, w.Pool, t, end)
		} else {
			dest, err = w.leaveTo(ctx, w.Pool, t, end)
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

// leaveTo lets a run wait in Postgres, unless what it waits for has arrived, or
// takes it to where end says.
func (w *worker) leaveTo(ctx context.Context, q querier, t *heldTurn, end engine.End) (dest string, err error) {
	to := map[engine.EndKind]string{engine.Timer: "timer", engine.Parked: "parked", engine.Released: "ready"}[end.Kind]
	detail := end.Error
	if detail == nil {
		detail = pausedDetail
	}
	var delay *float64
	if end.Delay >= 0 {
		delay = new(end.Delay.Seconds())
	}
	again := end.Kind == engine.Parked && engine.Passing(end.Reason)
	err = q.QueryRow(ctx, w.q.TurnLeave, t.session, t.run, t.epoch, to, delay, end.Reason, detail, w.actor(), late, end.Aware, again).Scan(&dest)
	return dest, err
}

// renewTo lets a run begin anew.
func (w *worker) renewTo(ctx context.Context, q querier, t *heldTurn, end engine.End) (dest string, err error) {
	err = q.QueryRow(ctx, w.q.TurnRenew, t.session, t.run, t.epoch, end.Output, w.actor(), payload.BlobKey(end.Output), pausedDetail).Scan(&dest)
	return dest, err
}
