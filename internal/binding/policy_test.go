package binding_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/stepward/stepward/audit"
	"github.com/stepward/stepward/identity"
	"github.com/stepward/stepward/identity/cedar"
	"github.com/stepward/stepward/internal/binding"
	"github.com/stepward/stepward/internal/db"
)

const (
	permitAll = "permit (principal, action, resource);\n"
	noCurl    = permitAll + `@id("no-curl") forbid (principal, action, resource) when { context.command == "curl" };`
	onlyGit   = `@id("git") permit (principal, action, resource) when { context.command == "git" };`
	nobody    = `@id("nobody") forbid (principal, action, resource);`
)

// of is a profile with nothing but a policy.
func of(name string, scope identity.Scope, policy string) identity.Profile {
	return identity.Profile{Name: name, Scope: scope, Policy: policy}
}

var (
	tokens    = profile("acme", tenant, identity.Key{Ref: "file://k", Commands: []string{"curl", "git", "/usr/bin/deploy"}})
	publish   = binding.Lister{Step: "publish", Secrets: []string{"K"}, Tool: true}
	atPublish = identity.Scope{Tenant: "acme", Project: "web", Environment: "prod", Workflow: "site"}
)

// started is what a step gets now of what its run was bound to then: commands, or the error.
func started(t *testing.T, then, now []identity.Profile, l binding.Lister) (string, error) {
	t.Helper()
	b, err := binding.View{Profiles: append(then, tokens)}.Bind(atPublish, nil, []binding.Lister{l})
	if err != nil {
		t.Fatal(err)
	}
	// The texts of then are read from the database: here another profile that does not apply has them.
	view := binding.View{Profiles: append(now, tokens), Engine: cedar.Parse}
	for i, p := range then {
		view.Profiles = append(view.Profiles, of(fmt.Sprint("then", i), identity.Scope{Tenant: "acme", Workflow: "elsewhere"}, p.Policy))
	}
	got, withheld, err := b.Start(view, l, binding.Use{Level: identity.L1})
	switch {
	case err != nil:
		return "", err
	case len(got) == 0:
		return "withheld", withheld[0].Err
	}
	return strings.Join(got[0].Key.Commands, " "), nil
}

// broken is an engine, and a policy, with a mistake.
type broken struct{}

func (broken) Decide(identity.Question) identity.Ruling { panic("s3cr3t-canary") }

// What an engine panics at is denied, and what it said is nobody's.
func TestEnginePanics(t *testing.T) {
	profiles := []identity.Profile{tokens, of("p", identity.Scope{Tenant: "acme"}, permitAll)}
	b, err := binding.View{Profiles: profiles}.Bind(atPublish, nil, []binding.Lister{publish})
	if err != nil {
		t.Fatal(err)
	}
	for name, engine := range map[string]identity.Engine{
		"reading": func(string) (identity.Policy, error) { panic("s3cr3t-canary") },
		"asked":   func(string) (identity.Policy, error) { return broken{}, nil },
	} {
		_, withheld, err := b.Start(binding.View{Profiles: profiles, Engine: engine}, publish, binding.Use{})
		if !errors.Is(err, identity.ErrDenied) || !strings.Contains(err.Error(), "panicked") || strings.Contains(err.Error(), "canary") || len(withheld) > 0 {
			t.Errorf("%s: got %v, %v", name, withheld, err)
		}
	}
}

