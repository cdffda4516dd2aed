package binding_test

import (
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/stepward/stepward/identity"
	"github.com/stepward/stepward/internal/testenv"
	"github.com/stepward/stepward/workflow"
)

var (
	deployment = identity.Scope{}
	tenant     = identity.Scope{Tenant: "acme"}
	project    = identity.Scope{Tenant: "acme", Project: "web"}
	step       = identity.Scope{Tenant: "acme", Step: "publish"}
)

type keys = map[string]identity.Key

// profile makes one that says something of K.
func profile(name string, s identity.Scope, k identity.Key) identity.Profile {
	return identity.Profile{Name: name, Scope: s, Keys: keys{"K": k}}
}

func ref(s string) identity.Key { return identity.Key{Ref: "file://" + s} }

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
