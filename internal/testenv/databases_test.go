package testenv

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
)

// A test gets what another one left only if nothing tells the two apart.
func TestDatabases(t *testing.T) {
	d := Databases{
		Migrate: func(ctx context.Context, pool *pgxpool.Pool, schema string) error {
			_, err := pool.Exec(ctx, "CREATE SCHEMA "+schema+"; CREATE SCHEMA "+schema+"_river;"+
				"CREATE TABLE "+schema+".version (v int); INSERT INTO "+schema+".version VALUES (1);"+
				"CREATE TABLE "+schema+".run (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text);"+
				"CREATE TABLE "+schema+"_river.job (run int REFERENCES "+schema+".run (id))")
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
			var versions, rows, next int
			if err := pool.QueryRow(t.Context(), "SELECT (SELECT count(*) FROM "+s+".version), (SELECT count(*) FROM "+s+".run) + (SELECT count(*) FROM "+s+"_river.job), "+
				"nextval(pg_get_serial_sequence('"+s+".run', 'id'))").Scan(&versions, &rows, &next); err != nil || versions != 1 || rows != 0 || next != 1 {
				t.Errorf("%d versions, %d rows, next %d, %v", versions, rows, next, err)
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
		rows:                                  false,
		"ALTER TABLE run ADD COLUMN more int": true,
		"ALTER TABLE run DROP COLUMN name":    true,
		"ALTER TABLE run ADD CHECK (id < 7)":  true,
		"CREATE TABLE another (id int)":       true,
		"CREATE INDEX ON run (name)":          true,
		"DROP TABLE job":                      true,
		"CREATE SCHEMA another":               true,
		"GRANT SELECT ON run TO PUBLIC":       true,
		"ALTER TABLE run DISABLE TRIGGER ALL": true,
		"INSERT INTO version VALUES (2)":      true,
		"CREATE FUNCTION run() RETURNS int LANGUAGE sql AS 'SELECT 1'": true,
	} {
		use(what)
		nextAt, nextSchema := use(rows)
		if other := nextAt != at; other != fresh {
			t.Errorf("after %s another database: %v", what, other)
		}
		at, schema = nextAt, nextSchema
	}
	use("INSERT INTO run (name) VALUES ('known')")
	if nextAt, nextSchema := use(rows); nextAt != at || nextSchema == schema {
		t.Errorf("after a schema that is known: schema %s of %s, now %s of %s", schema, at, nextSchema, nextAt)
	}
}
