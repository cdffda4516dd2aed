package identity_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/stepward/stepward/audit"
	"github.com/stepward/stepward/identity"
	"github.com/stepward/stepward/internal/binding"
	"github.com/stepward/stepward/internal/testenv"
	"github.com/stepward/stepward/workflow"
)

// admin returns profiles of a new schema.
func admin(t *testing.T) (*identity.Profiles, *pgxpool.Pool, string) {
	t.Helper()
	pool, schema := testenv.Postgres(t)
	if err := workflow.Migrate(t.Context(), pool, workflow.MigrateOptions{Schema: schema}); err != nil {
		t.Fatal(err)
	}
	p, err := identity.New(pool, identity.Options{Schema: schema, Actor: "ops"})
	if err != nil {
		t.Fatal(err)
	}
	return p, pool, schema
}

func events(t *testing.T, pool *pgxpool.Pool, schema, tenant string) (kinds []string) {
	t.Helper()
	all, err := audit.Events(t.Context(), pool, audit.Filter{Schema: schema, Tenant: &tenant})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range all {
		kinds = append(kinds, e.Kind+" "+e.Actor)
	}
	return kinds
}

// Put refuses a profile exactly when, together with what there is, a key would be ambiguous at some place.
func TestPutAmbiguous(t *testing.T) {
	t.Parallel()
	p, pool, schema := admin(t)
	var scopes []identity.Scope
	for _, project := range []string{"", "web", "api"} {
		for _, environment := range []string{"", "prod"} {
			for _, workflow := range []string{"", "site"} {
				scopes = append(scopes, identity.Scope{Tenant: "acme", Project: project, Environment: environment, Workflow: workflow})
			}
		}
	}
	scopes = append(scopes, identity.Scope{}, identity.Scope{Tenant: "acme", Step: "publish"}, identity.Scope{Tenant: "acme", Project: "web", Step: "publish"}, identity.Scope{Tenant: "acme", Step: "build"})
	ambiguous := func(all ...identity.Profile) bool {
		for _, project := range []string{"", "web", "api"} {
			for _, environment := range []string{"", "prod"} {
				for _, step := range []string{"publish", "build"} {
					place := identity.Scope{Tenant: "acme", Project: project, Environment: environment, Workflow: "site", Step: step}
					for _, r := range identity.Resolve(all, place, nil) {
						if errors.Is(r.Err, identity.ErrAmbiguous) {
							return true
						}
					}
				}
			}
		}
		return false
	}
	empty := func() {
		t.Helper()
		if _, err := pool.Exec(t.Context(), "DELETE FROM "+schema+".profile"); err != nil {
			t.Fatal(err)
		}
	}
	both := func(a, b identity.Profile) {
		t.Helper()
		empty()
		if err := p.Put(t.Context(), a); err != nil {
			t.Fatal(err)
		}
		err, want := p.Put(t.Context(), b), ambiguous(a, b)
		if bad, ok := errors.AsType[*identity.KeyError](err); want != errors.Is(err, identity.ErrAmbiguous) || !want && err != nil || want && (!ok || bad.Key != "K" || !strings.Contains(bad.Detail, "profile a ") || !strings.Contains(bad.Detail, "profile b ")) {
			t.Errorf("%v and %v: %v, and resolved it is ambiguous: %v", a.Scope, b.Scope, err, want)
		}
	}
	for _, a := range scopes {
		for _, b := range scopes {
			both(profile("a", a, ref("a")), profile("b", b, ref("b")))
		}
	}
	for _, k := range []identity.Key{{Deny: true}, {Unset: true}, {MinLevel: identity.L1}} {
		both(profile("a", project, ref("a")), profile("b", project, k))
		both(profile("a", project, k), profile("b", project, ref("b")))
	}

	// A change that makes it so is refused, too, and one that mends it is not.
	empty()
	a, b := profile("a", project, ref("a")), identity.Profile{Name: "b", Scope: project, Keys: keys{"REGION": {Knob: "eu"}}}
	for _, pr := range []identity.Profile{a, b} {
		if err := p.Put(t.Context(), pr); err != nil {
			t.Fatal(err)
		}
	}
	b.Generation, b.Keys = 1, keys{"K": ref("b")}
	if err := p.Put(t.Context(), b); !errors.Is(err, identity.ErrAmbiguous) {
		t.Errorf("got %v", err)
	}
	a.Generation, a.Keys = 1, keys{"OTHER": ref("a")}
	if err := errors.Join(p.Put(t.Context(), a), p.Put(t.Context(), b)); err != nil {
		t.Error(err)
	}
}

// Of profiles that come at once and name one key, the first is there, and the others are refused: also where transactions
// have one snapshot unless they say otherwise.
func TestPutAmbiguousAtOnce(t *testing.T) {
	t.Parallel()
	_, pool, schema := admin(t)
	cfg := pool.Config()
	cfg.ConnConfig.RuntimeParams["default_transaction_isolation"] = "repeatable read"
	strict, err := pgxpool.NewWithConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(strict.Close)
	p, err := identity.New(strict, identity.Options{Schema: schema})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		var group sync.WaitGroup
		errs := make([]error, 4)
		for j := range errs {
			group.Go(func() {
				errs[j] = p.Put(t.Context(), identity.Profile{Name: fmt.Sprintf("p%d-%d", i, j), Scope: project, Keys: keys{fmt.Sprintf("KEY%d", i): ref("x")}})
			})
		}
		group.Wait()
		taken := 0
		for _, err := range errs {
			if err == nil {
				taken++
			} else if !errors.Is(err, identity.ErrAmbiguous) {
				t.Error(err)
			}
		}
		if taken != 1 {
			t.Errorf("%d of 4 are there", taken)
		}
	}
}

