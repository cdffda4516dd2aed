package testenv

import (
	"context"
	"crypto/rand"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/stepward/stepward/internal/devdb"
)

// postgres holds one server until the process ends, so that it does not stop
// and start between two tests.
var postgres = sync.OnceValues(func() (*devdb.DB, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	return devdb.Open(ctx, devdb.Config{Dir: clusterDir()})
})

// PostgresURL returns the connection string of a Postgres whose user may create
// schemas, databases and roles. Processes that the test starts may use it too.
func PostgresURL(t testing.TB) string {
	t.Helper()
	db, err := postgres()
	if err != nil {
		Skip(t, PartPostgres, err.Error())
	}
	return db.URL
}

// ExamplePostgres is Postgres for an example, which has no testing.TB. Tables that
// are made without naming a schema are in the one that it returns, once that
// exists. Its last result ends both.
func ExamplePostgres(ctx context.Context, name string) (pool *pgxpool.Pool, schema string, end func(), err error) {
	db, err := postgres()
	if err != nil {
		return nil, "", nil, err
	}
	cfg, err := pgxpool.ParseConfig(db.URL)
	if err != nil {
		return nil, "", nil, err
	}
	schema = schemaName(name)
	cfg.ConnConfig.RuntimeParams["search_path"] = schema
	if pool, err = pgxpool.NewWithConfig(ctx, cfg); err != nil {
		return nil, "", nil, err
	}
	return pool, schema, func() {
		for _, s := range []string{schema, schema + "_river"} {
			if _, err := pool.Exec(ctx, "DROP SCHEMA IF EXISTS "+pgx.Identifier{s}.Sanitize()+" CASCADE"); err != nil {
				fmt.Println(err) // the example fails by its output
			}
		}
		pool.Close()
	}, nil
}

// Postgres returns a pool and the name of a schema that is this test's alone.
// It does not exist yet. When the test ends it is dropped, with the schema
// NAME_river, and the pool is closed.
func Postgres(t testing.TB) (pool *pgxpool.Pool, schema string) {
	t.Helper()
	return postgresAt(t, PostgresURL(t))
}

func postgresAt(t testing.TB, url string) (pool *pgxpool.Pool, schema string) {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	schema = schemaName(t.Name())
	t.Cleanup(func() {
		closePool(t, pool)
		dropSchemas(t, url, schema, schema+"_river")
	})
	return pool, schema
}

// closePool fails the test if somebody whom it started still has a connection: to wait
// for him could be for ever.
func closePool(t testing.TB, pool *pgxpool.Pool) {
	t.Helper()
	closed := make(chan struct{})
	go func() { // ends with the process, then
		defer close(closed)
		pool.Close()
	}()
	select {
	case <-closed:
	case <-time.After(Patience):
		t.Errorf("%d connections of the pool are still in use", pool.Stat().AcquiredConns())
	}
}

var notInName = regexp.MustCompile(`[^a-z0-9]+`)

// schemaName leaves room for suffixes under the 63 bytes of an identifier.
func schemaName(test string) string {
	name := strings.Trim(notInName.ReplaceAllString(strings.ToLower(test), "_"), "_")
	return fmt.Sprintf("t_%.24s_%s", name, strings.ToLower(rand.Text()[:10]))
}

// dropSchemas fails the test if somebody it started still holds a lock.
func dropSchemas(t testing.TB, url string, schemas ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Errorf("drop schemas: %v", err)
		return
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, "SET lock_timeout = '10s'; SET client_min_messages = warning"); err != nil {
		t.Errorf("drop schemas: %v", err)
	}
	for _, schema := range schemas {
		if _, err := conn.Exec(ctx, "DROP SCHEMA IF EXISTS "+pgx.Identifier{schema}.Sanitize()+" CASCADE"); err != nil {
			t.Errorf("drop schema %s: %v", schema, err)
		}
	}
}
