//go:build unix

package worker_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

// What a step wrote in its transaction and its checkpoint are there together, or
// neither is.
func TestTxStep(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.exec("CREATE TABLE stepward.account (balance int NOT NULL)")
	f.exec("INSERT INTO stepward.account VALUES (0)")
	var calls atomic.Int32
	pay := workflow.NewTxStep("pay", func(ctx context.Context, tx pgx.Tx, n int) (int, error) {
		if _, err := tx.Exec(ctx, f.sql("UPDATE stepward.account SET balance = balance + $1"), n); err != nil {
			return 0, err
		}
		switch calls.Add(1) {
		case 1: // what it wrote is undone
			return 0, errors.New("not yet")
		case 2: // another transaction is not
			if _, err := tx.Exec(ctx, "SELECT 1/0"); err == nil {
				return 0, errors.New("divided by zero")
			}
		}
		return n, nil
	}, workflow.StepOptions{Retry: workflow.Retry{Backoff: 1}})
	f.start(worker.Config{Workflows: []*workflow.Definition{defines(passes(double, pay, double), double, pay)}})
	ends(t, f.client, f.enqueue(5), 20)
	if n := f.count("SELECT balance FROM stepward.account"); n != 10 {
		t.Errorf("paid %d", n)
	}
	if n := calls.Load(); n != 3 {
		t.Errorf("executed %d times", n)
	}
}

// A function that ends its transaction fails its step, at once: a repetition would do
// again what it has committed.
func TestTxStepEndsItself(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.exec("CREATE TABLE stepward.account (balance int NOT NULL)")
	ways := []struct {
		end  func(context.Context, pgx.Tx) error
		want string
		left int // rows that nothing can undo
	}{
		{func(ctx context.Context, tx pgx.Tx) error { return tx.Commit(ctx) }, "committed with its checkpoint", 0},
		{func(ctx context.Context, tx pgx.Tx) error { return tx.Rollback(ctx) }, "has ended that", 0},
		{func(ctx context.Context, tx pgx.Tx) error { _, err := tx.Exec(ctx, "COMMIT"); return err }, "has ended that", 1},
	}
	pay := workflow.NewTxStep("pay", func(ctx context.Context, tx pgx.Tx, n int) (int, error) {
		if _, err := tx.Exec(ctx, f.sql("INSERT INTO stepward.account VALUES ($1)"), n); err != nil {
			return 0, err
		}
		return n, ways[n].end(ctx, tx)
	}, workflow.StepOptions{Retry: workflow.Retry{MaxAttempts: 2, Backoff: 1}})
	f.start(worker.Config{Workflows: []*workflow.Definition{defines(passes(pay), pay)}})
	for n, way := range ways {
		_, err := outcome(t, f.client, f.enqueue(n))
		if err == nil || !strings.Contains(err.Error(), way.want) {
			t.Errorf("%d: got %v", n, err)
		}
		if left := f.count("SELECT count(*) FROM stepward.account WHERE balance = $1", n); left != way.left {
			t.Errorf("%d: %d rows are left", n, left)
		}
	}
}

// The transaction of a worker that lost its lease meanwhile is rolled back.
func TestTxStepIsFenced(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.exec("CREATE TABLE stepward.account (balance int NOT NULL)")
	began, release := make(chan struct{}, 2), make(chan struct{})
	var calls atomic.Int32
	pay := workflow.NewTxStep("pay", func(ctx context.Context, tx pgx.Tx, n int) (int, error) {
		_, err := tx.Exec(ctx, f.sql("INSERT INTO stepward.account VALUES ($1)"), n)
		if calls.Add(1) == 1 {
			began <- struct{}{}
			<-release
		}
		return n, err
	}, workflow.StepOptions{})
	def := defines(passes(pay), pay)
	var health worker.Health
	f.start(worker.Config{Name: "first", Health: &health, LeaseTTL: 1 << 40, Workflows: []*workflow.Definition{def}})
	run := f.enqueue(5)
	arrives(t, began)
	f.expire("first")
	f.start(worker.Config{Name: "second", Workflows: []*workflow.Definition{def}})
	ends(t, f.client, run, 5)
	close(release)
	eventually(t, "the first worker's turn ends", func() bool { r, _ := health.Report(); return r.Runs == 0 })
	if n := f.count("SELECT count(*) FROM stepward.account"); n != 1 {
		t.Errorf("paid %d times", n)
	}
}

// A function that ignores the end of its worker does not keep that from ending, and
// what it wrote is rolled back.
func TestTxStepIgnoresTheEnd(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.exec("CREATE TABLE stepward.account (balance int NOT NULL)")
	began, release, returned := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	pay := workflow.NewTxStep("pay", func(ctx context.Context, tx pgx.Tx, n int) (int, error) {
		_, err := tx.Exec(ctx, f.sql("INSERT INTO stepward.account VALUES ($1)"), n)
		close(began)
		<-release
		returned <- tx.Conn().Ping(context.WithoutCancel(ctx)) // it is still its own
		return n, err
	}, workflow.StepOptions{})
	stop := f.start(worker.Config{DrainTimeout: 1, Workflows: []*workflow.Definition{defines(passes(pay), pay)}})
	run := f.enqueue(5)
	arrives(t, began)
	stop()
	close(release)
	if err := arrives(t, returned); err != nil {
		t.Error(err)
	}
	eventually(t, "no transaction is open", func() bool {
		return f.count("SELECT count(*) FROM pg_locks WHERE relation = 'stepward.account'::regclass AND mode = 'RowExclusiveLock'") == 0
	})
	if n, s := f.count("SELECT count(*) FROM stepward.account"), f.state(run.ID); n != 0 || s.State != workflow.StateRunning && s.State != workflow.StateReady {
		t.Errorf("paid %d times; %+v", n, s)
	}
}
