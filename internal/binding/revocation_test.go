package binding_test

import (
	"testing"

	"github.com/stepward/stepward/identity"
	"github.com/stepward/stepward/internal/binding"
	"github.com/stepward/stepward/internal/db"
)

// What is revoked is read of what is asked about only. Nothing else is taken for permitted.
func TestRevocationsOfUses(t *testing.T) {
	t.Parallel()
	p, pool, schema := admin(t)
	q, err := db.New(schema)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Put(t.Context(), identity.Profile{Name: "here", Scope: tenant, Keys: keys{"A": ref("a")}}); err != nil {
		t.Fatal(err)
	}
	gone := identity.Profile{Name: "gone", Scope: tenant, Keys: keys{"B": ref("b")}, Generation: 1}
	before := gone
	before.Generation = 0
	if err := p.Put(t.Context(), before); err != nil {
		t.Fatal(err)
	}
	gone, err = p.Get(t.Context(), "acme", "gone")
	if err == nil {
		err = p.Delete(t.Context(), gone)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []identity.Revocation{
		{Kind: identity.KindKey, Target: "A"}, {Kind: identity.KindVersion, Target: "C", Version: "1"}, {Kind: identity.KindWorkflow, Target: "site"},
		{Kind: identity.KindWorker, Target: "w"}, {Kind: identity.KindProfile, Target: "here"},
	} {
		r.Tenant, r.State = "acme", identity.Hard
		if err := p.Revoke(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	here, err := p.Get(t.Context(), "acme", "here")
	if err != nil {
		t.Fatal(err)
	}
	of := func(u binding.Use, asked ...binding.Use) (identity.State, string) {
		t.Helper()
		v, err := binding.Load(t.Context(), pool, q, []identity.Scope{tenant}, asked)
		if err != nil {
			t.Fatal(err)
		}
		u.Tenant = "acme"
		s, why := v.Revocations.Of(u)
		return s, why.Reason
	}
	other := binding.Use{Key: "Z", Workflow: "z", Worker: []string{"z"}, Run: 7, Profiles: []int64{1 << 40}}
	for what, u := range map[string]binding.Use{
		"key": {Key: "A"}, "version": {Key: "C", Version: "1"}, "workflow": {Workflow: "site"}, "worker": {Worker: []string{"v", "w"}},
		"profile that is gone": {Profiles: []int64{gone.ID}}, "profile": {Profiles: []int64{here.ID}},
	} {
		if s, why := of(u, other, u); s != identity.Hard || why != "" {
			t.Errorf("%s: got %v, %q", what, s, why)
		}
		if s, why := of(u, other); s != identity.Hard || why == "" && what != "profile" {
			t.Errorf("%s, not asked about: got %v, %q", what, s, why)
		}
	}
	if s, why := of(other, other); s != identity.Active { // control
		t.Errorf("got %v, %q", s, why)
	}
	if s, why := of(binding.Use{Key: "A"}); s != identity.Hard || why != "" { // of every key
		t.Errorf("got %v, %q", s, why)
	}
	if _, err := pool.Exec(t.Context(), "INSERT INTO "+schema+".revocation (tenant, epoch, kind, target, version, state, drain, actor, reason) VALUES ('acme', 99, 'planet', 'x', '', 3, false, '', '')"); err != nil {
		t.Fatal(err)
	}
	if s, why := of(other, other); s != identity.Hard || why != "" { // what a later version of the program knows
		t.Errorf("got %v, %q", s, why)
	}
}
