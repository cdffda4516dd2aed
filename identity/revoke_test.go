package identity_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/stepward/stepward/identity"
	"github.com/stepward/stepward/internal/binding"
	"github.com/stepward/stepward/internal/db"
	"github.com/stepward/stepward/workflow"
)

// enqueued adds a run for each tenant.
func enqueued(t *testing.T, pool *pgxpool.Pool, schema string, tenants ...string) (runs []workflow.RunID) {
	t.Helper()
	c, err := workflow.NewClient(workflow.ClientConfig{Pool: pool, Schema: schema})
	if err != nil {
		t.Fatal(err)
	}
	for _, tenant := range tenants {
		run, err := workflow.DurableWorkflow[int, int]{Name: "other"}.Enqueue(t.Context(), c, 1, workflow.EnqueueOptions{Tenant: tenant})
		if err != nil {
			t.Fatal(err)
		}
		runs = append(runs, run.ID)
	}
	return runs
}

// state is that of a use now, and which revocation says so.
func state(t *testing.T, pool *pgxpool.Pool, schema string, u binding.Use) (identity.State, identity.Revocation, error) {
	t.Helper()
	q, err := db.New(schema)
	if err != nil {
		t.Fatal(err)
	}
	v, err := binding.Load(t.Context(), pool, q, []identity.Scope{{Tenant: u.Tenant, Workflow: u.Workflow}}, []binding.Use{u})
	s, why := v.Revocations.Of(u)
	return s, why, err
}

