package vault

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/stepward/stepward/identity/broker"
)

// ErrWrap reports that a wrapped value is not there any more: its time is over, or somebody else
// has had it. Vault does not say which. The second is an incident.
var ErrWrap = errors.New("vault: the wrapped value was had by somebody else, or its time is over")

// ErrWrapPath reports that a token wraps another thing than it should, as one that somebody made
// in its place. It was not unwrapped.
var ErrWrapPath = errors.New("vault: the token wraps something else")

// A Wrapped is a value that Vault keeps for who first brings the token.
type Wrapped struct {
	Token string
	Path  string // of the request that it answers
	Field string
	Made  string // when, if the value must be of a version that was made then
	TTL   time.Duration
}

// Wrap has Vault keep a value of a key/value engine for ttl, so that the broker does not see it.
// The Token is as good as the value.
func (s *Store) Wrap(ctx context.Context, r broker.Request, ttl time.Duration) (Wrapped, error) {
	t, ok := s.config.find(r.Tenant, r.Path)
	if !ok || t.dynamic {
		return Wrapped{}, fmt.Errorf("vault: %.80q is no place of tenant %.80q with a value to wrap: %w", r.Path, r.Tenant, broker.ErrDenied)
	}
	doing := "wrap " + t.mount + "/" + t.path
	query := url.Values{}
	var made string
	if r.Version != "" {
		parts := versions.FindStringSubmatch(r.Version)
		if parts == nil {
			return Wrapped{}, fmt.Errorf("vault: %s: %.80q is no version: %w", doing, r.Version, broker.ErrNoVersion)
		}
		query.Set("version", parts[1])
		made = parts[2]
	}
	path := t.mount + "/data/" + t.path
	var secret *api.Secret
	err := s.session.do(ctx, func(ctx context.Context, c *api.Client) error {
		wrapping, err := c.CloneWithHeaders()
		if err != nil {
			return err
		}
		wrapping.SetToken(c.Token())
		wrapping.SetWrappingLookupFunc(func(string, string) string { return seconds(ttl) })
		secret, err = wrapping.Logical().ReadWithDataWithContext(ctx, path, query)
		return err
	})
	switch {
	case forbidden(err):
		return Wrapped{}, fail(doing, err, broker.ErrDenied)
	case err != nil:
		return Wrapped{}, failed(doing, err)
	case secret == nil || secret.WrapInfo == nil:
		return Wrapped{}, fmt.Errorf("vault: %s: %w", doing, broker.ErrNoSecret)
	}
	if secret.WrapInfo.CreationPath != path {
		return Wrapped{}, fmt.Errorf("vault: %s: %w", doing, ErrWrapPath)
	}
	return Wrapped{secret.WrapInfo.Token, path, t.field, made, time.Duration(secret.WrapInfo.TTL) * time.Second}, nil
}

// Unwrap has the value, once. It checks before what the token is for. Of config only Address, Namespace,
// Timeout and Transport matter: the token is all that it takes. A failure after the value has
// left Vault loses it, so that nothing is tried twice.
func Unwrap(ctx context.Context, config Config, w Wrapped) (broker.Value, error) {
	config.Timeout = cmp.Or(config.Timeout, timeoutDefault)
	ctx, cancel := context.WithTimeout(ctx, config.Timeout)
	defer cancel()
	c, err := (&session{config: config}).bare()
	if err != nil {
		return broker.Value{}, &Error{Doing: "connect", Err: err}
	}
	c.SetMaxRetries(0)
	about, err := c.Logical().WriteWithContext(ctx, "sys/wrapping/lookup", map[string]any{"token": w.Token})
	if err != nil {
		return broker.Value{}, fail("look up what is wrapped", err, lost(err))
	}
	if about == nil || about.Data["creation_path"] != w.Path {
		return broker.Value{}, ErrWrapPath
	}
	c.SetToken(w.Token)
	secret, err := c.Logical().UnwrapWithContext(ctx, "")
	if err != nil {
		return broker.Value{}, fail("unwrap "+w.Path, err, lost(err))
	}
	if secret == nil {
		return broker.Value{}, fmt.Errorf("vault: unwrap %s: %w", w.Path, broker.ErrNoVersion)
	}
	return value(secret, w.Field, w.Made, "unwrap "+w.Path)
}

// lost is what Vault's refusal of a wrapping token means.
func lost(err error) error {
	if s := status(err); s == http.StatusBadRequest || s == http.StatusForbidden || s == http.StatusNotFound {
		return ErrWrap
	}
	return nil
}
