package enqueue_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stepward/stepward/identity"
	"github.com/stepward/stepward/internal/engine"
	"github.com/stepward/stepward/internal/enqueue"
)

// What adds a run, with secrets or without, is planned a few times and not for every run: a plan takes longer to
// make than to execute.
func TestPlansAreKept(t *testing.T) {
	b := newBinder(t)
	b.put("acme", acme, map[string]identity.Key{"TOKEN": key("t")})
	conn, err := b.pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	const n = 10
	for range n {
		err := pgx.BeginFunc(t.Context(), conn, func(tx pgx.Tx) error {
			_, err := enqueue.Insert(t.Context(), tx, b.q, []enqueue.Item{
				{Tenant: "acme", Workflow: "site", Input: []byte("1"), Identity: engine.Identity{Environment: "prod"}},
			})
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	rows, err := conn.Query(t.Context(), `SELECT substring(statement, '/\* stepward (\w+)'), custom_plans
		FROM pg_prepared_statements WHERE generic_plans + custom_plans >= $1`, n)
	if err != nil {
		t.Fatal(err)
	}
	planned := map[string]int{}
	var name string
	var times int
	if _, err := pgx.ForEachRow(rows, []any{&name, &times}, func() error { planned[name] = times; return nil }); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"DefinitionNewest", "IdentityShare", "IdentityApply", "RunInsert"} {
		if times, ok := planned[name]; !ok || times > 5 { // what Postgres tries before it keeps one
			t.Errorf("%s was planned %d times for %d runs, or is not there: %v", name, times, n, planned)
		}
	}
}

// What was revoked of others is not read, however much that is: of profiles that are gone, other keys, workflows, runs and workers.
func TestRevokedOfOthersIsNotRead(t *testing.T) {
	b := newBinder(t)
	b.put("acme", acme, map[string]identity.Key{"TOKEN": key("t"), "REGION": {Knob: "eu"}})
	err := b.p.Revoke(t.Context(), identity.Revocation{Tenant: "acme", Kind: identity.KindKey, Target: "REGION", State: identity.Deprecated})
	if err != nil {
		t.Fatal(err)
	}
	_, err = b.pool.Exec(t.Context(), `WITH e AS (INSERT INTO `+b.q.Schema+`.identity_epoch VALUES ('', 9999)) INSERT INTO `+b.q.Schema+`.revocation (tenant, epoch, kind, target, version, state, drain, actor, reason)
		SELECT t, 10 + 6 * n + k.i, k.kind, 'X' || n, '', 3, false, 'ops', '' FROM generate_series(1, 1000) n, (VALUES ('acme'), ('')) t (t),
		       unnest(ARRAY['key', 'version', 'profile', 'workflow', 'run', 'worker']) WITH ORDINALITY k (kind, i)`)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.pool.Exec(t.Context(), "ANALYZE "+b.q.Schema+".revocation"); err != nil {
		t.Fatal(err)
	}
	pages := func(all bool) (plan struct {
		Rows int `json:"Actual Rows"`
		Hit  int `json:"Shared Hit Blocks"`
		Read int `json:"Shared Read Blocks"`
	}) {
		t.Helper()
		err := pgx.BeginFunc(t.Context(), b.pool, func(tx pgx.Tx) error {
			var out []struct{ Plan json.RawMessage }
			if _, err := tx.Exec(t.Context(), "SET LOCAL plan_cache_mode = force_generic_plan"); err != nil { // the one that is kept
				return err
			}
			kinds := []string{"tenant", "run", "worker", "workflow", "profile", "key", "version", "key", "version"}
			targets := []string{"", "run_1", "w", "site", "99", "TOKEN", "TOKEN", "REGION", "REGION"}
			err := tx.QueryRow(t.Context(), "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) "+b.q.IdentityApply,
				[]string{"acme"}, []string{""}, []string{""}, []string{"site"}, kinds, targets, all).Scan(&out)
			if err == nil {
				err = json.Unmarshal(out[0].Plan, &plan)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return plan
	}
	if p := pages(false); p.Rows != 3 || p.Hit+p.Read > 100 { // two epochs, one of them with what is revoked, and a profile
		t.Errorf("%d rows, of %d pages", p.Rows, p.Hit+p.Read)
	}
	if p := pages(true); p.Rows < 4000 || p.Hit+p.Read < 100 { // that of an early binding: all keys
		t.Errorf("control: %d rows, of %d pages", p.Rows, p.Hit+p.Read)
	}
}

// An enqueue with secrets beside one without, in turns: ratio is what counts.
func BenchmarkBind(b *testing.B) {
	f := newBinder(b)
	f.put("acme", acme, map[string]identity.Key{"TOKEN": key("t"), "REGION": {Knob: "eu"}})
	f.put("prod", prod, map[string]identity.Key{"TOKEN": key("p")})
	var with, without time.Duration
	for b.Loop() {
		start := time.Now()
		f.add(enqueue.Item{Tenant: "acme", Workflow: "plain"})
		mid := time.Now()
		f.add(enqueue.Item{Tenant: "acme", Workflow: "site"})
		without, with = without+mid.Sub(start), with+time.Since(mid)
	}
	b.ReportMetric(float64(with)/float64(without), "ratio")
}
