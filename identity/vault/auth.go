package vault

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/hashicorp/vault/api"
)

// Token is a broker's login by a token that something else has got and renews, as Vault Agent does.
type Token struct {
	// Source returns the token. It is called for each login, and so for
	// another token when one was refused.
	Source func(context.Context) (string, error)
}

// Login returns the token.
func (t Token) Login(ctx context.Context, _ *api.Client) (*api.Secret, error) {
	token, err := t.Source(ctx)
	if err != nil {
		return nil, err
	}
	return &api.Secret{Auth: &api.SecretAuth{ClientToken: strings.TrimSpace(token)}}, nil
}

// AppRole is a broker's login by a role's id and a secret id.
type AppRole struct {
	RoleID   string
	SecretID func(context.Context) (string, error) // called for each login
	Mount    string                                // defaults to "approle"
}

// Login logs in.
func (a AppRole) Login(ctx context.Context, c *api.Client) (*api.Secret, error) {
	secret, err := a.SecretID(ctx)
	if err != nil {
		return nil, err
	}
	return login(ctx, c, a.Mount, "approle", map[string]any{"role_id": a.RoleID, "secret_id": strings.TrimSpace(secret)})
}

// Kubernetes is a broker's login by the token of its pod's service account.
type Kubernetes struct {
	Role      string
	TokenFile string // defaults to the one that Kubernetes mounts; read for each login
	Mount     string // defaults to "kubernetes"
}

const tokenFileDefault = "/var/run/secrets/kubernetes.io/serviceaccount/token"

// Login logs in.
func (k Kubernetes) Login(ctx context.Context, c *api.Client) (*api.Secret, error) {
	file := k.TokenFile
	if file == "" {
		file = tokenFileDefault
	}
	token, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return login(ctx, c, k.Mount, "kubernetes", map[string]any{"role": k.Role, "jwt": strings.TrimSpace(string(token))})
}

func login(ctx context.Context, c *api.Client, mount, method string, data map[string]any) (*api.Secret, error) {
	if mount == "" {
		mount = method
	}
	if !clean(mount) {
		return nil, fmt.Errorf("bad mount %q", mount)
	}
	secret, err := c.Logical().WriteWithContext(ctx, "auth/"+mount+"/login", data)
	if err == nil && (secret == nil || secret.Auth == nil) {
		err = errors.New("an answer without a token")
	}
	return secret, err
}