// Each policy whose scope a step is in has to permit: a narrower one does not widen.
func TestPolicies(t *testing.T) {
	for name, c := range map[string]struct {
		profiles []identity.Profile
		want     string // commands; empty: denied
		why      string // part of the error
	}{
		"none: the keys decide":      {nil, "/usr/bin/deploy curl git", ""},
		"all":                        {[]identity.Profile{of("p", tenant, permitAll)}, "/usr/bin/deploy curl git", ""},
		"one command less":           {[]identity.Profile{of("p", tenant, noCurl)}, "/usr/bin/deploy git", ""},
		"one command":                {[]identity.Profile{of("p", tenant, onlyGit)}, "git", ""},
		"nobody":                     {[]identity.Profile{of("p", tenant, nobody)}, "", "policy of profile p (tenant acme): nobody forbids it"},
		"of the deployment":          {[]identity.Profile{of("d", deployment, noCurl)}, "/usr/bin/deploy git", ""},
		"both":                       {[]identity.Profile{of("d", deployment, noCurl), of("p", step, onlyGit)}, "git", ""},
		"narrower does not widen":    {[]identity.Profile{of("d", deployment, onlyGit), of("p", step, permitAll)}, "git", ""},
		"broader does not widen":     {[]identity.Profile{of("d", deployment, permitAll), of("p", step, onlyGit)}, "git", ""},
		"two of one scope":           {[]identity.Profile{of("a", tenant, noCurl), of("b", tenant, onlyGit)}, "git", ""},
		"nothing in common":          {[]identity.Profile{of("a", tenant, onlyGit), of("b", project, `permit (principal, action, resource) when { context.command == "curl" };`)}, "", "command git by the policy of profile b (tenant acme, project web): no statement permits it"},
		"of another tenant":          {[]identity.Profile{of("a", identity.Scope{Tenant: "other"}, nobody)}, "/usr/bin/deploy curl git", ""},
		"of another step":            {[]identity.Profile{of("a", identity.Scope{Tenant: "acme", Step: "build"}, nobody)}, "/usr/bin/deploy curl git", ""},
		"a path goes by its program": {[]identity.Profile{of("p", tenant, permitAll+`forbid (principal, action, resource) when { context.command == "deploy" };`)}, "curl git", ""},
		"of a profile with the key":  {[]identity.Profile{{Name: "other", Scope: tenant, Policy: noCurl, Keys: keys{"OTHER": ref("o")}}}, "/usr/bin/deploy git", ""},
		"one that is not read":       {[]identity.Profile{of("p", tenant, "permit (")}, "", "policy of profile p (tenant acme): it cannot be evaluated: identity: policy, line 1, column 9"},
		"one that overflows":         {[]identity.Profile{of("p", tenant, permitAll+`@id("sum") forbid (principal, action, resource) when { 9223372036854775807 + 1 > 0 };`)}, "", "sum cannot be evaluated: integer overflow"},
		"one about a place":          {[]identity.Profile{of("p", tenant, `permit (principal == Step::"publish", action, resource) when { principal.environment == "prod" && context.level == "L1" };`)}, "/usr/bin/deploy curl git", ""},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := started(t, c.profiles, c.profiles, publish)
			if got != c.want || (err != nil) != (c.want == "") || err != nil && (!errors.Is(err, identity.ErrDenied) || !strings.Contains(err.Error(), c.why)) {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
}

// A function of a guest step, keys that are optional, and an engine that is not there.
func TestPolicyOfFunction(t *testing.T) {
	guest := binding.Lister{Step: "publish", Secrets: []string{"K"}}
	if got, err := started(t, nil, []identity.Profile{of("p", tenant, noCurl)}, guest); got != "/usr/bin/deploy git" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	if got, err := started(t, nil, []identity.Profile{of("p", tenant, onlyGit)}, guest); !errors.Is(err, identity.ErrDenied) { // its function is no git
		t.Errorf("got %q, %v", got, err)
	}
	if got, err := started(t, nil, []identity.Profile{of("p", tenant, nobody)}, binding.Lister{Step: "publish", Secrets: []string{"K?"}}); got != "withheld" || !errors.Is(err, identity.ErrDenied) {
		t.Errorf("got %q, %v", got, err)
	}
	blind := binding.View{Profiles: []identity.Profile{tokens, of("p", tenant, permitAll)}}
	b, err := blind.Bind(atPublish, nil, []binding.Lister{publish})
	if err != nil {
		t.Fatal(err)
	}
	if got, _, err := b.Start(blind, publish, binding.Use{}); !errors.Is(err, identity.ErrDenied) || len(got) != 0 {
		t.Errorf("without an engine: %v, %v", got, err)
	}
}

// A policy that was loosened, taken away or replaced since a run was enqueued gives it nothing
// more; one that was made stricter takes away.
func TestPolicyDoesNotGrow(t *testing.T) {
	p := func(policy string) []identity.Profile { return []identity.Profile{of("p", tenant, policy)} }
	for name, c := range map[string]struct {
		then, now []identity.Profile
		want      string
	}{
		"loosened":         {p(onlyGit), p(permitAll), "git"},
		"loosened to less": {p(onlyGit), p(noCurl), "git"},
		"taken away":       {p(onlyGit), nil, "git"},
		"denied then":      {p(nobody), p(permitAll), ""},
		"stricter":         {p(permitAll), p(onlyGit), "git"},
		"added":            {nil, p(onlyGit), "git"},
		"both":             {p(noCurl), p(permitAll + `forbid (principal, action, resource) when { context.command == "git" };`), "/usr/bin/deploy"},
		"moved":            {p(onlyGit), []identity.Profile{of("p", identity.Scope{Tenant: "acme", Workflow: "elsewhere"}, onlyGit)}, "git"},
		"of another step":  {[]identity.Profile{of("p", identity.Scope{Tenant: "acme", Step: "build"}, nobody)}, nil, "/usr/bin/deploy curl git"},
		"nothing changed":  {nil, nil, "/usr/bin/deploy curl git"}, // the control
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := started(t, c.then, c.now, publish); got != c.want || (err == nil) != (c.want != "") {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
	bind := func(policy string) binding.Binding {
		b, err := binding.View{Profiles: append(p(policy), tokens)}.Bind(atPublish, nil, []binding.Lister{publish})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	strict, loose := bind(onlyGit), bind(permitAll)
	if strict.Digest() == loose.Digest() {
		t.Error("the digest of a binding says nothing of its policies")
	}
	loose.Keep(strict) // a fork
	if len(loose.Policies) != 2 {
		t.Errorf("a fork is bound to %v", loose.Policies)
	}
	// A text that is nowhere denies.
	if got, _, err := strict.Start(binding.View{Profiles: []identity.Profile{tokens}, Engine: cedar.Parse}, publish, binding.Use{}); !errors.Is(err, identity.ErrDenied) || len(got) != 0 {
		t.Errorf("got %v, %v", got, err)
	}
}

// A policy is kept with its profile, and its text as long as a run may be bound to it.
func TestPutPolicy(t *testing.T) {
	t.Parallel()
	_, pool, schema := admin(t)
	ctx := t.Context()
	p, err := identity.New(pool, identity.Options{Schema: schema, Engine: cedar.Parse})
	if err != nil {
		t.Fatal(err)
	}
	acme := of("acme", tenant, "permit (principal, action, resource)\n  when { context.comand == \"git\" };")
	for name, pr := range map[string]identity.Profile{"1:1": acme, "2:9": of("acme", tenant, "permit (principal, action, resource)\n  when }"), "0:0": of("acme", tenant, strings.Repeat(" ", 20<<10))} {
		e, ok := errors.AsType[*identity.ProfileError](p.Put(ctx, pr))
		if !ok || fmt.Sprintf("%d:%d", e.Line, e.Column) != name || e.Profile != "acme" {
			t.Errorf("%s: got %v", name, e)
		}
	}
	without, err := identity.New(pool, identity.Options{Schema: schema})
	if err != nil {
		t.Fatal(err)
	}
	acme.Policy = onlyGit
	if e, ok := errors.AsType[*identity.ProfileError](without.Put(ctx, acme)); !ok {
		t.Errorf("without an engine: %v", e)
	}
	if err := p.Put(ctx, acme); err != nil {
		t.Fatal(err)
	}
	got, err := p.Get(ctx, "acme", "acme")
	if err != nil || got.Policy != onlyGit || got.Generation != 1 {
		t.Fatalf("got %+v, %v", got, err)
	}
	b, err := binding.View{Profiles: []identity.Profile{got, tokens}}.Bind(atPublish, nil, []binding.Lister{publish})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Put(ctx, got); err != nil { // says the same
		t.Fatal(err)
	}
	got.Policy = permitAll
	if err := p.Put(ctx, got); err != nil {
		t.Fatal(err)
	}
	got.Generation, got.Policy = 2, ""
	if err := without.Put(ctx, got); err != nil { // which needs none for that
		t.Fatal(err)
	}
	q, err := db.New(schema)
	if err != nil {
		t.Fatal(err)
	}
	err = pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		v, err := binding.Load(ctx, tx, q, []identity.Scope{atPublish}, nil)
		if err == nil {
			err = v.Recall(ctx, tx, q, b)
		}
		v.Profiles, v.Engine = append(v.Profiles, tokens), cedar.Parse
		if given, _, err := b.Start(v, publish, binding.Use{}); err != nil || len(given) != 1 || fmt.Sprint(given[0].Key.Commands) != "[git]" {
			t.Errorf("got %v, %v", given, err)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	all, err := audit.Events(ctx, pool, audit.Filter{Schema: schema, Tenant: new("acme")})
	if err != nil || len(all) != 3 || !strings.Contains(string(all[0].Detail), b.Policies[0].Digest) {
		t.Errorf("got %s, %v", all, err)
	}
}
