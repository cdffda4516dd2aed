package testenv

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/jackc/pgx/v5/pgxpool"
)

// A test gets what another one left only if nothing tells the two apart.
func TestDatabases(t *testing.T) {
	d := Databases{
		Migrate: func(ctx context.Context, pool *pgxpool.Pool, schema string) error {
			_, err := pool.Exec(ctx, "CREATE SCHEMA "+schema+"; CREATE SCHEMA "+schema+"_river;"+
				"CREATE TABLE "+schema+".version (v int); INSERT INTO "+schema+".version VALUES (1);"+
				"CREATE TABLE "+schema+".run (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text);"+
				"CREATE SEQUENCE "+schema+".counter; CREATE TABLE "+schema+"_river.job (run int REFERENCES "+schema+".run (id))")
			return err
		},
		Spent: "EXISTS (SELECT FROM stepward.run WHERE name = 'known')",
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	// use returns the database and the schema, and executes what is given on it.
	use := func(what string) (at, schema string) {
		t.Run("use", func(t *testing.T) {
			pool, s := d.Postgres(t)
			at, schema = d.URL(t), s
			var versions, rows, size, next, count int
			if err := pool.QueryRow(t.Context(), "SELECT (SELECT count(*) FROM "+s+".version), (SELECT count(*) FROM "+s+".run) + (SELECT count(*) FROM "+s+"_river.job), "+
				"pg_relation_size('"+s+".run'), nextval(pg_get_serial_sequence('"+s+".run', 'id')), nextval('"+s+".counter')").Scan(&versions, &rows, &size, &next, &count); err != nil || versions != 1 || rows != 0 || size != 0 || next != 1 || count != 1 {
				t.Errorf("%d versions, %d rows in %d bytes, next %d and %d, %v", versions, rows, size, next, count, err)
			}
			if _, err := pool.Exec(t.Context(), "SET search_path = "+s+", "+s+"_river; "+what); err != nil {
				t.Error(err)
			}
		})
		return at, schema
	}
	const rows = "WITH r AS (INSERT INTO run DEFAULT VALUES RETURNING id) INSERT INTO job SELECT NULL FROM r"
	at, schema := use(rows)
	for what, fresh := range map[string]bool{
		rows:                             false,
		rows + "; DELETE FROM run":       false,
		"INSERT INTO run DEFAULT VALUES": false,
		"INSERT INTO run DEFAULT VALUES; ANALYZE run":                  true,
		"ALTER TABLE run ADD COLUMN more int":                          true,
		"ALTER TABLE run DROP COLUMN name":                             true,
		"ALTER TABLE run ADD CHECK (id < 7)":                           true,
		"CREATE TABLE another (id int)":                                true,
		"CREATE INDEX ON run (name)":                                   true,
		"DROP TABLE job":                                               true,
		"CREATE SCHEMA another":                                        true,
		"GRANT SELECT ON run TO PUBLIC":                                true,
		"ALTER TABLE run DISABLE TRIGGER ALL":                          true,
		"INSERT INTO version VALUES (2)":                               true,
		"CREATE FUNCTION run() RETURNS int LANGUAGE sql AS 'SELECT 1'": true,
	} {
		use(what)
		nextAt, nextSchema := use(rows)
		if other := nextAt != at; other != fresh {
			t.Errorf("after %s another database: %v", what, other)
		}
		at, schema = nextAt, nextSchema
	}
	var name string
	t.Run("left", func(t *testing.T) {
		own, _ := d.Postgres(t)
		cfg := own.Config().ConnConfig
		conn, err := pgx.ConnectConfig(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		conn.PgConn().Frontend().SendQuery(&pgproto3.Query{String: "SELECT pg_sleep(0.5)"})
		if err := conn.PgConn().Frontend().Flush(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.PgConn().Conn().Close() }) // as if its process were killed
		name = cfg.Database
	})
	if left := sleeping(t, name); left != 0 {
		t.Errorf("the next test may have a database in which %d connections still work", left)
	}
	use("INSERT INTO run (name) VALUES ('known')")
	if nextAt, nextSchema := use(rows); nextAt != at || nextSchema == schema {
		t.Errorf("after a schema that is known: schema %s of %s, now %s of %s", schema, at, nextSchema, nextAt)
	}
}

// sleeping is how many connections of the database do, but for those that look after it, which may be about to end.
func sleeping(t *testing.T, database string) (n int) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), PostgresURL(t))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if err := conn.QueryRow(t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE datname = $1 AND query LIKE 'SELECT pg_sleep%'", database).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}
