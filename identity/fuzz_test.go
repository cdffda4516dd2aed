package identity_test

import (
	"encoding/json"
	"testing"

	"github.com/stepward/stepward/identity"
)

// fuzzedProfiles are what the runs of two tenants can have.
var fuzzedProfiles = []identity.Profile{
	{ID: 1, Name: "all", Keys: keys{"REGION": {Knob: "eu"}, "NEVER": {Deny: true}}},
	{ID: 2, Name: "acme", Scope: tenant, Keys: keys{"TOKEN": {Ref: "file://acme/token", Required: true}, "FIXED": {Ref: "file://acme/fixed", Lock: true}, "MOVES": {Ref: "file://acme/moves", Retarget: true}}},
	{ID: 3, Name: "rival", Scope: identity.Scope{Tenant: "rival"}, Keys: keys{"TOKEN": {Ref: "file://rival/token"}}},
}

// Whatever is stored as what a run says of its keys, it adds no name and no secret to
// those of its tenant, and sets nothing that is locked or denied.
func FuzzRunKeys(f *testing.F) {
	for _, s := range []string{
		"null", "{}", "[]", `{"TOKEN":null}`, `{"TOKEN":{"unset":true}}`, `{"TOKEN":{"ref":"file://rival/token"}}`, `{"TOKEN":{"ref":"file://acme/moves","min_level":"L2","commands":["git"]}}`,
		`{"NEVER":{"knob":"x"},"FIXED":{"knob":"x"},"NEW":{"ref":"file://acme/token"}}`, `{"":{"deny":true,"lock":true}}`, `{"TOKEN":{"min_level":"L9"}}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, stored []byte) {
		var run keys
		if json.Unmarshal(stored, &run) != nil {
			return
		}
		for name, r := range identity.Resolve(fuzzedProfiles, place, run) {
			if r.Err != nil {
				continue
			}
			switch {
			case name != "REGION" && name != "TOKEN" && name != "FIXED" && name != "MOVES":
				t.Errorf("%q gives the run %q, which no profile sets: %+v", stored, name, r.Key)
			case name == "FIXED" && r.Key.Ref != "file://acme/fixed":
				t.Errorf("%q sets what is locked: %+v", stored, r.Key)
			case r.Key.Ref != "" && r.Key.Ref != "file://acme/token" && r.Key.Ref != "file://acme/fixed" && r.Key.Ref != "file://acme/moves":
				t.Errorf("%q gives %s another's secret: %+v", stored, name, r.Key)
			}
		}
	})
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
		var b, back identity.Binding
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
		got, _, err := b.Start(identity.View{Profiles: fuzzedProfiles}, identity.Lister{Step: "publish", Secrets: []string{first, second}}, identity.Use{})
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
		b.Keep(identity.Binding{})
		if len(b.Names) != 0 {
			t.Errorf("of %d names %d are those of nothing", all, len(b.Names))
		}
	})
}
