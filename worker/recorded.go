package worker

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stepward/stepward/internal/engine"
)

// history reads what earlier turns left behind: checkpoints, a page at a time,
// attempts and waits.
func (w *worker) history(ctx context.Context, in *engine.Turn) error {
	const page = 1000
	var steps []engine.Checkpoint
	for after, n := -1, page; n == page; {
		rows, err := w.Pool.Query(ctx, w.q.StepHistory, in.Run, after, page)
		if err != nil {
			return err
		}
		var c engine.Checkpoint
		var hash int64
		n = 0
		_, err = pgx.ForEachRow(rows, []any{&c.Seq, &c.Done, &c.Key, &c.Attempt, &hash, &c.Output, &c.Error}, func() error {
			c.InputHash = uint64(hash)
			steps = append(steps, c)
			c.Output, c.Error = nil, nil
			after = c.Seq
			n++
			return nil
		})
		if err != nil {
			return err
		}
	}
	attempts := make(map[int]engine.Attempts)
	rows, err := w.Pool.Query(ctx, w.q.AttemptHistory, in.Run)
	if err != nil {
		return err
	}
	var seq int
	var a engine.Attempts
	var left, since float64
	_, err = pgx.ForEachRow(rows, []any{&seq, &a.Last, &a.Failed, &left, &a.Details, &a.Sandbox, &since}, func() error {
		a.Wait, a.Began = max(seconds(left), 0), time.Now().Add(-seconds(since))
		attempts[seq] = a
		a.Details = nil
		return nil
	})
	if err != nil {
		return err
	}
	waits := make(map[int]engine.Wait)
	if rows, err = w.Pool.Query(ctx, w.q.WaitList, in.Run); err != nil {
		return err
	}
	var x engine.Wait
	_, err = pgx.ForEachRow(rows, []any{&x.Seq, &x.Key, &left, &x.Signal, &x.Child}, func() error {
		x.Left = seconds(left)
		waits[x.Seq] = x
		return nil
	})
	in.Steps, in.Attempts, in.Waits = steps, attempts, waits
	return err
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
