package testenv

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Databases gives each test a database with one schema: the tables that Migrate makes, and
// nothing in them. What a test leaves as it got it, but for rows, another one gets. To make
// the tables costs Postgres more than most tests do, and every connection to the same
// database hears of it.
type Databases struct {
	Migrate func(ctx context.Context, pool *pgxpool.Pool, schema string) error
	// Spent is a condition, with stepward in the place of the schema. A schema that meets
	// it when its test ends is known outside of Postgres by its name, and is dropped.
	Spent string

	mu   sync.Mutex
	free []*database
	urls map[string]string // by the name of the test that has the database
}

// Postgres returns a pool and the name of a schema that are this test's alone. The second
// that a test asks for is in the same database.
func (d *Databases) Postgres(t testing.TB) (pool *pgxpool.Pool, schema string) {
	t.Helper()
	PostgresURL(t) // or there is none
	d.mu.Lock()
	second := d.urls[t.Name()]
	d.mu.Unlock()
	if second != "" {
		pool, schema = postgresAt(t, second)
		if err := d.Migrate(t.Context(), pool, schema); err != nil {
			t.Fatal(err)
		}
		return pool, schema
	}
	db, err := d.take(t)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.put(t, db) })
	if pool, err = pgxpool.New(t.Context(), db.url); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closePool(t, pool) })
	return pool, db.schema
}

// URL returns the connection string of the database of a test, or of the test that it is a
// part of. It is that of [PostgresURL] if these have none.
func (d *Databases) URL(t testing.TB) string {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	for name := t.Name(); name != ""; name = name[:max(0, strings.LastIndexByte(name, '/'))] {
		if at := d.urls[name]; at != "" {
			return at
		}
	}
	return PostgresURL(t)
}

// Close drops the databases that nobody has. It is for the end of TestMain.
func (d *Databases) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	var errs []error
	for _, db := range d.free {
		errs = append(errs, db.drop())
	}
	d.free = nil
	return errors.Join(errs...)
}

