package worker

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"time"
	"weak"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/stepward/stepward/internal/engine"
)

// txPlaces has what openTxs returned, by weak.Pointer[pgxpool.Pool].
var txPlaces sync.Map

// openTxs returns the places for open transactions of steps on a pool, one less
// than its connections: before such a transaction commits, its turn writes
// through the pool what comes before. All workers of a pool share them, as each
// would fill the pool otherwise, and wait for the others' connections for ever. A
// place outlives its worker when a function does that ignores its context.
func openTxs(pool *pgxpool.Pool) chan struct{} {
	key := weak.Make(pool)
	places, ok := txPlaces.LoadOrStore(key, make(chan struct{}, pool.Config().MaxConns-1))
	if !ok {
		runtime.AddCleanup(pool, func(key weak.Pointer[pgxpool.Pool]) { txPlaces.Delete(key) }, key)
	}
	return places.(chan struct{})
}

// inTx runs the function of a step in a transaction and leaves that open.
func (h *host) inTx(ctx context.Context, a engine.Attempt, free func()) (engine.Outcome, error) {
	if err := take(ctx, h.w.txs); err != nil {
		free()
		return engine.Outcome{}, err
	}
	closed := sync.OnceFunc(func() { <-h.w.txs })
	tx, err := h.w.Pool.Begin(ctx)
	if err != nil {
		closed()
		free()
		return engine.Outcome{}, err
	}
	rollback := func(ctx context.Context) {
		defer closed()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if err := tx.Rollback(ctx); err != nil && !errors.Is(err, pgx.ErrTxClosed) {
			h.w.log.WarnContext(ctx, "a transaction was not rolled back; its connection is closed", "error", err)
		}
	}
	// The transaction is the function's until it returns, however late.
	out, err := h.inline(ctx, a.Key, free, func() (out []byte, err error) {
		done := false
		defer func() {
			if !done {
				rollback(ctx)
			}
		}()
		out, err = a.Step.CallTx(ctx, tx, a.Input)
		done = err == nil && ctx.Err() == nil
		if err == nil && !done {
			err = context.Cause(ctx)
		}
		return out, err
	})
	if err != nil {
		return engine.Outcome{}, err
	}
	return engine.Outcome{
		Output:   out,
		Commit:   func(ctx context.Context, c engine.Checkpoint) error { return h.commitTx(ctx, tx, rollback, closed, c) },
		Rollback: rollback,
	}, nil
}

// commitTx writes the checkpoint in the transaction of its step, fenced at the
// end, so that no lock on the run is held while the function runs.
func (h *host) commitTx(ctx context.Context, tx pgx.Tx, rollback func(context.Context), closed func(), c engine.Checkpoint) error {
	x, err := h.seal(ctx, engine.Batch{Checkpoints: []engine.Checkpoint{c}})
	if err != nil {
		rollback(ctx)
		return err
	}
	try, cancel := context.WithTimeout(ctx, max(h.w.lease.slack(), 0))
	defer cancel()
	n := 0
	err = untilUnlocked(try, func() error {
		rows, err := tx.Query(try, h.w.q.Commit, append(arguments([]write{x}), h.w.q.WatchChannel())...)
		if err != nil {
			return err
		}
		var run int64
		var canceled, notices bool
		var told *bool
		if _, err = pgx.ForEachRow(rows, []any{&run, &canceled, &notices, &n, &told}, func() error { return nil }); err == nil && n < 0 {
			n, err = 0, errLocked
		}
		return err
	})
	if err != nil || n != 1 {
		rollback(ctx)
		if err == nil {
			err = engine.ErrLeaseLost
		}
		return err
	}
	err = tx.Commit(try)
	closed()
	var refused *pgconn.PgError
	if err == nil || errors.As(err, &refused) || errors.Is(err, pgx.ErrTxCommitRollback) {
		return err
	}
	// The answer was lost. The transaction holds the run's row for as long as
	// it is undecided.
	committed := false
	lost := err
	err = h.w.retry(ctx, h.t, func(ctx context.Context) error {
		return pgx.BeginFunc(ctx, h.w.Pool, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, h.w.q.TurnLock, h.t.run); err != nil {
				return err
			}
			committed, err = h.w.outcome(ctx, tx, x)
			return err
		})
	})
	if err == nil && !committed {
		return lost
	}
	return err
}
