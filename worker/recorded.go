package worker

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stepward/stepward/internal/engine"
)

// historyDefault is how many bytes of results a turn reads when it begins. What
// a longer history has beyond, it reads in pages of a quarter as many bytes, while
// the body is replayed.
const historyDefault = 16 << 20

// pageOfSteps is how many checkpoints a statement reads at most.
const pageOfSteps = 1000

// history reads what earlier turns left behind: checkpoints, a page at a time,
// attempts and waits.
func (w *worker) history(ctx context.Context, t *heldTurn, in *engine.Turn) error {
	var steps []engine.Checkpoint
	room := w.Config.history
	for after, n := -1, w.page; n == w.page; {
		statement := w.q.StepHistory
		if room < 0 {
			statement = w.q.StepSizes
		}
		rows, err := w.Pool.Query(ctx, statement, in.Run, after, w.page)
		if err != nil {
			return err
		}
		var c engine.Checkpoint
		var hash int64
		into := []any{&c.Seq, &c.Done, &c.Key, &c.Attempt, &hash, &c.Output, &c.Error}
		if room < 0 {
			into = append(into[:5], &c.Apart)
		}
		n = 0
		_, err = pgx.ForEachRow(rows, into, func() error {
			c.InputHash = uint64(hash)
			size := len(c.Output) + len(c.Error)
			if room -= size; room < 0 && size > 0 {
				c.Apart, c.Output, c.Error = size, nil, nil
			}
			steps = append(steps, c)
			c.Apart, c.Output, c.Error = 0, nil, nil
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
	_, err = pgx.ForEachRow(rows, []any{&seq, &a.Key, &a.Last, &a.Failed, &left, &a.Details, &a.Sandbox, &since}, func() error {
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
	var until *float64
	_, err = pgx.ForEachRow(rows, []any{&x.Seq, &x.Key, &until, &x.Signal, &x.Child}, func() error {
		if x.Left = engine.Never; until != nil {
			x.Left = seconds(*until)
		}
		waits[x.Seq] = x
		return nil
	})
	if err == nil && len(steps) >= w.page { // read by more than one statement: not a part of each of two turns' results
		err = w.stillHeld(ctx, t)
	}
	in.Steps, in.Attempts, in.Waits = steps, attempts, waits
	return err
}

// stillHeld returns engine.ErrLeaseLost if a run is another turn's.
func (w *worker) stillHeld(ctx context.Context, t *heldTurn) error {
	var held bool
	err := w.Pool.QueryRow(ctx, w.q.TurnHeld, t.run, t.epoch, t.session).Scan(&held)
	if err == nil && !held {
		err = engine.ErrLeaseLost
	}
	return err
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// fetch implements engine.Turn.Fetch.
func (h *host) fetch(ctx context.Context, next []*engine.Checkpoint) error {
	apart := make(map[int]*engine.Checkpoint)
	var seqs []int
	left := h.w.Config.history / 4
	for _, c := range next {
		if c.Apart == 0 {
			continue
		}
		if left -= c.Apart; left < 0 && len(seqs) > 0 {
			break
		}
		apart[c.Seq], seqs = c, append(seqs, c.Seq)
		if len(seqs) == h.w.page {
			break
		}
	}
	return h.w.retry(ctx, h.t, func(ctx context.Context) error {
		rows, err := h.w.Pool.Query(ctx, h.w.q.StepResults, h.t.run, h.t.epoch, h.t.session, seqs)
		if err != nil {
			return err
		}
		var seq, n int
		var output, failure []byte
		_, err = pgx.ForEachRow(rows, []any{&seq, &output, &failure}, func() error {
			c := apart[seq]
			c.Output, c.Error, c.Apart = output, failure, 0
			output, failure = nil, nil
			n++
			return nil
		})
		if err == nil && n < len(seqs) {
			err = engine.ErrLeaseLost
		}
		return err
	})
}
