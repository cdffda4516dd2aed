//go:build unix

package worker_test

import (
	"context"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

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
// missed: be it there before TurnLeave begins, between its snapshot and its lock on the
// run's row, or after the run was found to have nothing to do.
func TestSignalWhileParking(t *testing.T) {
	for at, held := range map[string]string{
		"before": "",
		"between": `ALTER TABLE stepward.run RENAME TO run_row;
			CREATE FUNCTION stepward.hold(statement text) RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$ BEGIN
				IF statement LIKE '/* stepward TurnLeave */%' THEN PERFORM pg_advisory_xact_lock_shared(hashtext('stepward.')); END IF; RETURN true; END $$;
			CREATE VIEW stepward.run AS SELECT * FROM stepward.run_row WHERE stepward.hold(current_query())`,
		"after": `ALTER FUNCTION stepward.arrived RENAME TO arrived_before;
			CREATE FUNCTION stepward.arrived(run bigint) RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$ DECLARE yes boolean := stepward.arrived_before(run); BEGIN
				PERFORM pg_advisory_xact_lock_shared(hashtext('stepward.')); RETURN yes; END $$`,
	} {
		t.Run(at, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			p := &pause{statement: "TurnLeave", reached: make(chan struct{}), release: make(chan struct{})}
			cfg := parsePool(t, databases.URL(t))
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
			arrives(t, p.reached)
			send := func() error { return note.Send(t.Context(), f.client, run.ID, "x") }
			if at == "before" {
				if err := send(); err != nil {
					t.Fatal(err)
				}
				close(p.release)
				ends(t, f.client, run, 7)
				return
			}
			f.exec(held)
			lock := f.begin()
			if _, err := lock.Exec(t.Context(), f.sql("SELECT pg_advisory_xact_lock(hashtext('stepward.'))")); err != nil {
				t.Fatal(err)
			}
			waits := func(event, statement string) func() bool {
				return func() bool {
					return f.count("SELECT count(*) FROM pg_stat_activity WHERE wait_event = $1 AND query LIKE '/* stepward '||$2||' */%'||$3||'%'", event, statement, f.schema) == 1
				}
			}
			close(p.release)
			eventually(t, "the turn is leaving", waits("advisory", "TurnLeave"))
			sent := make(chan error, 1)
			go func() { sent <- send() }()
			if at == "after" {
				eventually(t, "the sender waits for the run's row", waits("transactionid", "RunLock"))
			} else if err := arrives(t, sent); err != nil {
				t.Fatal(err)
			}
			commits(t, lock)
			if at == "after" {
				if err := arrives(t, sent); err != nil {
					t.Fatal(err)
				}
			}
			ends(t, f.client, run, 7)
		})
	}
}
