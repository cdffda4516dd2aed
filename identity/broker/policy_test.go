package broker_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stepward/stepward/audit"
	"github.com/stepward/stepward/identity"
	"github.com/stepward/stepward/identity/cedar"
	"github.com/stepward/stepward/identity/explain"
	"github.com/stepward/stepward/workflow"
)

// policy makes the policy of a profile of the tenant that has nothing else, or changes it.
func (f *fixture) policy(text string) {
	f.t.Helper()
	p, err := f.profiles.Get(f.t.Context(), "acme", "policy")
	if err != nil {
		p = identity.Profile{Name: "policy", Scope: identity.Scope{Tenant: "acme"}}
	}
	p.Policy = text
	if err := f.profiles.Put(f.t.Context(), p); err != nil {
		f.t.Fatal(err)
	}
}

// last is the newest event of a kind.
func (f *fixture) last(kind string) (out struct {
	Reason, Name, Error string
	Deprecated          string
	Policies            []identity.Ruling
	Secrets             []struct {
		Name     string
		Policies []identity.Ruling
	}
}) {
	f.t.Helper()
	all, err := audit.Events(f.t.Context(), f.pool, audit.Filter{Schema: f.schema, Run: workflow.RunID(runID)})
	if err != nil {
		f.t.Fatal(err)
	}
	for _, e := range all {
		if e.Kind == kind {
			if err := json.Unmarshal(e.Detail, &out); err != nil {
				f.t.Fatal(err)
			}
		}
	}
	return out
}

// What policies say is what leaves, and is on record, with the policy. The first question is the control:
// without one, each command has the key.
func TestPolicy(t *testing.T) {
	f := newFixture(t, "DEPLOY_TOKEN", "OPTIONAL?")
	f.store.values["x"], f.store.values["y"] = "s3cr3t-canary", "0ther-canary"
	f.put("DEPLOY_TOKEN", identity.Key{Ref: "mem://x", Commands: []string{"deploy", "curl"}})
	f.put("OPTIONAL", identity.Key{Ref: "mem://y", Commands: []string{"curl"}})
	link := f.serve()
	attempt := 0
	ask := func() (commands map[string]string, err error) {
		attempt++
		o, err := get(t.Context(), link, f.attempt(2, attempt, "drive"))
		commands = map[string]string{}
		for _, i := range o.Items {
			commands[i.Name] = strings.Join(i.Commands, " ")
		}
		return commands, err
	}
	const all = "permit (principal, action, resource);\n"
	if got, err := ask(); err != nil || got["DEPLOY_TOKEN"] != "curl deploy" || got["OPTIONAL"] != "curl" {
		t.Fatalf("without a policy: %v, %v", got, err)
	}
	if n := len(f.last(audit.EnvelopeIssued).Secrets[0].Policies); n != 0 {
		t.Errorf("without a policy %d are on record", n)
	}
	f.policy(all + `@id("no-curl") forbid (principal, action, resource) when { context.command == "curl" && principal.workflow == "site" && principal.version == "1" && context.level == "L1-dev" };`)
	if got, err := ask(); err != nil || len(got) != 1 || got["DEPLOY_TOKEN"] != "deploy" {
		t.Errorf("got %v, %v", got, err)
	}
	issued := f.last(audit.EnvelopeIssued).Secrets[0]
	if len(issued.Policies) != 2 || issued.Policies[0].Allow || issued.Policies[0].Command != "curl" || issued.Policies[0].Statements[0] != "no-curl" ||
		!issued.Policies[1].Allow || issued.Policies[1].From.Profile != "policy" || len(issued.Policies[1].Digest) != 64 {
		t.Errorf("on record: %+v", issued)
	}
	if w := f.last(audit.KeyWithheld); w.Name != "OPTIONAL" || len(w.Policies) != 1 || !strings.Contains(w.Error, "no-curl forbids it") {
		t.Errorf("on record: %+v", w)
	}
	f.bind(nil)
	f.policy(all) // since then; the run gets nothing more by it
	if got, err := ask(); err != nil || len(got) != 1 || got["DEPLOY_TOKEN"] != "deploy" {
		t.Errorf("loosened: %v, %v", got, err)
	}
	before := len(f.store.asked)
	f.policy(`@id("nobody") forbid (principal, action, resource);`)
	_, err := ask()
	if reason(err) != "denied" || !strings.Contains(err.Error(), "policy of profile policy (tenant acme): nobody forbids it") {
		t.Errorf("got %v", err)
	}
	if r := f.last(audit.EnvelopeRefused); r.Reason != "denied" || r.Name != "DEPLOY_TOKEN" || len(r.Policies) != 4 || r.Policies[0].Digest == "" {
		t.Errorf("on record: %+v", r)
	}
	// Whatever came into the table in another way is a denial, and no fetch.
	for _, broken := range []string{"", "permit (", all, all + all} {
		f.exec("UPDATE stepward.policy SET body = $1 WHERE digest = (SELECT policy FROM stepward.profile WHERE name = 'policy')", broken)
		f.bind(nil)
		if got, err := ask(); reason(err) != "denied" || !strings.Contains(err.Error(), "its text is not on record") {
			t.Errorf("%q: got %v, %v", broken, got, err)
		}
	}
	// A policy that fails where it is asked denies: what permits everything is in it too.
	f.policy(all + `@id("sum") forbid (principal, action, resource) when { 9223372036854775807 + 1 > 0 };`)
	f.bind(nil)
	if got, err := ask(); reason(err) != "denied" || !strings.Contains(err.Error(), "sum cannot be evaluated: integer overflow") {
		t.Errorf("got %v, %v", got, err)
	}
	if n := len(f.store.asked); n != before {
		t.Errorf("the store was asked for %v", f.store.asked[before:])
	}
}

