package db

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/stepward/stepward/internal/testenv"
)

// unmigrated returns a pool and statements for a schema that does not exist.
func unmigrated(t *testing.T) (*pgxpool.Pool, *Queries) {
	t.Helper()
	pool, schema := testenv.Postgres(t)
	q, err := New(schema)
	if err != nil {
		t.Fatal(err)
	}
	return pool, q
}

// migrated returns a pool and statements for a schema that is up to date.
func migrated(t *testing.T) (*pgxpool.Pool, *Queries) {
	t.Helper()
	pool, q := unmigrated(t)
	if err := Migrate(t.Context(), pool, q, MigrateOptions{}); err != nil {
		t.Fatal(err)
	}
	return pool, q
}

func exec(t *testing.T, pool *pgxpool.Pool, q *Queries, sql string, args ...any) {
	t.Helper()
	if _, err := pool.Exec(t.Context(), q.in(sql), args...); err != nil {
		t.Fatal(err)
	}
}

func one[T any](t *testing.T, pool *pgxpool.Pool, q *Queries, sql string, args ...any) (v T) {
	t.Helper()
	if err := pool.QueryRow(t.Context(), q.in(sql), args...).Scan(&v); err != nil {
		t.Fatal(err)
	}
	return v
}

func TestSchemaName(t *testing.T) {
	for _, name := range []string{
		"Stepward", "STEPWARD", `a"b`, "a'b", "a b", "a.b", "a-b", "ä", "1a", "a;drop schema public", "a\x00", " ",
		"pg_mine", // reserved by Postgres
		strings.Repeat("a", 41),
	} {
		_, err := New(name)
		if bad := (*SchemaError)(nil); !errors.As(err, &bad) || bad.Schema != name {
			t.Errorf("%q: got %v", name, err)
		}
	}
	for name, want := range map[string]string{"": "stepward", "_": "_", "a1_b": "a1_b"} {
		if q, err := New(name); err != nil || q.Schema != want || q.River != want+"_river" {
			t.Errorf("%q: got %+v, %v", name, q, err)
		}
	}
}

// Names that only work quoted, and the longest, which leaves room for _river
// and what River appends to it.
func TestSchemaNameInPostgres(t *testing.T) {
	pool, unique := testenv.Postgres(t)
	unique = unique[len(unique)-10:]
	for _, name := range []string{"select", "user", (strings.Repeat("l", 40-len(unique)) + unique)[:40]} {
		q, err := New(name)
		if err != nil {
			t.Fatal(err)
		}
		drop := fmt.Sprintf("DROP SCHEMA IF EXISTS %s CASCADE; DROP SCHEMA IF EXISTS %s CASCADE",
			pgx.Identifier{q.Schema}.Sanitize(), pgx.Identifier{q.River}.Sanitize())
		exec(t, pool, q, drop) // two of the names are not this test's alone
		if err := Migrate(t.Context(), pool, q, MigrateOptions{}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := Check(t.Context(), pool, q); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := pool.Exec(t.Context(), q.Backlog, []int32{1}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		exec(t, pool, q, drop)
	}
}

// The statements in the files name no schema of their own, so that none can
// reach beside the configured one.
func TestStatementsNameTheirSchema(t *testing.T) {
	texts, err := parse(queryFiles)
	if err != nil {
		t.Fatal(err)
	}
	tables := regexp.MustCompile(`(?i)\b(?:FROM|JOIN|INTO|UPDATE)\s+([a-z_]+)\.`)
	found := 0
	for name, text := range texts {
		for _, m := range tables.FindAllStringSubmatch(text, -1) {
			found++
			if m[1] != "stepward" && m[1] != "stepward_river" && m[1] != "unnest" {
				t.Errorf("%s reads from %s", name, m[1])
			}
		}
	}
	if found < 30 {
		t.Errorf("found only %d names of tables: does the pattern still fit?", found)
	}
}

// A program runs on its own version of the schema and on the next, and says
// what is wrong with any other.
func TestCheck(t *testing.T) {
	pool, q := unmigrated(t)
	ctx := t.Context()
	refused := func(have int) {
		t.Helper()
		err := Check(ctx, pool, q)
		if bad := (*SchemaError)(nil); !errors.As(err, &bad) || bad.Have != have || bad.Low != Version || bad.High != Version+1 || bad.Schema != q.Schema {
			t.Errorf("at version %d: got %v", have, err)
		}
	}
	refused(0)
	exec(t, pool, q, "CREATE SCHEMA stepward")
	refused(0)
	if err := Migrate(ctx, pool, q, MigrateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := Check(ctx, pool, q); err != nil {
		t.Error(err)
	}
	exec(t, pool, q, "INSERT INTO stepward.migration (version) VALUES ($1)", Version+1)
	if err := Check(ctx, pool, q); err != nil {
		t.Error(err)
	}
	if err := Migrate(ctx, pool, q, MigrateOptions{}); err != nil {
		t.Errorf("migrate on the next version: %v", err)
	}
	exec(t, pool, q, "INSERT INTO stepward.migration (version) VALUES ($1)", Version+2)
	refused(Version + 2)
	err := Migrate(ctx, pool, q, MigrateOptions{})
	if bad := (*SchemaError)(nil); !errors.As(err, &bad) || bad.Have != Version+2 {
		t.Errorf("migrate: got %v", err)
	}
}

// future makes this program one that knows another migration.
func future(t *testing.T, up, down string) {
	t.Helper()
	files, list, version := migrationFiles, migrations, Version
	next := fstest.MapFS{
		"migration/002_future.up.sql":   {Data: []byte(up)},
		"migration/002_future.down.sql": {Data: []byte(down)},
	}
	for _, name := range []string{"001_runs.up.sql", "001_runs.down.sql", "grants.sql"} {
		data, err := os.ReadFile("migration/" + name)
		if err != nil {
			t.Fatal(err)
		}
		next["migration/"+name] = &fstest.MapFile{Data: data}
	}
	migrationFiles, migrations, Version = next, slices.Concat(list, []string{"002_future"}), version+1
	t.Cleanup(func() { migrationFiles, migrations, Version = files, list, version })
}

// Whoever looks for the ready row of one run says where it stands: by the run's
// id alone, all that is ready would be read.
func TestReadyByPlace(t *testing.T) {
	q, err := New("")
	if err != nil {
		t.Fatal(err)
	}
	byID := regexp.MustCompile(`\b(ready|q)\.run_id (=|IN)`)
	v := reflect.ValueOf(*q)
	for i := range v.NumField() {
		if text := v.Field(i).String(); byID.MatchString(text) || strings.Contains(text, "ready.rank") && !strings.Contains(text, "ready.gate") {
			t.Errorf("statement %s: compare requirement_id, gate, tenant, rank and run_id with the run's, as RunList does", v.Type().Field(i).Name)
		}
	}
}
