package worker

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/stepward/stepward/internal/enqueue"
	"github.com/stepward/stepward/internal/tick"
)

// Bounds of what is done for schedules before the rest of the maintenance has
// its turn.
const (
	schedulesPerTx = 50
	ticksPerPass   = 20 // transactions
)

// tick enqueues what schedules say, and returns when one of those that it saw is
// due again; nil when none is. A schedule that cannot be served says so, and
// keeps no other one from being served.
func (w *worker) tick(ctx context.Context) (next *time.Duration, err error) {
	limit := schedulesPerTx
	var unserved []string
	var errs []error
	for range ticksPerPass {
		done, err := w.tickSome(ctx, limit, unserved)
		var refused *pgconn.PgError
		switch {
		case errors.As(err, &refused) && len(done) > 1:
			limit = 1 // which of them was it?
			continue
		case errors.As(err, &refused) && len(done) == 1:
			done[0].Problem = err.Error()
		case err != nil || len(done) == 0:
			return next, errors.Join(append(errs, err)...)
		}
		for _, d := range done {
			if d.Next > 0 && (next == nil || d.Next < *next) {
				next = new(d.Next)
			}
			w.tel.ticked(ctx, d)
			if d.Problem != "" {
				unserved = append(unserved, d.Name)
				errs = append(errs, w.unserved(ctx, d))
			}
			if d.Skipped+d.Missed > 0 {
				w.log.InfoContext(ctx, "ticks were left out", "schedule", d.Name, "overlap", d.Skipped, "too_late", d.Missed)
			}
		}
	}
	return new(time.Nanosecond), errors.Join(errs...) // there may be more
}

// tickSome serves some schedules in one transaction. After an error it still
// returns their names.
func (w *worker) tickSome(ctx context.Context, limit int, except []string) (done []tick.Done, err error) {
	ctx, cancel := context.WithTimeout(ctx, maintenanceTimeout)
	defer cancel()
	err = pgx.BeginFunc(ctx, w.Pool, func(tx pgx.Tx) error {
		rows, err := tick.Due(ctx, tx, w.q, limit, except)
		if err != nil || len(rows) == 0 {
			return err
		}
		for _, r := range rows {
			done = append(done, tick.Done{Name: r.Name})
		}
		served, results, err := tick.Run(ctx, tx, w.q, rows, w.actor())
		if err != nil {
			return err
		}
		done = served
		if ticket, ok := enqueue.Announcement(results); ok {
			_, err = w.river.InsertTx(ctx, tx, ticket, nil)
		}
		return err
	})
	if err == nil && len(done) > 0 {
		w.wake()
		w.notify()
	}
	return done, err
}

// unserved writes down why a schedule enqueues nothing. It is tried again at
// the next look.
func (w *worker) unserved(ctx context.Context, d tick.Done) error {
	ctx, cancel := context.WithTimeout(ctx, maintenanceTimeout)
	defer cancel()
	tag, err := w.Pool.Exec(ctx, w.q.ScheduleProblem, d.Name, d.Problem)
	if err == nil && tag.RowsAffected() > 0 {
		w.log.ErrorContext(ctx, "a schedule enqueues nothing", "schedule", d.Name, "error", d.Problem)
	}
	return err
}