func (d *Databases) take(t testing.TB) (db *database, err error) {
	d.mu.Lock()
	if n := len(d.free); n > 0 {
		db, d.free = d.free[n-1], d.free[:n-1]
	}
	d.mu.Unlock()
	if db == nil {
		if db, err = createDatabase(PostgresURL(t)); err != nil {
			return nil, err
		}
	}
	if db.schema == "" {
		db.schema = schemaName(t.Name())
		if err := db.fill(t.Context(), d.Migrate); err != nil {
			return nil, errors.Join(err, db.drop())
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.urls == nil {
		d.urls = make(map[string]string)
	}
	d.urls[t.Name()] = db.url
	return db, nil
}

// put fails the test if somebody whom it started still has a connection.
func (d *Databases) put(t testing.TB, db *database) {
	t.Helper()
	d.mu.Lock()
	delete(d.urls, t.Name())
	d.mu.Unlock()
	again := false
	if !t.Failed() {
		var err error
		if again, err = db.clear(d.Spent); err != nil {
			t.Errorf("database %s: %v", db.name, err)
		}
	}
	if !again {
		if err := db.drop(); err != nil {
			t.Error(err)
		}
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.free = append(d.free, db)
}

type database struct {
	server            *pgx.ConnConfig
	url, name, schema string   // no schema: it is empty
	shape             string   // see shapeSQL
	tables, sequences []string // that were made empty, and not used yet
	rows, rowsSQL     string   // what is in the other tables
}

func createDatabase(server string) (*database, error) {
	db := &database{name: "t_" + strings.ToLower(rand.Text())}
	var err error
	if db.server, err = pgx.ParseConfig(server); err != nil {
		return nil, err
	}
	if db.url, err = inDatabase(server, db.name); err != nil {
		return nil, err
	}
	return db, db.onServer("CREATE DATABASE " + db.name + " TEMPLATE template0")
}

// fill makes the schema, and takes note of it.
func (db *database) fill(ctx context.Context, migrate func(context.Context, *pgxpool.Pool, string) error) error {
	pool, err := pgxpool.New(ctx, db.url)
	if err != nil {
		return err
	}
	defer pool.Close()
	if err := migrate(ctx, pool, db.schema); err != nil {
		return err
	}
	if err := pool.QueryRow(ctx, shapeSQL).Scan(&db.shape); err != nil {
		return err
	}
	rows, err := pool.Query(ctx, "SELECT relnamespace::regnamespace || '.' || quote_ident(relname) FROM pg_class WHERE relkind = 'r' AND starts_with(relnamespace::regnamespace::text, $1)", db.schema)
	if err != nil {
		return err
	}
	if db.tables, err = pgx.CollectRows(rows, pgx.RowTo[string]); err != nil {
		return err
	}
	rows, err = pool.Query(ctx, fullSQL(db.tables))
	if err != nil {
		return err
	}
	full, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	db.tables = slices.DeleteFunc(db.tables, func(table string) bool { return slices.Contains(full, table) })
	rows, err = pool.Query(ctx, "SELECT quote_ident(schemaname) || '.' || quote_ident(sequencename) FROM pg_sequences WHERE starts_with(schemaname, $1) AND last_value IS NULL", db.schema)
	if err != nil {
		return err
	}
	if db.sequences, err = pgx.CollectRows(rows, pgx.RowTo[string]); err != nil {
		return err
	}
	texts := []string{"SELECT concat_ws(';', ''"}
	for _, table := range full {
		texts = append(texts, "(SELECT string_agg(t::text, ',' ORDER BY t::text) FROM "+table+" t)")
	}
	db.rowsSQL = strings.Join(texts, ", ") + ")"
	return pool.QueryRow(ctx, db.rowsSQL).Scan(&db.rows)
}

// fullSQL says which of the tables have rows.
func fullSQL(tables []string) string {
	var parts []string
	for _, table := range tables {
		parts = append(parts, "SELECT '"+table+"' WHERE EXISTS (SELECT FROM "+table+")")
	}
	return strings.Join(parts, " UNION ALL ")
}

// shapeSQL sums up what there is but rows: a row of the catalog that was written has
// another xmin, except that TRUNCATE writes those of pg_class. Statistics outlive the rows
// that they are of, and the next test's plans would be made by them.
// OFFSET 0 has Postgres look at the schemas' own statistics only: by a plain join it asks for
// the privileges of each column of the catalog, which took longer than all the rest.
const shapeSQL = `WITH n AS (SELECT * FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'),
	c AS (SELECT pg_class.* FROM pg_class JOIN n ON n.oid = relnamespace)
SELECT md5(concat_ws(';',
	(SELECT string_agg(concat_ws(',', oid, nspname, nspowner, nspacl), ' ' ORDER BY oid) FROM n),
	(SELECT string_agg(concat_ws(',', oid, relname, relnamespace, relowner, relpersistence, reloptions, relacl), ' ' ORDER BY oid) FROM c),
	(SELECT string_agg(concat_ws(',', attrelid, attnum, a.xmin), ' ' ORDER BY attrelid, attnum) FROM pg_attribute a JOIN c ON c.oid = attrelid),
	(SELECT string_agg(concat_ws(',', p.oid, p.xmin), ' ' ORDER BY p.oid) FROM pg_proc p JOIN n ON n.oid = pronamespace),
	(SELECT string_agg(concat_ws(',', k.oid, k.xmin), ' ' ORDER BY k.oid) FROM pg_constraint k JOIN n ON n.oid = connamespace),
	(SELECT string_agg(concat_ws(',', g.oid, g.xmin), ' ' ORDER BY g.oid) FROM pg_trigger g JOIN c ON c.oid = tgrelid),
	(SELECT count(*) FROM n, LATERAL (SELECT FROM pg_stats WHERE schemaname = nspname OFFSET 0) s)))`

// clear deletes all rows, or all of a schema that is spent, and reports whether the
// database can be used again.
func (db *database) clear(spent string) (again bool, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	conn, err := pgx.Connect(ctx, db.url)
	if err != nil {
		return false, err
	}
	defer conn.Close(ctx)
	// What a connection has sent is executed although its process is gone, and might be in
	// the next test's time.
	var others []string
	for deadline := time.Now().Add(Patience / 2); ; {
		err := conn.QueryRow(ctx, "SELECT array_agg(concat_ws(' ', application_name, state, 'since', date_trunc('second', clock_timestamp() - state_change), wait_event, 'blocked by', pg_blocking_pids(pid)) || ': ' || query) FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()").Scan(&others)
		if err != nil {
			return false, err
		}
		if len(others) == 0 {
			break
		}
		if time.Now().After(deadline) {
			return false, fmt.Errorf("connections are left open: %q", others)
		}
		time.Sleep(5 * time.Millisecond)
	}
	var shape, rows string
	if err := conn.QueryRow(ctx, shapeSQL).Scan(&shape); err != nil || shape != db.shape {
		return false, err
	}
	if err := conn.QueryRow(ctx, db.rowsSQL).Scan(&rows); err != nil || rows != db.rows {
		return false, err
	}
	var over bool
	if err := conn.QueryRow(ctx, "SELECT "+strings.ReplaceAll(spent, "stepward.", db.schema+".")).Scan(&over); err != nil {
		return false, err
	}
	if over {
		_, err := conn.Exec(ctx, "DROP SCHEMA "+db.schema+", "+db.schema+"_river CASCADE")
		db.schema = ""
		return err == nil, err
	}
	// Rows that were deleted or rolled back took space, too, and numbers of sequences.
	found, err := conn.Query(ctx, "SELECT t FROM unnest($1::text[]) t WHERE pg_relation_size(t::regclass) > 0", db.tables)
	if err != nil {
		return false, err
	}
	used, err := pgx.CollectRows(found, pgx.RowTo[string])
	if err != nil {
		return false, err
	}
	if len(used) > 0 {
		if _, err := conn.Exec(ctx, "TRUNCATE "+strings.Join(used, ", ")+" CASCADE"); err != nil {
			return false, err
		}
	}
	_, err = conn.Exec(ctx, "SELECT setval(seqrelid, seqstart, false) FROM pg_sequence JOIN unnest($1::text[]) s ON seqrelid = s::regclass WHERE pg_sequence_last_value(seqrelid) IS NOT NULL", db.sequences)
	return err == nil, err
}

func (db *database) drop() error {
	return db.onServer("DROP DATABASE IF EXISTS " + db.name + " WITH (FORCE)")
}

func (db *database) onServer(sql string) error {
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	conn, err := pgx.ConnectConfig(ctx, db.server)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, sql)
	return err
}

// inDatabase is a connection string, of either form, for another database.
func inDatabase(server, name string) (string, error) {
	if !strings.Contains(server, "://") {
		return server + " dbname=" + name, nil // the last of a key counts
	}
	at, err := url.Parse(server)
	if err != nil {
		return "", err
	}
	at.Path = "/" + name
	return at.String(), nil
}
