package worker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/stepward/stepward/internal/engine"
	"github.com/stepward/stepward/internal/payload"
	"github.com/stepward/stepward/workflow"
)

// openTxPool makes the pool of the transactions that steps keep open: as large as
// that of the configuration and apart from it, as before such a transaction commits,
// its turn writes what comes before. It connects when a step begins, and not at all
// for definitions without such a step.
func (w *worker) openTxPool() (err error) {
	needed := false
	for _, d := range w.defs {
		needed = needed || slices.ContainsFunc(d.Steps, func(s *engine.Step) bool { return s.CallTx != nil })
	}
	if !needed {
		return nil
	}
	cfg := w.Pool.Config()
	cfg.MinConns, cfg.MinIdleConns, cfg.MaxConnIdleTime = 0, 0, min(cfg.MaxConnIdleTime, time.Minute)
	w.txs, err = pgxpool.NewWithConfig(context.Background(), cfg)
	return err
}

// closeTxPool waits for no function that ignores its context: the transaction of such
// a one is rolled back when it returns.
func (w *worker) closeTxPool() {
	if w.txs == nil {
		return
	}
	closed := make(chan struct{})
	go func() {
		w.txs.Close()
		close(closed)
	}()
	late := time.NewTimer(engine.Leniency)
	defer late.Stop()
	select {
	case <-closed:
	case <-late.C:
	}
}

// inTx runs the function of a step in a transaction and leaves that open.
func (h *host) inTx(ctx context.Context, a engine.Attempt, free func()) (engine.Outcome, error) {
	tx, err := h.w.txs.Begin(ctx)
	if err != nil {
		free()
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return engine.Outcome{}, err
	}
	rollback := func(ctx context.Context) {
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
		given := &givenTx{Tx: tx}
		if out, err = a.Step.CallTx(ctx, given, a.Input); err == nil && given.ended() {
			err = workflow.Permanent(errTxEnded)
		}
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
		Commit:   func(ctx context.Context, c engine.Checkpoint) error { return h.commitTx(ctx, tx, rollback, c) },
		Rollback: rollback,
	}, nil
}

// A givenTx is a transaction as the function of a step has it, whose end is that of
// the step: what would be committed before cannot be undone with it.
type givenTx struct {
	pgx.Tx
	rolledBack bool
}

var (
	errTxCommit = errors.New("worker: a step's transaction is committed with its checkpoint, and not by its function")
	errTxEnded  = errors.New("worker: the function of a step in a transaction has ended that: what it wrote before is no part of the step")
)

func (t *givenTx) Commit(context.Context) error { return errTxCommit }

func (t *givenTx) Rollback(ctx context.Context) error {
	t.rolledBack = true
	return t.Tx.Rollback(ctx)
}

// ended reports whether the function has ended the transaction, as by a COMMIT of its own.
func (t *givenTx) ended() bool { return t.rolledBack || t.Conn().PgConn().TxStatus() == 'I' }

// commitTx writes the checkpoint in the transaction of its step, fenced at the
// end, so that no lock on the run is held while the function runs.
func (h *host) commitTx(ctx context.Context, tx pgx.Tx, rollback func(context.Context), c engine.Checkpoint) error {
	x, err := h.seal(ctx, engine.Batch{Checkpoints: []engine.Checkpoint{c}})
	if err != nil {
		rollback(ctx)
		return err
	}
	try, cancel := context.WithTimeout(ctx, max(h.w.lease.slack(), 0))
	defer cancel()
	n := 0
	err = untilUnlocked(try, func() error {
		rows, err := tx.Query(try, h.w.q.Commit, arguments([]write{x}, h.w.q.WatchChannel())...)
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
		switch {
		case err == nil:
			err = engine.ErrLeaseLost
		case payload.Swept(err):
			err = fmt.Errorf("%w: %w", engine.ErrHandBack, err)
		}
		return err
	}
	err = tx.Commit(try)
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
