package enqueue_test

import (
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
	for _, name := range []string{"DefinitionNewest", "IdentityShare", "ProfileApply", "RevocationApply", "RunInsert"} {
		if times, ok := planned[name]; !ok || times > 5 { // what Postgres tries before it keeps one
			t.Errorf("%s was planned %d times for %d runs, or is not there: %v", name, times, n, planned)
		}
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
