package workflow

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stepward/stepward/internal/tick"
)

// Pause stops the schedule until Resume. Its runs go on; a tick that is due but
// not yet enqueued is left out. Pausing twice is no error.
func (s Schedule) Pause(ctx context.Context) error {
	return s.locked(ctx, "pause", func(tx pgx.Tx, _ tick.Row) error {
		_, err := tx.Exec(ctx, s.client.q.SchedulePause, s.Name)
		return err
	})
}

// Resume lets a paused schedule go on with its next tick. Those of the time
// between are left out; see [Schedule.Backfill].
func (s Schedule) Resume(ctx context.Context) error {
	return s.locked(ctx, "resume", func(tx pgx.Tx, row tick.Row) error {
		t, err := row.Timetable()
		if err != nil {
			return err
		}
		next, due := t.Start(s.Name, row.Now)
		_, err = tx.Exec(ctx, s.client.q.ScheduleResume, s.Name, next, due)
		return err
	})
}

// Delete ends the schedule. Its runs go on.
func (s Schedule) Delete(ctx context.Context) error {
	return s.locked(ctx, "delete", func(tx pgx.Tx, _ tick.Row) error {
		_, err := tx.Exec(ctx, s.client.q.ScheduleDelete, s.Name)
		return err
	})
}

// Trigger adds a run now, whatever Overlap says and also of a schedule that is
// paused. For later ticks it is a run like those of earlier ones. Its tick is
// the present.
func (s Schedule) Trigger(ctx context.Context) (id RunID, err error) {
	err = s.locked(ctx, "trigger", func(tx pgx.Tx, row tick.Row) error {
		results, err := tick.Trigger(ctx, tx, s.client.q, row, "client")
		if err != nil {
			return err
		}
		id = RunID(results[0].Run)
		return s.client.announceAll(ctx, tx, results)
	})
	return id, err
}

// maxBackfill bounds the ticks of one Backfill.
const maxBackfill = 10_000

// Backfill adds a run for each tick of a time that is past, both ends included,
// that has none: all at once, whatever Overlap says, also of a schedule that is
// paused. It returns how many. A tick that has a run keeps that, so a Backfill
// that failed may be repeated. An *[OptionError] reports a time without a
// beginning, one that ends before that, or one of more than 10,000 ticks.
func (s Schedule) Backfill(ctx context.Context, from, to time.Time) (added int, err error) {
	span := from.Format(time.RFC3339) + " to " + to.Format(time.RFC3339)
	if from.IsZero() || to.Before(from) {
		return 0, &OptionError{Option: "Backfill", Reason: span + ": want a beginning, and an end that is not before it"}
	}
	var ticks []time.Time
	err = s.locked(ctx, "backfill", func(tx pgx.Tx, row tick.Row) error {
		t, err := row.Timetable()
		if err != nil {
			return err
		}
		if to.After(row.Now) {
			to = row.Now
		}
		for at := t.Next(from.Add(-time.Nanosecond)); !at.IsZero() && !at.After(to); at = t.Next(at) {
			if ticks = append(ticks, at); len(ticks) > maxBackfill {
				return &OptionError{Option: "Backfill", Reason: fmt.Sprintf("%s has more than %d ticks", span, maxBackfill)}
			}
		}
		return nil
	})
	const page = 200
	for err == nil && len(ticks) > 0 {
		some := ticks[:min(page, len(ticks))]
		n := 0
		err = s.locked(ctx, "backfill", func(tx pgx.Tx, row tick.Row) error {
			results, err := tick.Backfill(ctx, tx, s.client.q, row, some, "client")
			if err != nil {
				return err
			}
			for _, r := range results {
				if r.Err == nil && !r.Existing {
					n++
				}
			}
			return s.client.announceAll(ctx, tx, results)
		})
		if err == nil {
			added += n
			ticks = ticks[len(some):]
		}
	}
	return added, err
}

// locked runs f in a transaction that holds the schedule's row.
func (s Schedule) locked(ctx context.Context, verb string, f func(pgx.Tx, tick.Row) error) error {
	found := false
	if s.client == nil || !validName.MatchString(s.Name) { // nor can Postgres be asked for every text
		return s.missing()
	}
	err := pgx.BeginFunc(ctx, s.client.pool, func(tx pgx.Tx) error {
		row, ok, err := tick.Lock(ctx, tx, s.client.q, s.Name)
		if found = ok; err != nil || !ok {
			return err
		}
		return f(tx, row)
	})
	if err == nil && !found {
		return s.missing()
	}
	if err != nil {
		return fmt.Errorf("workflow: %s schedule %s: %w", verb, s.Name, s.client.explain(ctx, err))
	}
	return nil
}
