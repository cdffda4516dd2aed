package identity_test

import (
	"errors"
	"fmt"
	"iter"
	"testing"

	"github.com/stepward/stepward/identity"
	"github.com/stepward/stepward/identity/explain"
	"github.com/stepward/stepward/internal/testenv"
	"github.com/stepward/stepward/workflow"
)

// listed returns what a listing yields.
func listed[T any](all iter.Seq2[T, error]) (out []T, err error) {
	for v, err := range all {
		if err != nil {
			return out, err
		}
		out = append(out, v)
	}
	return out, nil
}

// A listing is read page by page, each after what was last there, holds no connection in between, and goes on from anywhere.
func TestList(t *testing.T) {
	t.Parallel()
	p, pool, schema := admin(t)
	ctx, exec := t.Context(), func(sql string) {
		t.Helper()
		if _, err := pool.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	const n = 250
	exec("INSERT INTO " + schema + ".profile (tenant, name, project, environment, workflow, step, actor, keys) SELECT t, 'p' || lpad(i::text, 4, '0'), '', '', '', '', '', '{}' FROM generate_series(1, 250) i, unnest(ARRAY['acme', 'other', '']) t")
	exec("INSERT INTO " + schema + ".revocation (tenant, epoch, kind, target, version, state, drain, actor, reason) SELECT t, i, 'run', i::text, '', 3, false, '', '' FROM generate_series(1, 250) i, unnest(ARRAY['acme', 'other', '']) t")
	name := func(i int) string { return fmt.Sprintf("p%04d", i) }
	for _, c := range []struct{ after, limit, want int }{{0, 0, n}, {0, n + 1, n}, {0, n, n}, {0, 100, 100}, {0, 1, 1}, {0, 199, 199}, {120, 0, n - 120}, {120, 110, 110}, {n, 0, 0}} {
		profiles, err := listed(p.List(ctx, identity.ProfileFilter{Tenant: "acme", After: name(c.after), Limit: c.limit}))
		if err != nil || len(profiles) != c.want {
			t.Errorf("%+v: %d profiles, %v", c, len(profiles), err)
		}
		revoked, err := listed(p.Revocations(ctx, identity.RevocationFilter{Tenant: "acme", After: int64(c.after), Limit: c.limit}))
		if err != nil || len(revoked) != c.want {
			t.Errorf("%+v: %d revocations, %v", c, len(revoked), err)
		}
		for i := range min(len(profiles), len(revoked)) {
			if pr, r := profiles[i], revoked[i]; pr.Name != name(c.after+i+1) || pr.Scope.Tenant != "acme" || r.Epoch != int64(c.after+i+1) || r.Tenant != "acme" {
				t.Fatalf("%+v: item %d is %s and %d", c, i, pr.Name, r.Epoch)
			}
		}
	}
	all := p.List(ctx, identity.ProfileFilter{Tenant: "acme"})
	seen := 0
	for pr, err := range all {
		if err != nil {
			t.Fatal(err)
		}
		if seen++; seen == 1 {
			if held := pool.Stat().AcquiredConns(); held != 0 {
				t.Errorf("it holds %d connections", held)
			}
			exec("DELETE FROM " + schema + ".profile WHERE name = 'p0250'") // of the last page
		}
		if pr.Name == name(n) {
			t.Error("a page that was not read yet was there already")
		}
	}
	if again, err := listed(all); err != nil || seen != n-1 || len(again) != seen {
		t.Errorf("it yielded %d, and then %d, %v", seen, len(again), err)
	}
	if _, err := listed(p.List(ctx, identity.ProfileFilter{Limit: -1})); !errors.As(err, new(*identity.ProfileError)) {
		t.Errorf("got %v", err)
	}
}

// Where the migrations were not applied, everything says that, and not which table is not there.
func TestNoSchema(t *testing.T) {
	pool, schema := testenv.Postgres(t)
	p, err := identity.New(pool, identity.Options{Schema: schema})
	if err != nil {
		t.Fatal(err)
	}
	ctx, errs := t.Context(), map[string]error{
		"put profile acme": p.Put(t.Context(), identity.Profile{Name: "acme", Scope: identity.Scope{Tenant: "acme"}}),
		"rotate TOKEN":     p.Rotate(t.Context(), "acme", "TOKEN", "2"),
		"revoke":           p.Revoke(t.Context(), identity.Revocation{Tenant: "acme", Kind: identity.KindKey, Target: "TOKEN", State: identity.Soft}),
	}
	_, errs["get profile acme"] = p.Get(ctx, "acme", "acme")
	_, errs["explain"] = explain.Run(ctx, pool, "1", identity.Options{Schema: schema})
	for _, err := range p.List(ctx, identity.ProfileFilter{Tenant: "acme"}) {
		errs["list profiles"] = err
	}
	for what, err := range errs {
		bad, ok := errors.AsType[*workflow.SchemaError](err)
		want := fmt.Sprintf("identity: %s: schema %q is not there, or has no tables: apply the migrations (workflow.Migrate)", what, schema)
		if !ok || bad.Have != 0 || err.Error() != want {
			t.Errorf("%s: got %v, want %s", what, err, want)
		}
	}
}
