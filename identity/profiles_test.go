package identity_test

import (
	"errors"
	"fmt"
	"slices"
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
		if all, err := p.List(ctx, tenant); err != nil || len(all) != want {
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
