package workflow_test

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/stepward/stepward/workflow"
)

// looksOf counts the statements that look for results.
type looksOf struct{ n atomic.Int64 }

func (l *looksOf) TraceQueryStart(ctx context.Context, _ *pgx.Conn, q pgx.TraceQueryStartData) context.Context {
	if strings.HasPrefix(q.SQL, "/* stepward RunResult ") {
		l.n.Add(1)
	}
	return ctx
}

func (*looksOf) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// inGroup waits until so many goroutines wait in a batch or for theirs.
func inGroup(n int) {
	buf := make([]byte, 16<<20)
	for {
		there := 0
		for _, stack := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
			if head, frames, _ := strings.Cut(stack, "\n"); strings.Contains(head, "[select") && strings.Contains(frames, "]).Do(") {
				there++
			}
		}
		if there >= n {
			return
		}
		runtime.Gosched()
	}
}

// Callers that wait for results while Postgres is busy share a statement, each
// gets the outcome of its own run, and one that gives up does not wait for it.
func TestResultsLookTogether(t *testing.T) {
	f := newFixture(t)
	var looks looksOf
	cfg := f.pool.Config()
	cfg.MaxConns, cfg.MinConns, cfg.ConnConfig.Tracer = 1, 0, &looks
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	client := f.newClient(pool)
	w := workflow.DurableWorkflow[int, int]{Name: "nobody"}
	const n = 50
	var runs []workflow.Run[int]
	for i := range n {
		run, err := w.Enqueue(t.Context(), client, i, workflow.EnqueueOptions{})
		if err != nil {
			t.Fatal(err)
		}
		runs = append(runs, run)
	}
	f.exec("UPDATE " + f.schema + ".run SET state = 'completed', output = input")
	conn, err := pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i, run := range runs {
		wg.Go(func() {
			if got, err := run.Result(t.Context()); err != nil || got != i {
				t.Errorf("run %d: %d, %v", i, got, err)
			}
		})
	}
	inGroup(n)
	gone := errors.New("gone")
	ctx, cancel := context.WithCancelCause(t.Context())
	gaveUp := make(chan error, 1)
	go func() { _, err := runs[0].Result(ctx); gaveUp <- err }()
	inGroup(n + 1)
	cancel(gone)
	if err := <-gaveUp; !errors.Is(err, gone) {
		t.Errorf("one that gave up got %v", err)
	}
	conn.Release()
	wg.Wait()
	if got := looks.n.Load(); got != 2 { // the first one alone, and all that came meanwhile
		t.Errorf("%d statements for %d results", got, n)
	}
}
