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
