//go:build unix

package worker_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

// heldBy makes all runs that are ready those of a worker that is dead and has not
// been missed.
func (f *fixture) heldBy(session int64, name string) {
	f.t.Helper()
	f.exec("INSERT INTO stepward.worker (session, name, lease_until, lease_s, requirements, backends) VALUES ($1, $2, 'epoch', 10, '{}', '{}')", session, name)
	f.exec("UPDATE stepward.run SET session = $1, epoch = 1 WHERE id IN (SELECT run_id FROM stepward.ready)", session)
	f.exec("INSERT INTO stepward.turn (run_id, session, epoch) SELECT run_id, $1, 1 FROM stepward.ready", session)
	f.exec("DELETE FROM stepward.ready")
}

// lock begins a transaction of the application that sends a signal, and leaves it
// open: it holds the run's row.
func (f *fixture) lock(id workflow.RunID) pgx.Tx {
	f.t.Helper()
	tx := f.begin()
	if err := note.SendTx(f.t.Context(), f.client, tx, id, "held"); err != nil {
		f.t.Fatal(err)
	}
	return tx
}

func commits(t *testing.T, tx pgx.Tx) {
	t.Helper()
	if err := tx.Commit(context.WithoutCancel(t.Context())); err != nil {
		t.Fatal(err)
	}
}

// The runs of a dead worker are recovered beside one that a transaction of an
// application has locked, however long that is open.
func TestReapBesideLock(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	var runs []workflow.Run[int]
	for n := range 5 {
		runs = append(runs, f.enqueue(n))
	}
	f.heldBy(4711, "dead")
	tx := f.lock(runs[0].ID)
	f.start(worker.Config{Workflows: []*workflow.Definition{defines(passes(keep), keep)}})
	for n, run := range runs[1:] {
		ends(t, f.client, run, n+1)
	}
	if s := f.state(runs[0].ID); s.Turns != 1 {
		t.Errorf("the run is %+v", s)
	}
	commits(t, tx)
	ends(t, f.client, runs[0], 0)
}

// Notices reach the other runs beside one that is locked, and that one later.
// One for a run that was deleted is dropped.
func TestNoticesBesideLock(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	locked, other := f.enqueue(1), f.enqueue(2)
	f.exec("INSERT INTO stepward.notice (run_id, cancel) VALUES (1, true), ($1, true), ($2, true), ($1, false)", locked.ID, other.ID)
	tx := f.lock(locked.ID)
	f.start(worker.Config{Workflows: []*workflow.Definition{chainV1}}) // does not execute them
	eventually(t, "the other is canceled", func() bool { return f.state(other.ID).State == workflow.StateCanceled })
	eventually(t, "what is for the locked one is left", func() bool { return f.count("SELECT count(*) FROM stepward.notice") == 2 })
	commits(t, tx)
	eventually(t, "the locked one is canceled", func() bool { return f.state(locked.ID).State == workflow.StateCanceled })
	eventually(t, "no notice is left", func() bool { return f.count("SELECT count(*) FROM stepward.notice") == 0 })
}

