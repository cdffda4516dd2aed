package vault

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/hashicorp/vault/api"
)

// A session is the broker's own token, gotten anew before it ends. It is not
// renewed: a login needs no more, and a token's longest life is no matter then.
type session struct {
	config Config

	mu    sync.Mutex
	with  *api.Client
	until time.Time // another login is due; zero: as long as Vault takes it
	ends  time.Time // the token does
}

// bare returns a client without a token.
func (s *session) bare() (*api.Client, error) {
	transport := http.DefaultTransport
	if s.config.Transport != nil {
		transport = s.config.Transport
	}
	c, err := api.NewClient(&api.Config{
		Address:      s.config.Address,
		HttpClient:   &http.Client{Transport: guard{transport}},
		Timeout:      s.config.Timeout,
		MinRetryWait: 100 * time.Millisecond,
		MaxRetryWait: 300 * time.Millisecond,
		MaxRetries:   2,
		CheckRetry: func(ctx context.Context, answer *http.Response, err error) (bool, error) {
			if _, ok := errors.AsType[*RedirectError](err); ok {
				return false, err // it would be the same
			}
			return api.DefaultRetryPolicy(ctx, answer, err)
		},
	})
	if err != nil {
		return nil, err
	}
	c.ClearToken()
	c.SetHeaders(http.Header{api.RequestHeaderName: {"true"}}) // without those of the environment
	if s.config.Namespace != "" {
		c.SetNamespace(s.config.Namespace)
	}
	return c, nil
}

// client returns one with a token, and logs in if there is none, or only the refused one.
func (s *session) client(ctx context.Context, refused *api.Client) (*api.Client, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.with != nil && s.with != refused && (s.until.IsZero() || time.Now().Before(s.until)) {
		return s.with, nil
	}
	c, token, err := s.login(ctx)
	if now := time.Now(); err != nil && s.with != nil && s.with != refused && now.Before(s.ends) {
		s.until = now.Add(s.ends.Sub(now) / 2) // the one that there is still holds
		return s.with, nil
	} else if err != nil {
		return nil, err
	}
	c.SetToken(token.ClientToken)
	s.with, s.until, s.ends = c, time.Time{}, time.Time{}
	if life := time.Duration(token.LeaseDuration) * time.Second; life > 0 {
		s.until, s.ends = time.Now().Add(life*2/3), time.Now().Add(life)
	}
	return c, nil
}

// login gets a token, and returns a client for it.
func (s *session) login(ctx context.Context) (*api.Client, *api.SecretAuth, error) {
	c, err := s.bare()
	if err != nil {
		return nil, nil, &Error{Doing: "connect", Err: err}
	}
	ctx, cancel := context.WithTimeout(ctx, s.config.Timeout)
	defer cancel()
	secret, err := s.config.Auth.Login(ctx, c)
	if err != nil {
		return nil, nil, fail("log in", err, nil)
	}
	if secret == nil || secret.Auth == nil || secret.Auth.ClientToken == "" {
		return nil, nil, &Error{Doing: "log in: there was no token"}
	}
	return c, secret.Auth, nil
}

// do calls f with a client, and once more after another login if Vault does not know the token
// any more. That it does not, and that the token may not do this, has the same status.
func (s *session) do(ctx context.Context, f func(context.Context, *api.Client) error) error {
	c, err := s.client(ctx, nil)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, s.config.Timeout)
	defer cancel()
	if err = f(ctx, c); !forbidden(err) {
		return err
	}
	if _, lost := c.Auth().Token().LookupSelfWithContext(ctx); !forbidden(lost) {
		return err
	}
	if c, loginErr := s.client(ctx, c); loginErr == nil {
		return f(ctx, c)
	}
	return err
}