// States only go up, and what was revoked comes back as a new version only.
func TestRevoke(t *testing.T) {
	t.Parallel()
	p, pool, schema := admin(t)
	ctx := t.Context()
	revoke := func(r identity.Revocation, want error) {
		t.Helper()
		if err := p.Revoke(ctx, r); !errors.Is(err, want) || want == nil && err != nil {
			t.Errorf("revoke %+v: got %v, want %v", r, err, want)
		}
	}
	rotate := func(version string, want error) {
		t.Helper()
		if err := p.Rotate(ctx, "acme", "TOKEN", version); !errors.Is(err, want) || want == nil && err != nil {
			t.Errorf("rotate to %s: got %v, want %v", version, err, want)
		}
	}
	is := func(u binding.Use, want identity.State) {
		t.Helper()
		u.Tenant = "acme"
		if got, why, err := state(t, pool, schema, u); err != nil || got != want {
			t.Errorf("%+v: got %v for %+v, %v; want %v", u, got, why, err, want)
		}
	}
	token := identity.Revocation{Tenant: "acme", Kind: identity.KindKey, Target: "TOKEN"}
	at := func(r identity.Revocation, s identity.State) identity.Revocation { r.State = s; return r }
	use, v1, v2 := binding.Use{Key: "TOKEN"}, binding.Use{Key: "TOKEN", Version: "1"}, binding.Use{Key: "TOKEN", Version: "2"}

	is(use, identity.Active)
	rotate("1", nil)
	revoke(at(token, identity.Deprecated), nil)
	is(use, identity.Deprecated)
	revoke(at(token, identity.Soft), nil)
	revoke(at(token, identity.Soft), nil) // said already
	revoke(at(token, identity.Deprecated), identity.ErrRevoked)
	is(use, identity.Soft)
	revoke(at(token, identity.Hard), nil)
	is(use, identity.Hard)
	is(binding.Use{Key: "OTHER"}, identity.Active)
	rotate("1", identity.ErrRevoked) // it was current before
	rotate("2", nil)
	rotate("2", nil)
	is(use, identity.Active)
	is(v1, identity.Hard)
	is(v2, identity.Active)
	revoke(identity.Revocation{Tenant: "acme", Kind: identity.KindVersion, Target: "TOKEN", Version: "2", State: identity.Hard}, nil)
	is(v2, identity.Hard)
	rotate("2", identity.ErrRevoked)
	rotate("3", nil)
	revoke(at(token, identity.Soft), nil) // in every version once more
	is(binding.Use{Key: "TOKEN", Version: "3"}, identity.Soft)
	rotate("3", identity.ErrRevoked)

	revoke(identity.Revocation{Tenant: "acme", Kind: identity.KindWorkflow, Target: "site", State: identity.Soft, Drain: true}, nil)
	is(binding.Use{Workflow: "site"}, identity.Soft)
	is(binding.Use{Workflow: "site", Bound: map[string]int64{"acme": 0}}, identity.Active) // enqueued before
	is(binding.Use{Workflow: "site", Bound: map[string]int64{"acme": 99}}, identity.Soft)
	const deleted = 8
	runs := enqueued(t, pool, schema, "acme", "acme", "other")
	revoke(identity.Revocation{Tenant: "acme", Kind: identity.KindRun, Target: runs[0].String(), State: identity.Hard}, nil)
	is(binding.Use{Run: int64(runs[0])}, identity.Hard)
	is(binding.Use{Run: int64(runs[1])}, identity.Active)
	revoke(identity.Revocation{Tenant: "acme", Kind: identity.KindRun, Target: fmt.Sprint(int64(runs[1])), State: identity.Hard}, nil)
	is(binding.Use{Run: int64(runs[1])}, identity.Hard)
	revoke(identity.Revocation{Tenant: "acme", Kind: identity.KindRun, Target: runs[1].String(), State: identity.Soft}, identity.ErrRevoked) // it is one run
	revoke(identity.Revocation{Tenant: "acme", Kind: identity.KindRun, Target: runs[2].String(), State: identity.Hard}, identity.ErrNotFound)
	revoke(identity.Revocation{Kind: identity.KindRun, Target: runs[2].String(), State: identity.Hard}, nil)
	revoke(identity.Revocation{Kind: identity.KindRun, Target: workflow.RunID(deleted).String(), State: identity.Hard}, identity.ErrNotFound)
	revoke(identity.Revocation{Kind: identity.KindWorker, Target: "w1", State: identity.Hard}, nil) // for all tenants
	is(binding.Use{Worker: []string{"w1", "ab12"}}, identity.Hard)
	is(binding.Use{Worker: []string{"w2"}}, identity.Active)
	revoke(identity.Revocation{Tenant: "other", Kind: identity.KindTenant, State: identity.Hard}, nil)
	is(binding.Use{}, identity.Active)
	revoke(identity.Revocation{Kind: identity.KindTenant, State: identity.Soft}, nil) // everything
	is(binding.Use{}, identity.Soft)
	revoke(identity.Revocation{Tenant: "acme", Kind: identity.KindProfile, Target: "none", State: identity.Hard}, identity.ErrNotFound)

	all, err := listed(p.Revocations(ctx, identity.RevocationFilter{Tenant: "acme"}))
	if err != nil || len(all) != 11 {
		t.Errorf("got %+v, %v", all, err)
	}
	for i, r := range all {
		if r.Epoch != int64(i+1) || r.Actor != "ops" || r.At.IsZero() {
			t.Errorf("got %+v at %d", r, i)
		}
	}
	if got := events(t, pool, schema, "acme"); len(got) != len(all)+2 || !slices.Contains(got, "key.rotated ops") || !slices.Contains(got, "identity.revoked ops") {
		t.Errorf("got events %v", got)
	}
}

