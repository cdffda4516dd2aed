package vault_test

import (
	"context"
	"fmt"
	"os"

	"github.com/stepward/stepward/identity/broker"
	"github.com/stepward/stepward/identity/vault"
)

// Each tenant has its own folder in the engine kv, and a role of its own in the engine database. A profile
// of tenant acme refers to vault://kv/acme/deploy#token and vault://database/creds/acme-app#password.
func Example() {
	store, err := vault.New(vault.Config{
		Address: "https://vault.example.com:8200",
		Auth: vault.AppRole{
			RoleID: "7f8e2b6c-0f5e-4b0c-9a52-9d9a3c1d6e1f",
			SecretID: func(context.Context) (string, error) {
				b, err := os.ReadFile("/run/credentials/secret-id")
				return string(b), err
			},
		},
		Places: []vault.Place{
			{Mount: "kv", Path: "{tenant}/"},
			{Mount: "database", Path: "creds/{tenant}-app", Dynamic: true},
		},
		TokenRole: "stepward",
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	// What is another tenant's, Vault is not even asked for.
	_, err = store.Get(context.Background(), broker.Request{Tenant: "acme", Path: "kv/globex/deploy#token"})
	fmt.Println(err)
	// Output: vault: "kv/globex/deploy#token" is no place of tenant "acme": access to the secret is denied
}
