package enqueue_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/stepward/stepward/internal/db"
	"github.com/stepward/stepward/internal/enqueue"
	"github.com/stepward/stepward/internal/testenv"
)

func migrated(t testing.TB) (*pgxpool.Pool, *db.Queries) {
	t.Helper()
	pool, schema := testenv.Postgres(t)
	q, err := db.New(schema)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Migrate(t.Context(), pool, q, db.MigrateOptions{}); err != nil {
		t.Fatal(err)
	}
	return pool, q
}

// pausing is a transaction that stops after it wrote its first requirement.
type pausing struct {
	pgx.Tx
	q     *db.Queries
	once  sync.Once
	pause func()
}

func (p *pausing) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	tag, err := p.Tx.Exec(ctx, sql, args...)
	if sql == p.q.RequirementInsert {
		p.once.Do(p.pause)
	}
	return tag, err
}

// blocked reports whether the backend waits for a lock.
func blocked(t *testing.T, pool *pgxpool.Pool, pid uint32) bool {
	t.Helper()
	var n int
	if err := pool.QueryRow(t.Context(), "SELECT cardinality(pg_blocking_pids($1))", int32(pid)).Scan(&n); err != nil {
		t.Error(err)
	}
	return n > 0
}

// Two transactions that name the same unknown workflows in opposite order do
// not deadlock: both write the requirements in one order, so the second waits
// for the first before it holds anything.
func TestInsertOrdersRequirements(t *testing.T) {
	pool, q := migrated(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	a := enqueue.Item{Workflow: "a", Input: []byte("1")}
	b := enqueue.Item{Workflow: "b", Input: []byte("1")}

	first, err := pool.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	second, err := pool.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	firstWrote, secondWrote := make(chan struct{}), make(chan struct{})
	errs := make(chan error, 2)
	go func() {
		tx := &pausing{Tx: first, q: q, pause: func() {
			close(firstWrote)
			// Until the second holds a requirement too, or waits for this one.
			for tick := time.Tick(5 * time.Millisecond); ctx.Err() == nil && !blocked(t, pool, second.Conn().PgConn().PID()); {
				select {
				case <-secondWrote:
					return
				case <-tick:
				}
			}
		}}
		_, err := enqueue.Insert(ctx, tx, q, []enqueue.Item{a, b})
		if err == nil {
			err = first.Commit(ctx)
		}
		errs <- err
	}()
	go func() {
		<-firstWrote
		tx := &pausing{Tx: second, q: q, pause: func() { close(secondWrote) }}
		_, err := enqueue.Insert(ctx, tx, q, []enqueue.Item{b, a})
		if err == nil {
			err = second.Commit(ctx)
		}
		errs <- err
	}()
	for range 2 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	// After a failure one is still open: it must not hold up the clean-up.
	_ = first.Rollback(ctx)
	_ = second.Rollback(ctx)
	var requirements int
	if err := pool.QueryRow(ctx, "SELECT count(*) FROM "+q.Schema+".requirement").Scan(&requirements); err != nil || requirements != 2 {
		t.Errorf("%d requirements, %v; want one for each workflow", requirements, err)
	}
}
