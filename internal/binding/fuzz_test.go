package binding_test

import (
	"encoding/json"
	"testing"

	"github.com/stepward/stepward/identity"
	"github.com/stepward/stepward/internal/binding"
)

// fuzzedProfiles are what the runs of two tenants can have.
var fuzzedProfiles = []identity.Profile{
	{ID: 1, Name: "all", Keys: keys{"REGION": {Knob: "eu"}, "NEVER": {Deny: true}}},
	{ID: 2, Name: "acme", Scope: tenant, Keys: keys{"TOKEN": {Ref: "file://acme/token", Required: true}, "FIXED": {Ref: "file://acme/fixed", Lock: true}, "MOVES": {Ref: "file://acme/moves", Retarget: true}}},
	{ID: 3, Name: "rival", Scope: identity.Scope{Tenant: "rival"}, Keys: keys{"TOKEN": {Ref: "file://rival/token"}}},
}

// Whatever is stored as what a run is bound to, a step gets names that are in it and
// that it lists; and what is read is the same when it is stored again.
func FuzzBinding(f *testing.F) {
	for _, s := range []string{
		"null", "{}", "[1]", `{"place":{"tenant":"acme"},"epoch":{"":1,"acme":2},"names":[{"step":"publish","name":"TOKEN","ref":"file://acme/token"}]}`,
		`{"place":{"tenant":"rival"},"names":[{"name":"TOKEN","ref":"file://acme/token","retarget":true}],"early":true}`, `{"epoch":null,"names":null,"keys":{"TOKEN":{"deny":true}}}`,
		`{"place":{"tenant":"acme","step":"other"},"names":[{"step":"publish","name":"MOVES","ref":"file://old","commands":["git"],"min_level":"L3"}]}`,
	} {
		f.Add([]byte(s), "TOKEN", "MOVES?")
	}
	f.Fuzz(func(t *testing.T, stored []byte, first, second string) {
		var b, back binding.Binding
		if json.Unmarshal(stored, &b) != nil {
			return
		}
		text, err := json.Marshal(b)
		if err == nil {
			err = json.Unmarshal(text, &back)
		}
		if err != nil || back.Digest() != b.Digest() {
			t.Fatalf("%q is stored as %s: %v", stored, text, err)
		}
		got, _, err := b.Start(binding.View{Profiles: fuzzedProfiles}, binding.Lister{Step: "publish", Secrets: []string{first, second}}, binding.Use{})
		if err != nil && len(got) > 0 {
			t.Errorf("%q: %+v beside %v", stored, got, err)
		}
		for _, r := range got {
			bound := false
			for _, n := range b.Names {
				bound = bound || n.Name == r.Name && (n.Step == "publish" || n.Step == "") && (n.Ref == r.Key.Ref || n.Retarget)
			}
			if !bound || r.Name+"?" != first && r.Name != first && r.Name+"?" != second && r.Name != second {
				t.Errorf("%q gives %+v", stored, r)
			}
		}
		all := len(b.Names)
		b.Keep(binding.Binding{})
		if len(b.Names) != 0 {
			t.Errorf("of %d names %d are those of nothing", all, len(b.Names))
		}
	})
}
