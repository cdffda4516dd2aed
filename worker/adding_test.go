//go:build unix

package worker_test

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

// adding holds up a worker that has added a child, before it knows that.
type adding struct {
	conn        atomic.Pointer[pgx.Conn]
	added, goOn chan struct{}
}

func (a *adding) TraceQueryStart(ctx context.Context, conn *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	switch {
	case strings.HasPrefix(data.SQL, "/* stepward ChildInsert "):
		a.conn.Store(conn)
	case data.SQL == "commit":
		return context.WithValue(ctx, a, conn)
	}
	return ctx
}

func (a *adding) TraceQueryEnd(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryEndData) {
	if conn, ok := ctx.Value(a).(*pgx.Conn); ok && a.conn.CompareAndSwap(conn, nil) {
		close(a.added)
		<-a.goOn
	}
}

// held is a pool for a worker that is held up so, until goOn is called.
func (a *adding) held(t *testing.T) (pool *pgxpool.Pool, goOn func()) {
	a.added, a.goOn = make(chan struct{}), make(chan struct{})
	cfg := parsePool(t, databases.URL(t))
	cfg.ConnConfig.Tracer = a
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool, sync.OnceFunc(func() { close(a.goOn) })
}

// A run does not end while it adds a child, and cancels one that nobody waits for
// any more when it has been added.
func TestChildAddedWhileEnding(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	a := &adding{}
	pool, goOn := a.held(t)
	kid := workflow.DurableWorkflow[int, int]{Name: "kid"}
	until := workflow.NewStep("until", func(_ context.Context, n int) (int, error) {
		<-a.added
		return n, nil
	}, workflow.StepOptions{})
	f.start(worker.Config{Pool: pool, Workflows: []*workflow.Definition{
		workflow.Define(changing, func(ctx workflow.Context, n int) (int, error) {
			some, cancel := ctx.WithCancel()
			kid.Go(some, n)
			n, err := until.Run(ctx, n)
			cancel()
			return n, err
		}, workflow.Options{Steps: []workflow.Declared{until}}),
		workflow.Define(kid, func(ctx workflow.Context, n int) (int, error) {
			_, err := note.Receive(ctx, 0)
			return n, err
		}, workflow.Options{}),
	}})
	t.Cleanup(goOn) // before the worker is stopped
	run := f.enqueue(21)
	eventually(t, "the step is on record", func() bool { return f.count("SELECT count(*) FROM stepward.step WHERE key = 'until'") == 1 })
	if s := f.state(run.ID); !s.Finished.IsZero() {
		t.Errorf("it has ended: %v", s.State)
	}
	goOn()
	ends(t, f.client, run, 21)
	eventually(t, "the child is canceled", func() bool {
		return f.count("SELECT count(*) FROM stepward.run WHERE workflow = 'kid' AND state = 'canceled'") == 1
	})
	f.nothingLeft()
}

// A run that gives up a child while it is added, and goes on elsewhere before it
// has heard that it was, cancels it there, long before it ends itself.
func TestChildAddedUnheard(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	a := &adding{}
	pool, goOn := a.held(t)
	kid := workflow.DurableWorkflow[int, int]{Name: "kid"}
	until := workflow.NewStep("until", func(_ context.Context, n int) (int, error) {
		<-a.added
		return n, nil
	}, workflow.StepOptions{})
	cfg := worker.Config{MaxRuns: 1, Workflows: []*workflow.Definition{
		workflow.Define(changing, func(ctx workflow.Context, n int) (int, error) {
			some, cancel := ctx.WithCancel()
			kid.Go(some, n)
			if _, err := until.Run(ctx, n); err != nil {
				return 0, err
			}
			cancel()
			if _, err := until.Run(ctx, n); err != nil {
				return 0, err
			}
			_, err := note.Receive(ctx, 0)
			return n, err
		}, workflow.Options{Steps: []workflow.Declared{until}}),
		workflow.Define(kid, func(ctx workflow.Context, n int) (int, error) {
			_, err := note.Receive(ctx, 0)
			return n, err
		}, workflow.Options{}),
	}}
	cfg.Pool = pool
	f.start(cfg)
	t.Cleanup(goOn) // before the worker is stopped
	run := f.enqueue(21)
	eventually(t, "it has gone on without the child", func() bool { return f.count("SELECT count(*) FROM stepward.step WHERE key = 'until#2'") == 1 })
	f.exec("UPDATE stepward.run SET epoch = epoch + 1, session = NULL WHERE workflow <> 'kid'") // as a reaper does
	f.exec("DELETE FROM stepward.turn")
	f.exec("INSERT INTO stepward.ready (requirement_id, run_id) SELECT requirement_id, id FROM stepward.run WHERE workflow <> 'kid'")
	cfg.Pool = nil
	f.start(cfg)
	eventually(t, "the child is canceled", func() bool {
		return f.count("SELECT count(*) FROM stepward.run WHERE workflow = 'kid' AND state = 'canceled'") == 1
	})
	if s := f.state(run.ID); !s.Finished.IsZero() {
		t.Errorf("it has ended: %v", s.State)
	}
	if err := note.Send(t.Context(), f.client, run.ID, "go on"); err != nil {
		t.Fatal(err)
	}
	ends(t, f.client, run, 21)
	f.nothingLeft()
}
