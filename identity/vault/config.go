package vault

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/stepward/stepward/internal/wrapped"
)

// Config says which Vault is read, and how. Nothing is taken from the environment, but Vault's own client
// refuses to work with a variable VAULT_… that it cannot read.
type Config struct {
	// Address is Vault's, as https://vault.example.com:8200. Required.
	Address string

	// Auth gets the broker a token: [Token], [AppRole], [Kubernetes], or any other
	// method for Vault's own client. It is asked again before the token ends. Required.
	Auth api.AuthMethod

	// Namespace is for Vault Enterprise and OpenBao. Defaults to the root namespace.
	Namespace string

	// Places are where secrets may be. Defaults to {Mount: "secret", Path: "{tenant}/"}.
	Places []Place

	// TokenRole is the role for the tokens of attempts. Required for dynamic places.
	TokenRole string

	// Timeout is how long one request may take, with its repetitions. Defaults to 10 seconds.
	Timeout time.Duration

	// Transport reaches Vault. Defaults to [http.DefaultTransport].
	Transport *http.Transport
}

// A Place is where secrets are.
type Place struct {
	// Mount is the path of an engine, as "secret" or "team/kv".
	Mount string

	// Path is what a secret's path below the mount begins with if Path ends in a slash, and is
	// otherwise. {tenant} in it stands for the tenant; without it, all tenants share the place.
	Path string

	// Dynamic says that the engine makes a secret for who asks.
	Dynamic bool

	// Wrap says that the broker is not to have the values: each is wrapped, and the sandbox has it from
	// Vault. See the package's description for what that needs.
	Wrap bool
}

const timeoutDefault = 10 * time.Second

func (c Config) withDefaults() (Config, error) {
	c.Timeout = cmp.Or(c.Timeout, timeoutDefault)
	if len(c.Places) == 0 {
		c.Places = []Place{{Mount: "secret", Path: "{tenant}/"}}
	}
	if u, err := url.Parse(c.Address); err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil {
		return c, errors.New("vault: Config.Address is no URL of http or https, or has a password in it")
	}
	if c.Auth == nil {
		return c, errors.New("vault: Config.Auth is required")
	}
	if c.Timeout < 0 {
		return c, fmt.Errorf("vault: Config.Timeout is %v", c.Timeout)
	}
	for _, p := range c.Places {
		path := strings.ReplaceAll(strings.TrimSuffix(p.Path, "/"), "{tenant}", "tenant")
		switch {
		case !clean(p.Mount), path != "" && !clean(path), p.Path == "/":
			return c, fmt.Errorf("vault: Config.Places: bad mount %q or path %q", p.Mount, p.Path)
		case p.Dynamic && !clean(c.TokenRole):
			return c, fmt.Errorf("vault: Config.TokenRole is required for %s, which is dynamic", p.Mount)
		case p.Wrap && p.Dynamic:
			return c, fmt.Errorf("vault: Config.Places: what %s makes is not wrapped", p.Mount)
		case p.Wrap:
			if _, _, err := wrapped.Endpoint(c.Address); err != nil {
				return c, fmt.Errorf("vault: Config.Address: the values of %s are wrapped, and who carries them is not to see them: %w", p.Mount, err)
			}
		}
	}
	return c, nil
}

// A target is a secret in Vault.
type target struct {
	mount, path, field string
	dynamic, wrap      bool
}

// find returns what a reference means for a tenant, if that is in one of its places.
func (c Config) find(tenant, reference string) (target, bool) {
	whole, field, ok := split(reference)
	if !ok {
		return target{}, false
	}
	for _, p := range c.Places {
		path, ok := strings.CutPrefix(whole, p.Mount+"/")
		if !ok {
			continue
		}
		want := p.Path
		if strings.Contains(want, "{tenant}") {
			if !clean(tenant) || strings.Contains(tenant, "/") {
				continue
			}
			want = strings.ReplaceAll(want, "{tenant}", tenant)
		}
		if path == want || (want == "" || strings.HasSuffix(want, "/")) && strings.HasPrefix(path, want) {
			return target{p.Mount, path, field, p.Dynamic, p.Wrap}, true
		}
	}
	return target{}, false
}

// split returns the parts of a reference, if it can be one.
func split(reference string) (path, field string, ok bool) {
	path, field, hasField := strings.Cut(reference, "#")
	return path, field, clean(path) && (!hasField || clean(field))
}

// clean reports whether a path has one spelling only, here and in Vault.
func clean(path string) bool {
	return len(path) <= 512 && !slices.ContainsFunc(strings.Split(path, "/"), func(part string) bool {
		return part == "" || part == "." || part == ".." || strings.HasSuffix(part, ".") || strings.ContainsFunc(part, odd)
	})
}

func odd(r rune) bool {
	return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("._~@:+=,-", r)
}