// A version that is revoked is known as such when the store has given it: who can do without it gets the
// rest.
func TestOptionalVersionRevoked(t *testing.T) {
	f := newFixture(t, "DEPLOY_TOKEN", "OPTIONAL?")
	f.store.values["x"], f.store.values["y"] = "s3cr3t-canary", "0ther-canary"
	f.put("DEPLOY_TOKEN", identity.Key{Ref: "mem://x"})
	f.put("OPTIONAL", identity.Key{Ref: "mem://y"})
	link := f.serve()
	revoke := func(name string) {
		t.Helper()
		if err := f.profiles.Revoke(t.Context(), identity.Revocation{Tenant: "acme", Kind: identity.KindVersion, Target: name, Version: "v1", State: identity.Soft}); err != nil {
			t.Fatal(err)
		}
	}
	if o, err := get(t.Context(), link, f.claim); err != nil || len(o.Items) != 2 { // the control
		t.Fatalf("got %+v, %v", o.Items, err)
	}
	revoke("OPTIONAL")
	o, err := get(t.Context(), link, f.attempt(1, 2, "publish#2"))
	if err != nil || len(o.Items) != 1 || o.Items[0].Name != "DEPLOY_TOKEN" || string(o.Items[0].Value) != "s3cr3t-canary" {
		t.Errorf("got %+v, %v", o.Items, err)
	}
	if w := f.last(audit.KeyWithheld); w.Name != "OPTIONAL" || !strings.Contains(w.Error, "revoked") {
		t.Errorf("on record: %+v", w)
	}
	if s := f.last(audit.EnvelopeIssued).Secrets; len(s) != 1 || s[0].Name != "DEPLOY_TOKEN" {
		t.Errorf("on record: %+v", s)
	}
	revoke("DEPLOY_TOKEN")
	if _, err := get(t.Context(), link, f.attempt(1, 3, "publish#2")); reason(err) != "revoked" {
		t.Errorf("got %v", err)
	}
}

// A key that is deprecated is issued as before, and both the run's record and its explanation say so.
func TestDeprecated(t *testing.T) {
	f := newFixture(t, "DEPLOY_TOKEN", "REGION")
	f.store.values["x"] = "s3cr3t-canary"
	f.put("DEPLOY_TOKEN", identity.Key{Ref: "mem://x"})
	f.put("REGION", identity.Key{Knob: "eu"})
	link := f.serve()
	ask := func(attempt int) {
		t.Helper()
		if o, err := get(t.Context(), link, f.attempt(1, attempt, "publish#2")); err != nil || len(o.Items) != 2 {
			t.Fatalf("got %+v, %v", o.Items, err)
		}
	}
	ask(2)
	if n := f.events(audit.KeyDeprecated); n != 0 { // the control
		t.Errorf("%d events", n)
	}
	if err := f.profiles.Revoke(t.Context(), identity.Revocation{Tenant: "acme", Kind: identity.KindKey, Target: "DEPLOY_TOKEN", State: identity.Deprecated}); err != nil {
		t.Fatal(err)
	}
	ask(3)
	if n, d := f.events(audit.KeyDeprecated), f.last(audit.KeyDeprecated); n != 1 || d.Name != "DEPLOY_TOKEN" || d.Deprecated != "key DEPLOY_TOKEN" {
		t.Errorf("%d events: %+v", n, d)
	}
	e, err := explain.Run(t.Context(), f.pool, workflow.RunID(runID).String(), identity.Options{Schema: f.schema, Engine: cedar.Parse})
	if err != nil || e.Keys[0].State != identity.Deprecated || e.Keys[0].Err != nil || e.Keys[1].State != identity.Active || !strings.Contains(e.String(), "; deprecated\n") {
		t.Errorf("got %+v, %v", e, err)
	}
}
