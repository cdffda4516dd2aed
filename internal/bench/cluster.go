package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/stepward/stepward/internal/devdb"
	"github.com/stepward/stepward/workflow"
)

// cluster is the Postgres that is measured.
type cluster struct {
	url, source string
	own         bool // nobody else uses it, and its settings may be changed
	settings    map[string]string
	pool        *pgxpool.Pool // of the measuring itself
	close       func()
	schemas     atomic.Int64
}

// openCluster starts a server, or takes that of DATABASE_URL as it is, unless
// other ways are given.
func openCluster(ctx context.Context, fsync bool, ways []devdb.Way) (_ *cluster, err error) {
	dir := filepath.Join("/tmp", fmt.Sprintf("stepward-bench-%d", os.Getpid())) // short: it holds a socket
	sync := "fsync=off"
	if fsync {
		sync = "fsync=on"
	}
	// On the server's command line: what is there outranks ALTER SYSTEM.
	db, err := devdb.Open(ctx, devdb.Config{Ways: ways, Dir: dir, Settings: []string{"checkpoint_timeout=1h", "max_wal_size=8GB", sync}})
	if err != nil {
		return nil, err
	}
	c := &cluster{url: db.URL, source: db.Source, own: db.Way != devdb.WayURL}
	c.close = func() {
		if c.pool != nil {
			c.pool.Close()
		}
		db.Close()
		removeWhenGone(dir)
	}
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	cfg, err := pgxpool.ParseConfig(db.URL)
	if err != nil {
		return nil, err
	}
	cfg.MaxConns = 4
	if c.pool, err = pgxpool.NewWithConfig(ctx, cfg); err != nil {
		return nil, err
	}
	return c, c.readSettings(ctx)
}

// removeWhenGone removes the folder of the server after the server itself, which
// ends by itself once nobody holds it.
func removeWhenGone(dir string) {
	for range 500 {
		if left, err := filepath.Glob(filepath.Join(dir, "c-*")); err != nil || len(left) == 0 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	os.RemoveAll(dir)
}

// set changes settings of the throw-away server. Others are left as they are.
func (c *cluster) set(ctx context.Context, settings ...string) error {
	if !c.own {
		return nil
	}
	for _, s := range settings {
		if _, err := c.pool.Exec(ctx, "ALTER SYSTEM SET "+s); err != nil {
			return err
		}
	}
	if _, err := c.pool.Exec(ctx, "SELECT pg_reload_conf()"); err != nil {
		return err
	}
	// The reload is a signal to the server's main process: wait until a new
	// backend, which inherits from it, shows the last of the settings.
	name, want, _ := strings.Cut(settings[len(settings)-1], " = ")
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		got, err := c.fresh(ctx, name)
		if err != nil {
			return fmt.Errorf("wait for the reload: %w", err)
		}
		if got == strings.Trim(want, "'") {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("setting %s stays %s: %w", name, got, ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (c *cluster) fresh(ctx context.Context, setting string) (value string, err error) {
	conn, err := pgx.Connect(ctx, c.url)
	if err != nil {
		return "", err
	}
	defer conn.Close(ctx)
	err = conn.QueryRow(ctx, "SELECT current_setting($1)", setting).Scan(&value)
	return value, err
}

func (c *cluster) readSettings(ctx context.Context) error {
	c.settings = map[string]string{}
	rows, err := c.pool.Query(ctx, `SELECT name, current_setting(name) FROM pg_settings WHERE name IN
		('fsync', 'synchronous_commit', 'full_page_writes', 'wal_level', 'wal_compression', 'data_checksums', 'shared_buffers', 'commit_delay')`)
	if err != nil {
		return err
	}
	var name, value string
	_, err = pgx.ForEachRow(rows, []any{&name, &value}, func() error { c.settings[name] = value; return nil })
	return err
}

// newPool is one application's pool; name is how the server knows it. The
// tracer may be nil.
func (c *cluster) newPool(ctx context.Context, conns int32, name string, tracer pgx.QueryTracer) (*pgxpool.Pool, error) {
	cfg, err := pgxpool.ParseConfig(c.url)
	if err != nil {
		return nil, err
	}
	cfg.MaxConns, cfg.MinConns = conns, min(conns, 4)
	cfg.ConnConfig.Tracer = tracer
	cfg.ConnConfig.RuntimeParams["application_name"] = name
	return pgxpool.NewWithConfig(ctx, cfg)
}

// newSchema makes a migrated schema, and returns what removes it.
func (c *cluster) newSchema(ctx context.Context) (schema string, drop func(), err error) {
	schema = fmt.Sprintf("bench_%d_%d", os.Getpid(), c.schemas.Add(1))
	if err := workflow.Migrate(ctx, c.pool, workflow.MigrateOptions{Schema: schema}); err != nil {
		return "", nil, err
	}
	return schema, func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		defer cancel()
		_, err := c.pool.Exec(ctx, "DROP SCHEMA "+schema+" CASCADE; DROP SCHEMA "+schema+"_river CASCADE")
		if err != nil && !errors.Is(err, context.Canceled) {
			fmt.Fprintln(os.Stderr, "bench: drop schema:", err)
		}
	}, nil
}

// mark is a point in the server's life.
type mark struct {
	xid uint64
	lsn int64
	at  time.Time
}

func (c *cluster) mark(ctx context.Context) (mark, error) {
	m := mark{at: time.Now()}
	err := c.pool.QueryRow(ctx, `SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint, (pg_current_wal_insert_lsn() - '0/0')::bigint`).Scan(&m.xid, &m.lsn)
	return m, err
}

// cost is what something wrote.
type cost struct {
	xacts, bytes float64
	elapsed      time.Duration
	from, to     mark
}

func (m mark) to(n mark) cost {
	return cost{xacts: float64(n.xid - m.xid), bytes: float64(n.lsn - m.lsn), elapsed: n.at.Sub(m.at), from: m, to: n}
}

// idleTime is how long an idle worker is looked at, at least. What it does, it
// does every few seconds.
const idleTime = 6 * time.Second

// measure returns what f wrote, less what the same time costs without it.
func (c *cluster) measure(ctx context.Context, f func() error) (cost, error) {
	if _, err := c.pool.Exec(ctx, "CHECKPOINT"); err != nil {
		return cost{}, err
	}
	start, err := c.mark(ctx)
	if err != nil {
		return cost{}, err
	}
	if err := f(); err != nil {
		return cost{}, err
	}
	end, err := c.mark(ctx)
	if err != nil {
		return cost{}, err
	}
	x := start.to(end)
	select {
	case <-ctx.Done():
		return cost{}, ctx.Err()
	case <-time.After(max(x.elapsed, idleTime)):
	}
	after, err := c.mark(ctx)
	if err != nil {
		return cost{}, err
	}
	idle := end.to(after)
	share := x.elapsed.Seconds() / idle.elapsed.Seconds()
	x.xacts -= idle.xacts * share
	x.bytes -= idle.bytes * share
	return x, nil
}
