package identity_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/stepward/stepward/identity"
	"github.com/stepward/stepward/internal/testenv"
	"github.com/stepward/stepward/workflow"
)

// A tenant's profile is made and changed; then its key is revoked, and of use again in
// a new version.
func ExampleProfiles() {
	ctx := context.Background()
	pool, schema, end, err := testenv.ExamplePostgres(ctx, "profiles") // any pool, and "" for the schema
	if err != nil {
		panic(err)
	}
	defer end()
	if err := workflow.Migrate(ctx, pool, workflow.MigrateOptions{Schema: schema}); err != nil {
		panic(err)
	}
	profiles, err := identity.New(pool, identity.Options{Schema: schema, Actor: "ops@example.com"})
	if err != nil {
		panic(err)
	}
	err = profiles.Put(ctx, identity.Profile{Name: "acme", Scope: identity.Scope{Tenant: "acme"}, Keys: map[string]identity.Key{
		"DEPLOY_TOKEN": {Ref: "vault://kv/acme/deploy#token", Commands: []string{"deploy"}},
	}})
	if err != nil {
		panic(err)
	}
	acme, err := profiles.Get(ctx, "acme", "acme")
	if err != nil {
		panic(err)
	}
	acme.Keys["REGION"] = identity.Key{Knob: "eu"}
	if err := profiles.Put(ctx, acme); err != nil {
		panic(err)
	}
	acme.Keys["REGION"] = identity.Key{Knob: "us"}
	fmt.Println(errors.Is(profiles.Put(ctx, acme), identity.ErrConflict)) // it is not what is stored any more

	token := identity.Revocation{Tenant: "acme", Kind: identity.KindKey, Target: "DEPLOY_TOKEN", State: identity.Hard, Reason: "it was in a log"}
	if err := profiles.Revoke(ctx, token); err != nil {
		panic(err)
	}
	if err := profiles.Rotate(ctx, "acme", "DEPLOY_TOKEN", "2"); err != nil {
		panic(err)
	}
	for r, err := range profiles.Revocations(ctx, identity.RevocationFilter{Tenant: "acme"}) {
		if err != nil {
			panic(err)
		}
		fmt.Println(r.Kind, r.Target, r.Version, r.State)
	}
	// Output:
	// true
	// key DEPLOY_TOKEN  hard
	// key DEPLOY_TOKEN 2 active
}
