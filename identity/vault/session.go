package vault

import (
	"context"
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
	until time.Time // zero: as long as Vault takes it
}

// bare returns a client without a token.
func (s *session) bare() (*api.Client, error) {
	transport := http.DefaultTransport
	if s.config.Transport != nil {
		transport = s.config.Transport
	}
	c, err := api.NewClient(&api.Config{
		Address:      s.config.Address,
		HttpClient:   &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
		Timeout:      s.config.Timeout,
		MinRetryWait: 100 * time.Millisecond,
		MaxRetryWait: 300 * time.Millisecond,
		MaxRetries:   2,
	})
	if err != nil {
		return nil, err
	}
	c.ClearToken()
	c.ClearNamespace()
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
	c, err := s.bare()
	if err != nil {
		return nil, &Error{Doing: "connect", Err: err}
	}
	ctx, cancel := context.WithTimeout(ctx, s.config.Timeout)
	defer cancel()
	secret, err := s.config.Auth.Login(ctx, c)
	if err != nil {
		return nil, fail("log in", err, nil)
	}
	if secret == nil || secret.Auth == nil || secret.Auth.ClientToken == "" {
		return nil, &Error{Doing: "log in: there was no token"}
	}
	c.SetToken(secret.Auth.ClientToken)
	s.with, s.until = c, time.Time{}
	if life := time.Duration(secret.Auth.LeaseDuration) * time.Second; life > 0 {
		s.until = time.Now().Add(life * 2 / 3)
	}
	return c, nil
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
