package worker_test

import (
	"context"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/stepward/stepward/internal/testenv"
	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

// pause holds the first execution of a statement until it is released.
type pause struct {
	statement        string
	once             sync.Once
	reached, release chan struct{}
}

func (p *pause) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	if strings.HasPrefix(data.SQL, "/* stepward "+p.statement+" */") {
		p.once.Do(func() {
			close(p.reached)
			<-p.release
		})
	}
	return ctx
}

func (p *pause) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// A signal that is sent when the run has made up its mind to wait for it is not
// missed, whether it is there before the run's row is locked, or after the run
// was found to have nothing to do.
func TestSignalWhileParking(t *testing.T) {
	for _, at := range []string{"TurnLock", "TurnLeave"} {
		t.Run(at, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			p := &pause{statement: at, reached: make(chan struct{}), release: make(chan struct{})}
			cfg, err := pgxpool.ParseConfig(testenv.PostgresURL(t))
			if err != nil {
				t.Fatal(err)
			}
			cfg.ConnConfig.Tracer = p
			pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(pool.Close)
			f.start(worker.Config{Pool: pool, Workflows: []*workflow.Definition{defines(func(ctx workflow.Context, n int) (int, error) {
				_, err := note.Receive(ctx, 0)
				return n, err
			})}})
			run := f.enqueue(7)
			<-p.reached
			sent := make(chan error, 1)
			go func() { sent <- note.Send(t.Context(), f.client, run.ID, "x") }()
			if at == "TurnLock" {
				if err := <-sent; err != nil {
					t.Fatal(err)
				}
				close(p.release)
			} else {
				eventually(t, "the sender waits for the run's row", func() bool {
					return f.count("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '/* stepward RunLock%' AND query LIKE '%"+f.schema+"%'") == 1
				})
				close(p.release)
				if err := <-sent; err != nil {
					t.Fatal(err)
				}
			}
			ends(t, run, 7)
		})
	}
}
