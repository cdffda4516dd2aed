package identity_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stepward/stepward/audit"
	"github.com/stepward/stepward/identity"
)

// Who lowered it, from what, is on record, also when the profile is changed again, or gone.
func TestChangesAreAudited(t *testing.T) {
	t.Parallel()
	p, pool, schema := admin(t)
	put := func(who string, pr identity.Profile) (detail string) {
		t.Helper()
		if err := p.As(who).Put(t.Context(), pr); err != nil {
			t.Fatal(err)
		}
		all, err := audit.Events(t.Context(), pool, audit.Filter{Schema: schema, Kinds: []string{audit.ProfilePut}})
		if err != nil {
			t.Fatal(err)
		}
		last := all[len(all)-1]
		if last.Actor != who {
			t.Errorf("by %s, want %s", last.Actor, who)
		}
		return string(last.Detail)
	}
	pr := identity.Profile{Name: "acme", Scope: tenant, Keys: keys{
		"TOKEN":  {Ref: "vault://kv/dev", MinLevel: identity.L3, Inject: &identity.Inject{Hosts: []string{"example.com"}}},
		"REGION": {Knob: "eu-hunter2"},
		"SAME":   {Ref: "vault://kv/same"},
	}}
	checks := func(detail string, want ...string) {
		t.Helper()
		var d struct {
			Changes []json.RawMessage
		}
		if err := json.Unmarshal([]byte(detail), &d); err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprintf("%s", d.Changes); got != "["+strings.Join(want, " ")+"]" {
			t.Errorf("got  %s\nwant %s", got, want)
		}
		if strings.Contains(detail, "hunter2") {
			t.Errorf("a knob's value is on record: %s", detail)
		}
	}
	checks(put("ann", pr),
		`{"key":"TOKEN","field":"min_level","to":"L3"}`,
		`{"key":"TOKEN","field":"inject","to":{"hosts":["example.com"]}}`,
		`{"key":"SAME","field":"ref","to":"vault://kv/same"}`,
		`{"key":"TOKEN","field":"ref","to":"vault://kv/dev"}`,
		`{"key":"REGION","field":"knob","to":true}`)
	pr.Generation, pr.Scope = 1, project
	pr.Keys = keys{"TOKEN": {Ref: "vault://kv/prod"}, "REGION": {Knob: "us-hunter2"}, "SAME": pr.Keys["SAME"]}
	checks(put("bob", pr),
		`{"field":"scope","from":{"tenant":"acme"},"to":{"tenant":"acme","project":"web"}}`,
		`{"key":"TOKEN","field":"min_level","from":"L3"}`,
		`{"key":"TOKEN","field":"inject","from":{"hosts":["example.com"]}}`,
		`{"key":"TOKEN","field":"ref","from":"vault://kv/dev","to":"vault://kv/prod"}`,
		`{"key":"REGION","field":"knob","from":true,"to":true}`)
	pr.Generation, pr.Keys = 2, keys{"TOKEN": pr.Keys["TOKEN"]}
	checks(put("ann", pr), `{"key":"SAME","field":"ref","from":"vault://kv/same"}`, `{"key":"REGION","field":"knob","from":true}`)

	// There is a bound, which leaves out what matters less, and says so.
	pr.Generation, pr.Keys = 3, keys{}
	for i := range 200 {
		k := identity.Key{Ref: fmt.Sprintf("vault://%0500d", i), MinLevel: identity.L2, Inject: &identity.Inject{}}
		for h := range 16 {
			k.Inject.Hosts = append(k.Inject.Hosts, fmt.Sprintf("h%d.%s.example", h, strings.Repeat("x", 15)))
		}
		for c := range 64 {
			k.Commands = append(k.Commands, fmt.Sprintf("/%s/%d", strings.Repeat("c", 400), c))
		}
		pr.Keys[fmt.Sprintf("K%d", i)] = k
	}
	pr.Keys["TOKEN"] = identity.Key{Ref: "vault://kv/prod", MinLevel: identity.L1}
	delete(pr.Keys, "K0")
	text := put("bob", pr)
	var d struct{ More int }
	if err := json.Unmarshal([]byte(text), &d); err != nil || d.More == 0 || len(text) > 224<<10 || strings.Count(text, `"min_level"`) != 200 {
		t.Errorf("%d bytes, %d left out, %d levels, %v", len(text), d.More, strings.Count(text, `"min_level"`), err)
	}
}
