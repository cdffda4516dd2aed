package testenv_test

import (
	"context"
	"runtime"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/stepward/stepward/internal/testenv"
)

func TestPostgresSchema(t *testing.T) {
	url := testenv.PostgresURL(t)
	var names []string
	for range 2 {
		t.Run("same name/with a very long Name: that does not fit into an identifier", func(t *testing.T) {
			pool, schema := testenv.Postgres(t)
			if len(schema) > 63-len("_river") {
				t.Errorf("%s is too long", schema)
			}
			for _, name := range []string{schema, schema + "_river"} {
				if _, err := pool.Exec(t.Context(), "CREATE SCHEMA "+name+"; CREATE TABLE "+name+".t ()"); err != nil {
					t.Fatal(err)
				}
				names = append(names, name)
			}
		})
	}
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	var left int
	if err := conn.QueryRow(t.Context(), "SELECT count(*) FROM pg_namespace WHERE nspname = ANY($1)", names).Scan(&left); err != nil {
		t.Fatal(err)
	}
	if left != 0 || names[0] == names[2] {
		t.Errorf("%d schemas left of %q", left, names)
	}
}

// A recorder stands in for a test that a part's absence ends.
type recorder struct {
	testing.TB
	skipped, failed string
}

func (r *recorder) Helper() {}

func (r *recorder) Skipf(format string, args ...any) { r.end(&r.skipped, format, args) }

func (r *recorder) Fatalf(format string, args ...any) { r.end(&r.failed, format, args) }

func (r *recorder) end(field *string, format string, _ []any) {
	*field = format
	runtime.Goexit()
}

func TestRequireTurnsSkipsIntoFailures(t *testing.T) {
	for _, test := range []struct {
		require string
		fails   bool
	}{
		{"", false}, {"docker", false}, {"all", true}, {"docker,bubblewrap", true},
	} {
		t.Setenv("STEPWARD_TEST_REQUIRE", test.require)
		t.Setenv("STEPWARD_BWRAP", "/does/not/exist")
		r := &recorder{}
		done := make(chan struct{})
		go func() {
			defer close(done)
			testenv.Require(r, testenv.PartBubblewrap)
		}()
		<-done
		if (r.failed != "") != test.fails || (r.skipped != "") == test.fails {
			t.Errorf("require %q: skipped %q, failed %q", test.require, r.skipped, r.failed)
		}
		if strings.Contains(r.failed+r.skipped, "%!") {
			t.Error(r.failed, r.skipped)
		}
	}
}
