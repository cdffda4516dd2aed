package db

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Several processes migrate at once, with pools so small that each needs all of
// its connections: one applies each migration and all succeed.
func TestMigrateAtOnce(t *testing.T) {
	pool, q := unmigrated(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	shared := withMaxConns(t, pool, 2)
	pools := []*pgxpool.Pool{shared, shared, shared, withMaxConns(t, pool, 1), withMaxConns(t, pool, 1)}
	errs := make([]error, len(pools))
	var all sync.WaitGroup
	for i, p := range pools {
		all.Go(func() { errs[i] = Migrate(ctx, p, q, MigrateOptions{}) })
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	if n := one[int](t, pool, q, "SELECT count(*) FROM stepward.migration"); n != Version {
		t.Errorf("%d migrations are recorded, want %d", n, Version)
	}
	m, err := riverMigrator(pool, q)
	if err != nil {
		t.Fatal(err)
	}
	if n := one[int](t, pool, q, "SELECT count(*) FROM stepward_river.river_migration"); n != len(m.AllVersions()) {
		t.Errorf("%d migrations of River are recorded, want %d", n, len(m.AllVersions()))
	}
}

func withMaxConns(t *testing.T, pool *pgxpool.Pool, n int32) *pgxpool.Pool {
	t.Helper()
	cfg := pool.Config()
	cfg.MaxConns, cfg.MinConns = n, 0
	small, err := pgxpool.NewWithConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(small.Close)
	return small
}

// A migration that cannot have its lock steps back, so that who comes after it
// does not wait for who is before it; then it tries again.
func TestMigrateYieldsLocks(t *testing.T) {
	pool, q := migrated(t)
	ctx := t.Context()
	future(t, "ALTER TABLE stepward.run ADD COLUMN later int;", "ALTER TABLE stepward.run DROP COLUMN later;")
	reader, err := pool.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Rollback(context.Background())
	if _, err := reader.Exec(ctx, q.in("SELECT FROM stepward.run")); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- Migrate(ctx, pool, q, MigrateOptions{}) }()
	waits := func() bool {
		return one[bool](t, pool, q, "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE $1 = ANY(pg_blocking_pids(pid)))", int32(reader.Conn().PgConn().PID()))
	}
	eventually(t, "the migration waits", waits)
	eventually(t, "the migration steps back", func() bool { return !waits() })
	if have := one[int](t, pool, q, "SELECT max(version) FROM stepward.migration"); have != Version-1 {
		t.Errorf("at version %d with the lock held", have)
	}
	if err := reader.Rollback(ctx); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	exec(t, pool, q, "SELECT later FROM stepward.run")
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	deadline, tick := time.Now().Add(time.Minute), time.NewTicker(5*time.Millisecond)
	defer tick.Stop()
	for !f() {
		if time.Now().After(deadline) {
			t.Fatalf("did not happen: %s", what)
		}
		<-tick.C
	}
}

// Down undoes the newest migration and keeps the rest. Workers of the version
// before go on.
func TestDownByOne(t *testing.T) {
	pool, q := migrated(t)
	ctx := t.Context()
	future(t, "CREATE TABLE stepward.extra (id int);", "DROP TABLE stepward.extra;")
	if err := Migrate(ctx, pool, q, MigrateOptions{}); err != nil {
		t.Fatal(err)
	}
	exec(t, pool, q, q.WorkerInsert, int64(1), "w", 3600.0, []int32{}, []int32{}, []string{}, 1)
	exec(t, pool, q, "SELECT FROM stepward.extra")
	if err := Migrate(ctx, pool, q, MigrateOptions{Down: true}); err != nil {
		t.Fatal(err)
	}
	if have := one[int](t, pool, q, "SELECT max(version) FROM stepward.migration"); have != Version-1 {
		t.Errorf("at version %d", have)
	}
	if n := one[int](t, pool, q, "SELECT count(*) FROM stepward.worker"); n != 1 {
		t.Errorf("%d workers are left", n)
	}
	if one[*string](t, pool, q, "SELECT to_regclass('stepward.extra')::text") != nil {
		t.Error("the table of the migration is still there")
	}
}

func inUse(err error) bool {
	e, ok := errors.AsType[*SchemaError](err)
	return ok && e.Workers == 1
}

// Down from the first version deletes everything: never under live workers, and
// not before somebody has been told what goes.
func TestDownFromTheFirst(t *testing.T) {
	pool, q := migrated(t)
	ctx := t.Context()
	exec(t, pool, q, "INSERT INTO stepward.run (id, tenant, workflow, input, version, requirement_id) SELECT n, '', 'w', '', '', 1 FROM generate_series(1, 3) n")
	exec(t, pool, q, q.WorkerInsert, int64(1), "w", 3600.0, []int32{}, []int32{}, []string{}, 1)
	for _, force := range []bool{false, true} {
		if err := Migrate(ctx, pool, q, MigrateOptions{Down: true, Force: force}); !inUse(err) {
			t.Errorf("force %v, with a live worker: got %v", force, err)
		}
	}
	exec(t, pool, q, q.WorkerState, int64(1), "draining")
	if err := Migrate(ctx, pool, q, MigrateOptions{Down: true, Force: true}); !inUse(err) {
		t.Errorf("with a draining worker: got %v", err)
	}
	exec(t, pool, q, q.WorkerState, int64(1), "gone")
	err := Migrate(ctx, pool, q, MigrateOptions{Down: true})
	if deletes := (*SchemaError)(nil); !errors.As(err, &deletes) || deletes.Runs != 3 || deletes.Schema != q.Schema || !strings.Contains(err.Error(), "3 runs") {
		t.Errorf("got %v", err)
	}
	if n := one[int](t, pool, q, "SELECT count(*) FROM stepward.run"); n != 3 {
		t.Errorf("%d runs are left after the refusals", n)
	}
	if err := Migrate(ctx, pool, q, MigrateOptions{Down: true, Force: true}); err != nil {
		t.Fatal(err)
	}
	if n := one[int](t, pool, q, "SELECT count(*) FROM pg_namespace WHERE nspname IN ($1, $2)", q.Schema, q.River); n != 0 {
		t.Errorf("%d schemas are left", n)
	}
	if err := Migrate(ctx, pool, q, MigrateOptions{Down: true, Force: true}); err != nil {
		t.Errorf("down from nothing: %v", err)
	}
	if err := Migrate(ctx, pool, q, MigrateOptions{}); err != nil {
		t.Errorf("up again: %v", err)
	}
}

// What a schema newer than this program needs to be undone, this program does
// not know.
func TestDownFromTheFuture(t *testing.T) {
	pool, q := migrated(t)
	exec(t, pool, q, "INSERT INTO stepward.migration (version) VALUES ($1)", Version+1)
	err := Migrate(t.Context(), pool, q, MigrateOptions{Down: true, Force: true})
	if bad := (*SchemaError)(nil); !errors.As(err, &bad) || bad.Have != Version+1 {
		t.Errorf("got %v", err)
	}
}

// The printed SQL makes the schema that Migrate makes, from nothing and from any
// version; what is up to date prints nothing.
func TestPrint(t *testing.T) {
	reference, refQueries := migrated(t)
	pool, q := unmigrated(t)
	ctx := t.Context()
	printed := func(o MigrateOptions) string {
		t.Helper()
		var b bytes.Buffer
		o.Print = &b
		if err := Migrate(ctx, pool, q, o); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	first := printed(MigrateOptions{})
	if have := one[*string](t, pool, q, "SELECT to_regnamespace('"+q.Schema+"')::text"); have != nil {
		t.Error("printing made the schema")
	}
	exec(t, pool, q, first)
	same := func() {
		t.Helper()
		got, want := catalog(t, pool, q), catalog(t, reference, refQueries)
		if len(want) < 100 {
			t.Fatalf("the catalog has only %d entries", len(want))
		}
		for _, line := range want {
			if !slices.Contains(got, line) {
				t.Errorf("the printed SQL does not make %s", line)
			}
		}
		for _, line := range got {
			if !slices.Contains(want, line) {
				t.Errorf("only the printed SQL makes %s", line)
			}
		}
	}
	same()
	if again := printed(MigrateOptions{}); again != "" {
		t.Errorf("there is something left to do:\n%s", again)
	}
	if err := Migrate(ctx, pool, q, MigrateOptions{}); err != nil {
		t.Error(err)
	}
	same()

	future(t, "CREATE TABLE stepward.extra (id int);", "DROP TABLE stepward.extra;")
	second := printed(MigrateOptions{})
	if strings.Contains(second, "river") || !strings.Contains(second, "extra") {
		t.Errorf("from version 1: got %s", second)
	}
	exec(t, pool, q, second)
	if err := Migrate(ctx, reference, refQueries, MigrateOptions{}); err != nil {
		t.Fatal(err)
	}
	same()
	exec(t, pool, q, printed(MigrateOptions{Down: true}))
	exec(t, pool, q, printed(MigrateOptions{Down: true}))
	if err := Check(ctx, pool, q); err == nil {
		t.Error("the printed SQL did not go down")
	}
}

// catalog lists all that is in a schema and in River's, under one name.
func catalog(t *testing.T, pool *pgxpool.Pool, q *Queries) []string {
	t.Helper()
	rows, err := pool.Query(t.Context(), fmt.Sprintf(`
		WITH ours AS (SELECT oid FROM pg_namespace WHERE nspname IN ('%[1]s', '%[2]s'))
		SELECT format('%%s %%s: %%s', c.relkind, c.oid::regclass, c.reloptions) FROM pg_class c JOIN ours ON ours.oid = c.relnamespace
		UNION ALL
		SELECT format('column %%s.%%s: %%s not null %%s identity %%s default %%s', a.attrelid::regclass, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity,
			(SELECT pg_get_expr(d.adbin, d.adrelid) FROM pg_attrdef d WHERE d.adrelid = a.attrelid AND d.adnum = a.attnum))
		FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN ours ON ours.oid = c.relnamespace WHERE a.attnum > 0 AND NOT a.attisdropped
		UNION ALL SELECT 'index ' || indexdef FROM pg_indexes WHERE schemaname IN ('%[1]s', '%[2]s')
		UNION ALL SELECT 'view ' || viewname || ': ' || definition FROM pg_views WHERE schemaname IN ('%[1]s', '%[2]s')
		UNION ALL SELECT format('constraint %%s on %%s: %%s', conname, conrelid::regclass, pg_get_constraintdef(oid)) FROM pg_constraint WHERE connamespace IN (SELECT oid FROM ours)
		UNION ALL SELECT 'function ' || pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace IN (SELECT oid FROM ours)
		UNION ALL SELECT format('type %%s: %%s', t.oid::regtype, (SELECT array_agg(e.enumlabel ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = t.oid))
			FROM pg_type t WHERE t.typnamespace IN (SELECT oid FROM ours) AND t.typtype = 'e'
		UNION ALL SELECT format('trigger %%s', pg_get_triggerdef(t.oid)) FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid WHERE NOT t.tgisinternal AND c.relnamespace IN (SELECT oid FROM ours)
		UNION ALL SELECT format('migration %%s', version) FROM %[1]s.migration
		UNION ALL SELECT format('river migration %%s %%s', line, version) FROM %[2]s.river_migration
		ORDER BY 1`, q.Schema, q.River))
	if err != nil {
		t.Fatal(err)
	}
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	for i, line := range lines {
		lines[i] = strings.ReplaceAll(line, q.Schema, "stepward")
	}
	return lines
}
