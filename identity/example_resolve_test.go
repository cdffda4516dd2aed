package identity_test

import (
	"fmt"

	"github.com/stepward/stepward/identity"
)

// What a step of a tenant's production environment would get, and from where.
func ExampleResolve() {
	profiles := []identity.Profile{
		{Name: "defaults", Keys: map[string]identity.Key{
			"REGION":       {Knob: "eu"},
			"DEPLOY_TOKEN": {MinLevel: identity.L1}, // whoever sets it
		}},
		{Name: "acme", Scope: identity.Scope{Tenant: "acme"}, Keys: map[string]identity.Key{
			"DEPLOY_TOKEN": {Ref: "vault://kv/acme/deploy#token", Commands: []string{"deploy"}},
			"ROOT_TOKEN":   {Deny: true},
		}},
		{Name: "acme-prod", Scope: identity.Scope{Tenant: "acme", Environment: "prod"}, Keys: map[string]identity.Key{
			"DEPLOY_TOKEN": {Ref: "vault://kv/acme/deploy-prod#token"},
			"ROOT_TOKEN":   {Ref: "vault://kv/acme/root#token"},
		}},
	}
	place := identity.Scope{Tenant: "acme", Project: "web", Environment: "prod", Workflow: "site", Step: "publish"}
	resolved := identity.Resolve(profiles, place, nil)
	for _, name := range []string{"DEPLOY_TOKEN", "REGION", "ROOT_TOKEN"} {
		r := resolved[name]
		if r.Err != nil {
			fmt.Println(r.Err)
			continue
		}
		fmt.Println(name, "from", r.From, r.Key.Ref+r.Key.Knob, r.Key.MinLevel, r.Key.Commands)
	}
	// Output:
	// DEPLOY_TOKEN from profile acme-prod (tenant acme, environment prod) vault://kv/acme/deploy-prod#token L1 [deploy]
	// REGION from profile defaults (deployment) eu L0 []
	// identity: ROOT_TOKEN: denied: by profile acme (tenant acme)
}
