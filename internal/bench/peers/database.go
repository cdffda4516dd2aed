package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/stepward/stepward/internal/bench/measure"
)

// What all systems have alike.
const (
	conns   = 20  // of the pool, which client and worker share
	workers = 100 // runs or jobs at once, where there is a limit
)

// A database is one system's, in the server that all share.
type database struct {
	name   string
	config *pgxpool.Config
	log    *slog.Logger
	fail   context.CancelCauseFunc // of what is being done

	statements atomic.Int64
}

// newDatabase makes an empty one. Its name is of this process.
func newDatabase(ctx context.Context, c *measure.Cluster, name string, log *slog.Logger) (*database, error) {
	d := &database{name: fmt.Sprintf("peers_%d_%s", os.Getpid(), strings.ReplaceAll(name, "-", "_")), log: log}
	if _, err := c.Pool.Exec(ctx, "CREATE DATABASE "+d.name); err != nil {
		return nil, err
	}
	cfg, err := pgxpool.ParseConfig(c.URL)
	if err != nil {
		return nil, err
	}
	cfg.ConnConfig.Database = d.name
	cfg.ConnConfig.Tracer = counter{&d.statements}
	cfg.MaxConns = conns
	d.config = cfg
	return d, nil
}

func (d *database) pool(ctx context.Context) (*pgxpool.Pool, error) {
	return pgxpool.NewWithConfig(ctx, d.config.Copy())
}

// counter counts statements, each of a batch for itself, and without those that
// begin and end transactions.
type counter struct{ n *atomic.Int64 }

func (c counter) count(sql string) {
	if word, _, _ := strings.Cut(strings.ToLower(strings.TrimSpace(sql)), " "); word != "begin" && word != "commit" && word != "rollback" {
		c.n.Add(1)
	}
}

// TraceQueryStart implements pgx.QueryTracer.
func (c counter) TraceQueryStart(ctx context.Context, _ *pgx.Conn, q pgx.TraceQueryStartData) context.Context {
	c.count(q.SQL)
	return ctx
}

// TraceQueryEnd implements pgx.QueryTracer.
func (counter) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// TraceBatchStart implements pgx.BatchTracer.
func (counter) TraceBatchStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchStartData) context.Context {
	return ctx
}

// TraceBatchQuery implements pgx.BatchTracer.
func (c counter) TraceBatchQuery(_ context.Context, _ *pgx.Conn, q pgx.TraceBatchQueryData) {
	c.count(q.SQL)
}

// TraceBatchEnd implements pgx.BatchTracer.
func (counter) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData) {}

// TraceCopyFromStart implements pgx.CopyFromTracer.
func (c counter) TraceCopyFromStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceCopyFromStartData) context.Context {
	c.n.Add(1)
	return ctx
}

// TraceCopyFromEnd implements pgx.CopyFromTracer.
func (counter) TraceCopyFromEnd(context.Context, *pgx.Conn, pgx.TraceCopyFromEndData) {}

// A tally is what a database has seen so far.
type tally struct {
	statements, commits float64
	mark                measure.Mark
}

// tally waits until nobody is connected: a backend reports at its end.
func (d *database) tally(ctx context.Context, c *measure.Cluster) (t tally, err error) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for there := -1; there != 0; {
		if err := c.Pool.QueryRow(ctx, "SELECT count(*) FROM pg_stat_activity WHERE datname = $1", d.name).Scan(&there); err != nil {
			return t, err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return t, fmt.Errorf("%d connections to %s stay: %w", there, d.name, context.Cause(ctx))
		}
	}
	t.statements = float64(d.statements.Load())
	if err := c.Pool.QueryRow(ctx, "SELECT xact_commit::float8 FROM pg_stat_database WHERE datname = $1", d.name).Scan(&t.commits); err != nil {
		return t, err
	}
	t.mark, err = c.Mark(ctx)
	return t, err
}
