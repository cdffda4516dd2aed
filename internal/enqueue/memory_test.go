package enqueue_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/stepward/stepward/identity"
	"github.com/stepward/stepward/internal/enqueue"
)

// trips is a transaction that counts what is waited for.
type trips struct {
	pgx.Tx
	n int
}

func (t *trips) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	t.n++
	return t.Tx.Query(ctx, sql, args...)
}

func (t *trips) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	t.n++
	return t.Tx.SendBatch(ctx, b)
}

// one adds a run of a tenant, and returns how often Postgres was waited for.
func (b *binder) one(m *enqueue.Memory, workflow string) (r enqueue.Result, n int) {
	b.Helper()
	err := pgx.BeginFunc(b.Context(), b.pool, func(tx pgx.Tx) error {
		c := &trips{Tx: tx}
		all, err := m.Insert(b.Context(), c, b.q, []enqueue.Item{{Tenant: "acme", Workflow: workflow, Input: []byte("1")}})
		if err == nil {
			r, n = all[0], c.n
		}
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	return r, n
}

// A run with secrets waits for Postgres as often as one without, unless its workflow has become another since the last.
// What is remembered of that is never what it is bound by.
func TestMemory(t *testing.T) {
	t.Parallel()
	b := newBinder(t)
	b.put("acme", acme, map[string]identity.Key{"TOKEN": key("t"), "OTHER": key("o")})
	var m enqueue.Memory
	want := func(workflow string, trips int, bound string) {
		t.Helper()
		r, n := b.one(&m, workflow)
		v, ok := b.bound(r.Run)
		got := ""
		if ok {
			got = fmt.Sprint(names(v))
		}
		if r.Err != nil || n != trips || got != bound {
			t.Errorf("%s: %d round trips, %s, %v; want %d, %s", workflow, n, got, r.Err, trips, bound)
		}
	}
	const token, other = "[publish/TOKEN=file://t@tenant]", "[publish/OTHER=file://o@tenant]"
	want("plain", 2, "")
	want("site", 3, token)
	want("site", 2, token)

	b.again("site", "2", `[{"name": "publish", "mode": "identity", "secrets": ["OTHER"]}]`, "identity")
	want("site", 3, other)
	want("site", 2, other)
	if err := b.p.Revoke(t.Context(), identity.Revocation{Tenant: "acme", Kind: identity.KindKey, Target: "TOKEN", State: identity.Hard}); err != nil {
		t.Fatal(err)
	}
	want("site", 2, other)

	b.again("site", "3", `[{"name": "build", "mode": "bare"}]`, "bare")
	want("site", 2, "")
	b.again("site", "4", `[{"name": "publish", "mode": "identity", "secrets": ["TOKEN"]}]`, "identity")
	for _, trips := range []int{2, 1} { // and nothing is inserted
		if r, n := b.one(&m, "site"); !errors.Is(r.Err, identity.ErrRevoked) || n != trips {
			t.Errorf("%d round trips, %v", n, r.Err)
		}
	}

	// Profiles are read each time, one that was made since as well.
	b.again("site", "5", `[{"name": "publish", "mode": "identity", "secrets": ["OTHER"]}]`, "identity")
	want("site", 3, other)
	b.put("site", identity.Scope{Tenant: "acme", Workflow: "site"}, map[string]identity.Key{"OTHER": key("p")})
	want("site", 2, "[publish/OTHER=file://p@workflow]")
	if err := b.p.Revoke(t.Context(), identity.Revocation{Tenant: "acme", Kind: identity.KindProfile, Target: "site", State: identity.Soft}); err != nil {
		t.Fatal(err)
	}
	if r, _ := b.one(&m, "site"); !errors.Is(r.Err, identity.ErrRevoked) {
		t.Error(r.Err)
	}

	// What cannot be read fails those that need it, and one that needs it no more for once.
	b.again("site", "6", `[{"name": "build", "mode": "bare"}]`, "bare")
	if _, err := b.pool.Exec(t.Context(), "ALTER TABLE "+b.q.Schema+".revocation RENAME TO away"); err != nil {
		t.Fatal(err)
	}
	insert := func() error {
		return pgx.BeginFunc(t.Context(), b.pool, func(tx pgx.Tx) error {
			_, err := m.Insert(t.Context(), tx, b.q, []enqueue.Item{{Tenant: "acme", Workflow: "site", Input: []byte("1")}})
			return err
		})
	}
	if err := insert(); err == nil {
		t.Error("nothing was asked for what was remembered")
	}
	want("site", 2, "")
	b.again("site", "7", `[{"name": "publish", "mode": "identity", "secrets": ["OTHER"]}]`, "identity")
	for range 2 {
		if err := insert(); err == nil {
			t.Error("it was bound to what nobody has read")
		}
	}
}
