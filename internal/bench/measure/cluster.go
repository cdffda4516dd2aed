// Package measure is what programs that measure have in common: a Postgres of
// their own, what is written to it, and figures.
package measure

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/stepward/stepward/internal/devdb"
)

// A Cluster is the Postgres that is measured.
type Cluster struct {
	URL, Source string
	Settings    map[string]string
	Pool        *pgxpool.Pool // of the measuring itself
	Close       func()

	own bool // nobody else uses it, and its settings may be changed
}

// Open starts a server with settings like "wal_level=logical", or takes that of
// DATABASE_URL as it is, unless other ways are given.
func Open(ctx context.Context, fsync bool, ways []devdb.Way, settings ...string) (_ *Cluster, err error) {
	dir := filepath.Join("/tmp", fmt.Sprintf("stepward-bench-%d", os.Getpid())) // short: it holds a socket
	sync := "fsync=off"
	if fsync {
		sync = "fsync=on"
	}
	// On the server's command line: what is there outranks ALTER SYSTEM.
	db, err := devdb.Open(ctx, devdb.Config{Ways: ways, Dir: dir, Settings: append([]string{"checkpoint_timeout=1h", "max_wal_size=8GB", sync}, settings...)})
	if err != nil {
		return nil, err
	}
	c := &Cluster{URL: db.URL, Source: db.Source, own: db.Way != devdb.WayURL}
	c.Close = func() {
		if c.Pool != nil {
			c.Pool.Close()
		}
		db.Close()
		removeWhenGone(dir)
	}
	defer func() {
		if err != nil {
			c.Close()
		}
	}()
	cfg, err := pgxpool.ParseConfig(db.URL)
	if err != nil {
		return nil, err
	}
	cfg.MaxConns = 4
	if c.Pool, err = pgxpool.NewWithConfig(ctx, cfg); err != nil {
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

// Set changes settings of the throw-away server. Others are left as they are.
func (c *Cluster) Set(ctx context.Context, settings ...string) error {
	if !c.own {
		return nil
	}
	for _, s := range settings {
		if _, err := c.Pool.Exec(ctx, "ALTER SYSTEM SET "+s); err != nil {
			return err
		}
	}
	if _, err := c.Pool.Exec(ctx, "SELECT pg_reload_conf()"); err != nil {
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

func (c *Cluster) fresh(ctx context.Context, setting string) (value string, err error) {
	conn, err := pgx.Connect(ctx, c.URL)
	if err != nil {
		return "", err
	}
	defer conn.Close(ctx)
	err = conn.QueryRow(ctx, "SELECT current_setting($1)", setting).Scan(&value)
	return value, err
}

func (c *Cluster) readSettings(ctx context.Context) error {
	c.Settings = map[string]string{}
	rows, err := c.Pool.Query(ctx, `SELECT name, current_setting(name) FROM pg_settings WHERE name IN
		('fsync', 'synchronous_commit', 'full_page_writes', 'wal_level', 'wal_compression', 'data_checksums', 'shared_buffers', 'commit_delay')`)
	if err != nil {
		return err
	}
	var name, value string
	_, err = pgx.ForEachRow(rows, []any{&name, &value}, func() error { c.Settings[name] = value; return nil })
	return err
}

// NewPool is one application's pool; name is how the server knows it. The
// tracer may be nil.
func (c *Cluster) NewPool(ctx context.Context, conns int32, name string, tracer pgx.QueryTracer) (*pgxpool.Pool, error) {
	cfg, err := pgxpool.ParseConfig(c.URL)
	if err != nil {
		return nil, err
	}
	cfg.MaxConns, cfg.MinConns = conns, min(conns, 4)
	cfg.ConnConfig.Tracer = tracer
	cfg.ConnConfig.RuntimeParams["application_name"] = name
	return pgxpool.NewWithConfig(ctx, cfg)
}

// A Mark is a point in the server's life.
type Mark struct {
	At time.Time

	xid uint64
	lsn int64
}

// Mark returns where the server is now.
func (c *Cluster) Mark(ctx context.Context) (Mark, error) {
	m := Mark{At: time.Now()}
	err := c.Pool.QueryRow(ctx, `SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint, (pg_current_wal_insert_lsn() - '0/0')::bigint`).Scan(&m.xid, &m.lsn)
	return m, err
}

// A Cost is what was written between two marks: transactions that write, and
// bytes of WAL.
type Cost struct {
	Xacts, Bytes float64
	Elapsed      time.Duration
	From, To     Mark
}

// To is what was written from m to n.
func (m Mark) To(n Mark) Cost {
	return Cost{Xacts: float64(n.xid - m.xid), Bytes: float64(n.lsn - m.lsn), Elapsed: n.At.Sub(m.At), From: m, To: n}
}

// LSN is the place in the WAL.
func (m Mark) LSN() int64 { return m.lsn }