// While a transaction of an application has a run locked, the others of the same
// worker go on to their end. What the run itself has done meanwhile is written
// when that transaction ends, by the same turn.
func TestCommitBesideLock(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	began, release := make(chan struct{}, 2), make(chan struct{})
	wait := func(n int) (int, error) {
		began <- struct{}{}
		<-release
		return n, nil
	}
	hold := workflow.NewStep("hold", func(_ context.Context, n int) (int, error) { return wait(n) }, workflow.StepOptions{})
	holdTx := workflow.NewTxStep("hold-tx", func(_ context.Context, _ pgx.Tx, n int) (int, error) { return wait(n) }, workflow.StepOptions{})
	slow := workflow.DurableWorkflow[int, int]{Name: "slow"}
	pool, err := pgxpool.NewWithConfig(t.Context(), parsePool(t, databases.URL(t))) // the test's own is not for all
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	f.start(worker.Config{Pool: pool, Workflows: []*workflow.Definition{chainV1, workflow.Define(slow, func(ctx workflow.Context, n int) (int, error) {
		if n == 1 {
			return hold.Run(ctx, n)
		}
		return holdTx.Run(ctx, n)
	}, workflow.Options{Steps: []workflow.Declared{hold, holdTx}})}})
	locked := make(map[int]workflow.Run[int])
	for n := 1; n <= 2; n++ {
		run, err := slow.Enqueue(t.Context(), f.client, n, workflow.EnqueueOptions{})
		if err != nil {
			t.Fatal(err)
		}
		locked[n] = run
		arrives(t, began)
	}
	txs := []pgx.Tx{f.lock(locked[1].ID), f.lock(locked[2].ID)}
	close(release)
	for range 5 {
		run, err := chain.Enqueue(t.Context(), f.client, 10, workflow.EnqueueOptions{})
		if err != nil {
			t.Fatal(err)
		}
		ends(t, f.client, run, 1024)
	}
	for n, run := range locked {
		if steps := f.count("SELECT count(*) FROM stepward.step WHERE run_id = $1", run.ID); steps != 0 {
			t.Errorf("run %d has %d steps on record", n, steps)
		}
	}
	for _, tx := range txs {
		commits(t, tx)
	}
	for n, run := range locked {
		ends(t, f.client, run, n)
		if s := f.state(run.ID); s.Turns != 1 {
			t.Errorf("run %d took %d turns", n, s.Turns)
		}
	}
}

// sent counts the executions of a statement that have begun.
type sent struct {
	statement string
	n         atomic.Int32
}

func (s *sent) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	if strings.HasPrefix(data.SQL, "/* stepward "+s.statement+" */") {
		s.n.Add(1)
	}
	return ctx
}

func (s *sent) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// Runs that a transaction of the application has locked, as many as the worker's pool
// has connections, want to leave or to start a child. Others go on, and those do when
// the transactions end.
func TestLeaveBesideLocks(t *testing.T) {
	other := workflow.NewSignal[int]("other")
	part := workflow.DurableWorkflow[int, int]{Name: "part"}
	partV1 := workflow.Define(part, passes(), workflow.Options{})
	for name, test := range map[string]struct {
		statement string
		body      func(workflow.Context, int) (int, error)
		waits     bool // the body has begun to wait before the run is locked
		state     workflow.State
	}{
		"park": {"TurnLeave", passes(gate), false, workflow.StateParked},
		"wait": {"TurnLeave", func(ctx workflow.Context, _ int) (int, error) { return other.Receive(ctx, 0) }, true, workflow.StateWaiting},
		"renew": {"TurnRenew", func(_ workflow.Context, n int) (int, error) {
			if n > 0 {
				return 0, changing.ContinueAsNew(0)
			}
			return 0, nil
		}, false, workflow.StateCompleted},
		"child": {"TurnLock", part.Run, false, workflow.StateCompleted},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			s := &sent{statement: test.statement}
			cfg := parsePool(t, databases.URL(t))
			cfg.MaxConns, cfg.ConnConfig.Tracer = 3, s
			pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(pool.Close)
			began, release := make(chan struct{}, 10), make(chan struct{})
			f.start(worker.Config{Pool: pool, Workflows: []*workflow.Definition{chainV1, partV1, defines(func(ctx workflow.Context, n int) (int, error) {
				began <- struct{}{}
				if !test.waits {
					<-release
				}
				return test.body(ctx, n)
			})}})
			var runs []workflow.Run[int]
			var txs []pgx.Tx
			for range cfg.MaxConns {
				runs = append(runs, f.enqueue(1))
				arrives(t, began)
			}
			eventually(t, "those wait that shall", func() bool {
				return !test.waits || f.count("SELECT count(*) FROM stepward.wait") == len(runs)
			})
			for _, run := range runs {
				txs = append(txs, f.lock(run.ID))
			}
			close(release)
			eventually(t, "all want to leave", func() bool { return int(s.n.Load()) >= len(runs) })
			run, err := chain.Enqueue(t.Context(), f.client, 10, workflow.EnqueueOptions{})
			if err != nil {
				t.Fatal(err)
			}
			ends(t, f.client, run, 1024)
			for _, tx := range txs {
				commits(t, tx)
			}
			for _, run := range runs {
				eventually(t, "it does what it wanted", func() bool { return f.state(run.ID).State == test.state })
			}
		})
	}
}
