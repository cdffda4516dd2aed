//go:build linux

package worker_test

import (
	"context"
	"io/fs"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/stepward/stepward/internal/db"
	"github.com/stepward/stepward/internal/testenv"
	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

// sticky is a backend that does not get rid of one of its sandboxes.
type sticky struct {
	sandbox.Backend
	id string
}

func (s sticky) Destroy(ctx context.Context, id string) error {
	if id != s.id {
		return s.Backend.Destroy(ctx, id)
	}
	<-ctx.Done() // as on a node that is gone
	return context.Cause(ctx)
}

// labels are those of a sandbox whose worker is unknown.
func (f *fixture) labels() sandbox.Labels {
	f.t.Helper()
	q, err := db.New(f.schema)
	if err != nil {
		f.t.Fatal(err)
	}
	l := sandbox.Labels{Schema: f.schema, Session: 1}
	if err := f.pool.QueryRow(f.t.Context(), q.Database).Scan(&l.Database); err != nil {
		f.t.Fatal(err)
	}
	return l
}

// beside returns a fixture of another database of the server, which has a schema of the same name.
func (f *fixture) beside() *fixture {
	f.t.Helper()
	name := pgx.Identifier{f.schema + "_beside"}.Sanitize()
	if _, err := f.pool.Exec(f.t.Context(), "CREATE DATABASE "+name); err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() {
		if _, err := f.pool.Exec(context.Background(), "DROP DATABASE "+name+" WITH (FORCE)"); err != nil {
			f.t.Error(err)
		}
	})
	cfg := f.pool.Config()
	cfg.ConnConfig.Database = f.schema + "_beside"
	pool, err := pgxpool.NewWithConfig(f.t.Context(), cfg)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(pool.Close)
	if err := workflow.Migrate(f.t.Context(), pool, workflow.MigrateOptions{Schema: f.schema}); err != nil {
		f.t.Fatal(err)
	}
	client, err := workflow.NewClient(workflow.ClientConfig{Pool: pool, Schema: f.schema})
	if err != nil {
		f.t.Fatal(err)
	}
	return &fixture{t: f.t, pool: pool, schema: f.schema, client: client}
}

// Sandboxes of another database, whose schema has the same name, are not this one's to remove.
func TestSweepLeavesOtherDatabases(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	other := f.beside()
	engine := engineAt(t, testenv.Docker(t))
	began, release := make(chan struct{}), make(chan struct{})
	boxed := workflow.NewToolStep("boxed", func(ctx context.Context, sb *sandbox.Sandbox, n int) (int, error) {
		close(began)
		select {
		case <-release:
		case <-ctx.Done():
		}
		_, err := fs.Stat(sb.FS(), ".")
		return n + 1, err
	}, workflow.StepOptions{Mode: workflow.Sandboxed, Retry: workflow.Retry{MaxAttempts: 1}})
	cfg := worker.Config{Workflows: []*workflow.Definition{defines(boxed.Run, boxed)}, Backends: []sandbox.Backend{engine}}
	other.start(cfg)
	run := other.enqueue(1)
	arrives(t, began)
	f.start(cfg)
	for range 2 { // a sweep has ended when the next one does something
		sb, err := sandbox.Start(t.Context(), engine, sandbox.Options{Labels: f.labels()})
		if err != nil {
			t.Fatal(err)
		}
		sb.Leave()
		eventually(t, "what is nobody's in this database is removed", func() bool {
			listed, err := engine.List(t.Context(), f.schema)
			if err != nil {
				t.Fatal(err)
			}
			return !slices.ContainsFunc(listed, func(l sandbox.Listed) bool { return l.ID == sb.ID() })
		})
	}
	close(release)
	ends(t, other.client, run, 2)
}

// A sandbox that cannot be removed holds up no other.
func TestSweepIsNotHeldUp(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	b := backends(t)[0]
	if _, err := b.Probe(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"sticks", "to-be-swept", "to-be-swept-too"} { // which is how List has them
		sb, err := sandbox.Start(t.Context(), b, sandbox.Options{ID: id, Labels: f.labels()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = sb.Destroy(context.Background()) })
	}
	f.start(worker.Config{Workflows: []*workflow.Definition{censusV1}, Backends: []sandbox.Backend{sticky{b, "sticks"}}})
	eventually(t, "the others are removed", func() bool {
		listed, err := b.List(t.Context(), f.schema)
		if err != nil {
			t.Fatal(err)
		}
		return len(listed) == 1 && listed[0].ID == "sticks"
	})
}
