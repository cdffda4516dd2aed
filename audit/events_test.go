package audit_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/stepward/stepward/audit"
	"github.com/stepward/stepward/internal/testenv"
	"github.com/stepward/stepward/workflow"
)

func newClient(t *testing.T) (*pgxpool.Pool, string, *workflow.Client) {
	t.Helper()
	pool, schema := testenv.Postgres(t)
	if err := workflow.Migrate(t.Context(), pool, workflow.MigrateOptions{Schema: schema}); err != nil {
		t.Fatal(err)
	}
	client, err := workflow.NewClient(workflow.ClientConfig{Pool: pool, Schema: schema})
	if err != nil {
		t.Fatal(err)
	}
	return pool, schema, client
}

func list(t *testing.T, pool *pgxpool.Pool, f audit.Filter) []audit.Event {
	t.Helper()
	events, err := audit.Events(t.Context(), pool, f)
	if err != nil {
		t.Fatal(err)
	}
	return events
}

// An event is part of the transaction of its change: when that is rolled back,
// or fails at its commit, neither is there.
func TestEventsGoWithTheirChange(t *testing.T) {
	pool, schema, client := newClient(t)
	ctx := t.Context()
	tx, err := pool.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := greeting.EnqueueTx(ctx, client, tx, "ada", workflow.EnqueueOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := tx.Rollback(ctx); err != nil {
		t.Fatal(err)
	}
	if events := list(t, pool, audit.Filter{Schema: schema}); len(events) != 0 {
		t.Errorf("after a rollback: %+v", events)
	}

	run, err := greeting.Enqueue(ctx, client, "ada", workflow.EnqueueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	// A change that Postgres refuses when it is to be committed.
	_, err = pool.Exec(ctx, fmt.Sprintf(`CREATE FUNCTION %[1]s.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'refused'; END $$;
		CREATE CONSTRAINT TRIGGER refuse AFTER UPDATE ON %[1]s.run DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION %[1]s.refuse()`, schema))
	if err != nil {
		t.Fatal(err)
	}
	if err := run.Cancel(ctx); err == nil {
		t.Fatal("the change was not refused")
	}
	if events := list(t, pool, audit.Filter{Schema: schema, Run: run.ID, Kinds: []string{audit.RunCancel}}); len(events) != 0 {
		t.Errorf("an event without its change: %+v", events)
	}
	if _, err := pool.Exec(ctx, fmt.Sprintf("DROP TRIGGER refuse ON %s.run", schema)); err != nil {
		t.Fatal(err)
	}
	if err := run.Cancel(ctx); err != nil {
		t.Fatal(err)
	}
	if events := list(t, pool, audit.Filter{Schema: schema, Run: run.ID, Kinds: []string{audit.RunCancel}}); len(events) != 1 {
		t.Errorf("a change without its event: %+v", events)
	}

	// And the other way round: a change whose event cannot be written.
	run, err = greeting.Enqueue(ctx, client, "bob", workflow.EnqueueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pool.Exec(ctx, fmt.Sprintf("ALTER TABLE %s.event ADD CHECK (kind <> 'run.cancel') NOT VALID", schema)); err != nil {
		t.Fatal(err)
	}
	if err := run.Cancel(ctx); err == nil {
		t.Error("a run was canceled without an event")
	}
	if s, err := client.Get(ctx, run.ID); err != nil || s.State != workflow.StateReady || s.CancelRequested {
		t.Errorf("got %+v, %v", s, err)
	}
}

// Filters select by run, tenant and kind; pages show each event once, even those
// of one moment.
func TestEventsFilters(t *testing.T) {
	pool, schema, client := newClient(t)
	ctx := t.Context()
	var runs []workflow.Run[string]
	for i := range 6 {
		run, err := greeting.Enqueue(ctx, client, "ada", workflow.EnqueueOptions{Tenant: []string{"acme", "other", ""}[i%3]})
		if err != nil {
			t.Fatal(err)
		}
		runs = append(runs, run)
	}
	for _, run := range runs[:3] {
		if err := run.Cancel(ctx); err != nil {
			t.Fatal(err)
		}
	}
	acme, none, unknown := "acme", "", "unknown"
	for _, c := range []struct {
		name   string
		filter audit.Filter
		want   int
	}{
		{"all", audit.Filter{}, 12},
		{"a run", audit.Filter{Run: runs[0].ID}, 3},
		{"a run without a cancelation", audit.Filter{Run: runs[5].ID}, 1},
		{"an unknown run", audit.Filter{Run: 1}, 0},
		{"a tenant", audit.Filter{Tenant: &acme}, 4},
		{"no tenant", audit.Filter{Tenant: &none}, 4},
		{"an unknown tenant", audit.Filter{Tenant: &unknown}, 0},
		{"a kind", audit.Filter{Kinds: []string{audit.RunCancel}}, 3},
		{"two kinds", audit.Filter{Kinds: []string{audit.RunCancel, audit.RunEnqueued}}, 9},
		{"an unknown kind", audit.Filter{Kinds: []string{"unknown"}}, 0},
		{"a tenant and a kind", audit.Filter{Tenant: &acme, Kinds: []string{audit.RunCancel}}, 1},
		{"a run of another tenant", audit.Filter{Tenant: &acme, Run: runs[1].ID}, 0},
		{"a limit", audit.Filter{Limit: 4}, 4},
		{"the end", audit.Filter{Offset: 10}, 2},
		{"beyond the end", audit.Filter{Offset: 12}, 0},
		{"nonsense", audit.Filter{Limit: -1, Offset: -1}, 12},
	} {
		c.filter.Schema = schema
		if got := list(t, pool, c.filter); len(got) != c.want {
			t.Errorf("%s: got %d events, want %d: %+v", c.name, len(got), c.want, got)
		}
	}

	// Many events of one moment, in no order.
	_, err := pool.Exec(ctx, fmt.Sprintf(`INSERT INTO %s.event (at, run_id, kind, actor, step)
		SELECT 'epoch', $1, 'test', 'test', md5(n::text) FROM generate_series(1, 500) n`, schema), int64(runs[0].ID))
	if err != nil {
		t.Fatal(err)
	}
	all := list(t, pool, audit.Filter{Schema: schema, Kinds: []string{"test"}})
	var paged []audit.Event
	for {
		// What an update moves within its table shows a tie that nothing broke.
		if _, err := pool.Exec(ctx, fmt.Sprintf("UPDATE %s.event SET actor = actor WHERE id %% 7 = $1", schema), len(paged)%7); err != nil {
			t.Fatal(err)
		}
		page := list(t, pool, audit.Filter{Schema: schema, Kinds: []string{"test"}, Limit: 30, Offset: len(paged)})
		if len(page) == 0 {
			break
		}
		paged = append(paged, page...)
	}
	step := func(a, b audit.Event) bool { return a.Step == b.Step }
	if len(all) != 500 || !slices.EqualFunc(all, paged, step) {
		t.Errorf("%d events, and %d in pages, which differ", len(all), len(paged))
	}
}

func TestEventsErrors(t *testing.T) {
	pool, schema := testenv.Postgres(t)
	_, err := audit.Events(t.Context(), pool, audit.Filter{Schema: "No Name"})
	if bad := (*workflow.SchemaError)(nil); !errors.As(err, &bad) {
		t.Errorf("got %v", err)
	}
	_, err = audit.Events(t.Context(), pool, audit.Filter{Schema: schema})
	if bad := (*workflow.SchemaError)(nil); !errors.As(err, &bad) || strings.Contains(err.Error(), "SQLSTATE") {
		t.Errorf("events of a schema that does not exist: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := audit.Events(ctx, pool, audit.Filter{Schema: schema}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