// A store may put more behind a version than people say of it: which of those is meant nobody has to know who
// takes it back.
func TestRevokeVersion(t *testing.T) {
	t.Parallel()
	p, pool, schema := admin(t)
	revoke := func(kind, version string) {
		t.Helper()
		if err := p.Revoke(t.Context(), identity.Revocation{Tenant: "acme", Kind: kind, Target: "TOKEN", Version: version, State: identity.Hard}); err != nil {
			t.Error(err)
		}
	}
	rotate := func(version string, want error) {
		t.Helper()
		if err := p.Rotate(t.Context(), "acme", "TOKEN", version); !errors.Is(err, want) || want == nil && err != nil {
			t.Errorf("rotate to %s: got %v, want %v", version, err, want)
		}
	}
	is := func(want identity.State, versions ...string) {
		t.Helper()
		for _, v := range versions {
			if got, why, err := state(t, pool, schema, binding.Use{Tenant: "acme", Key: "TOKEN", Version: v}); err != nil || got != want {
				t.Errorf("%s: got %v for %+v, %v; want %v", v, got, why, err, want)
			}
		}
	}
	revoke(identity.KindVersion, "3")
	is(identity.Hard, "3", "3@monday", "3@tuesday")
	is(identity.Active, "33@monday", "2@monday", "1")
	rotate("3@monday", identity.ErrRevoked)
	revoke(identity.KindVersion, "4@monday")
	is(identity.Hard, "4@monday")
	is(identity.Active, "4@tuesday", "4") // which one that is, is known at the start
	rotate("4", identity.ErrRevoked)

	rotate("5@monday", nil)
	revoke(identity.KindKey, "")
	rotate("5", identity.ErrRevoked) // it was current before
	rotate("6", nil)
	is(identity.Hard, "5@monday", "7")
	is(identity.Active, "6@monday", "6")
	revoke(identity.KindKey, "")
	rotate("8@monday", nil)
	is(identity.Active, "8@monday", "8")
	is(identity.Hard, "6@monday", "8@tuesday")
}

func TestRevokeBadInput(t *testing.T) {
	p, err := identity.New(nil, identity.Options{})
	if err == nil || p != nil {
		t.Errorf("got %v", err)
	}
	p = &identity.Profiles{} // nothing is asked
	for what, r := range map[string]identity.Revocation{
		"nothing":           {},
		"no state":          {Kind: identity.KindKey, Target: "K"},
		"no such state":     {Kind: identity.KindKey, Target: "K", State: 4},
		"no target":         {Kind: identity.KindKey, State: identity.Hard},
		"tenant's target":   {Kind: identity.KindTenant, Target: "acme", State: identity.Hard},
		"no version":        {Kind: identity.KindVersion, Target: "K", State: identity.Hard},
		"version of a run":  {Kind: identity.KindRun, Target: "1", Version: "1", State: identity.Hard},
		"hard with a drain": {Kind: identity.KindKey, Target: "K", State: identity.Hard, Drain: true},
		"NUL":               {Kind: identity.KindKey, Target: "K\x00", State: identity.Hard},
		"key by reference":  {Kind: identity.KindKey, Target: "file://deploy-token", State: identity.Hard},
		"key by path":       {Kind: identity.KindKey, Target: "deploy-token", State: identity.Hard},
		"version by path":   {Kind: identity.KindVersion, Target: "deploy-token", Version: "1", State: identity.Hard},
		"run by key":        {Kind: identity.KindRun, Target: "order-1", State: identity.Hard},
		"run cut short":     {Kind: identity.KindRun, Target: "run_1", State: identity.Hard},
		"no run":            {Kind: identity.KindRun, Target: "0", State: identity.Hard},
		"workflow@version":  {Kind: identity.KindWorkflow, Target: "site@1", State: identity.Hard},
		"no such kind":      {Kind: "sandbox", Target: "K", State: identity.Hard},
	} {
		var e *identity.ProfileError
		if err := p.Revoke(t.Context(), r); !errors.As(err, &e) {
			t.Errorf("%s: got %v", what, err)
		}
	}
	for _, bad := range [][3]string{{"acme", "LD_PRELOAD", "1"}, {"acme", "K", ""}, {"acme", "K", "a b"}, {"\x00", "K", "1"}} {
		var e *identity.ProfileError
		if err := p.Rotate(t.Context(), bad[0], bad[1], bad[2]); !errors.As(err, &e) {
			t.Errorf("%q: got %v", bad, err)
		}
	}
}