func TestProfiles(t *testing.T) {
	t.Parallel()
	p, pool, schema := admin(t)
	ctx := t.Context()
	acme := identity.Profile{Name: "acme", Scope: project, Keys: keys{"TOKEN": {Ref: "file://a", Commands: []string{"git"}, MinLevel: identity.L1}, "REGION": {Knob: "eu"}}}
	if err := p.Put(ctx, acme); err != nil {
		t.Fatal(err)
	}
	if err := p.Put(ctx, acme); err != nil { // says the same
		t.Error(err)
	}
	other := acme
	other.Keys = keys{"TOKEN": ref("b")}
	if err := p.Put(ctx, other); !errors.Is(err, identity.ErrConflict) {
		t.Errorf("got %v", err)
	}
	got, err := p.Get(ctx, "acme", "acme")
	if err != nil || got.Generation != 1 || got.Scope != project || got.Actor != "ops" || got.Changed.IsZero() || fmt.Sprint(got.Keys) != fmt.Sprint(acme.Keys) {
		t.Fatalf("got %+v, %v", got, err)
	}
	got.Keys["TOKEN"] = ref("b")
	if err := p.As("ann").Put(ctx, got); err != nil {
		t.Fatal(err)
	}
	got.Keys["TOKEN"] = ref("c")
	if err := p.Put(ctx, got); !errors.Is(err, identity.ErrConflict) { // of Generation 1
		t.Errorf("got %v", err)
	}
	if _, err := p.Get(ctx, "other", "acme"); !errors.Is(err, identity.ErrNotFound) {
		t.Errorf("got %v", err)
	}
	if err := p.Put(ctx, identity.Profile{Name: "defaults", Keys: keys{"REGION": {Knob: "eu"}}}); err != nil {
		t.Fatal(err)
	}
	for tenant, want := range map[string]int{"acme": 1, "": 1, "other": 0} {
		if all, err := listed(p.List(ctx, identity.ProfileFilter{Tenant: tenant})); err != nil || len(all) != want {
			t.Errorf("of %q: %v, %v", tenant, all, err)
		}
	}
	if err := p.Delete(ctx, got); !errors.Is(err, identity.ErrConflict) {
		t.Errorf("got %v", err)
	}
	got, err = p.Get(ctx, "acme", "acme")
	if err != nil || got.Actor != "ann" || got.Generation != 2 {
		t.Fatalf("got %+v, %v", got, err)
	}
	if err := p.Delete(ctx, got); err != nil {
		t.Fatal(err)
	}
	if err := p.Delete(ctx, got); !errors.Is(err, identity.ErrNotFound) {
		t.Errorf("got %v", err)
	}
	if s, why, err := state(t, pool, schema, binding.Use{Tenant: "acme", Profiles: []int64{got.ID}}); err != nil || s != identity.Hard || why.Kind != identity.KindProfile {
		t.Errorf("got %v, %v, %v", s, why, err)
	}
	if err := p.Put(ctx, acme); err != nil { // another profile
		t.Fatal(err)
	}
	again, err := p.Get(ctx, "acme", "acme")
	if err != nil || again.ID == got.ID {
		t.Errorf("got %+v, %v", again, err)
	}
	if s, _, err := state(t, pool, schema, binding.Use{Tenant: "acme", Profiles: []int64{again.ID}}); err != nil || s != identity.Active {
		t.Errorf("got %v, %v", s, err)
	}
	if got, want := events(t, pool, schema, "acme"), []string{"profile.put ops", "profile.put ann", "profile.deleted ops", "profile.put ops"}; !slices.Equal(got, want) {
		t.Errorf("got events %v, want %v", got, want)
	}
	if _, err := pool.Exec(ctx, "DROP TABLE "+schema+".event CASCADE"); err != nil {
		t.Fatal(err)
	}
	again.Keys["TOKEN"] = ref("d")
	if err := p.Put(ctx, again); err == nil {
		t.Error("a change without an event")
	}
	if have, err := p.Get(ctx, "acme", "acme"); err != nil || have.Generation != 1 {
		t.Errorf("got %+v, %v", have, err)
	}
}

// Of many that make or change one profile at once, one does, and the others are told.
func TestProfilesRace(t *testing.T) {
	t.Parallel()
	p, _, _ := admin(t)
	race := func(put func(i int) error) (won, lost int) {
		var mu sync.Mutex
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				err := put(i)
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err == nil:
					won++
				case errors.Is(err, identity.ErrConflict):
					lost++
				default:
					t.Error(err)
				}
			})
		}
		wg.Wait()
		return won, lost
	}
	made := identity.Profile{Name: "p", Scope: tenant, Keys: keys{"TOKEN": ref("a")}}
	if won, _ := race(func(int) error { return p.Put(t.Context(), made) }); won != 8 { // all say the same
		t.Errorf("%d made it", won)
	}
	for round := range 2 {
		have, err := p.Get(t.Context(), "acme", "p")
		if err != nil {
			t.Fatal(err)
		}
		won, lost := race(func(i int) error {
			mine := have
			mine.Keys = keys{"TOKEN": ref(fmt.Sprint(round, "-", i))}
			return p.Put(t.Context(), mine)
		})
		if won != 1 || lost != 7 {
			t.Errorf("%d won, %d lost", won, lost)
		}
	}
}
