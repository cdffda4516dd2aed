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

	"github.com/stepward/stepward/internal/testenv"
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

// A run does not end while it adds a child, and cancels one that nobody waits for
// any more when it has been added.
func TestChildAddedWhileEnding(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	a := &adding{added: make(chan struct{}), goOn: make(chan struct{})}
	goOn := sync.OnceFunc(func() { close(a.goOn) })
	cfg := parsePool(t, testenv.PostgresURL(t))
	cfg.ConnConfig.Tracer = a
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
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
	ends(t, run, 21)
	eventually(t, "the child is canceled", func() bool {
		return f.count("SELECT count(*) FROM stepward.run WHERE workflow = 'kid' AND state = 'canceled'") == 1
	})
	f.nothingLeft()
}
