package vault

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/stepward/stepward/identity/broker"
)

// A making is a secret that was made for an attempt: a user's name and its
// password are two fields of one.
type making struct{ attempt, tenant, mount, path string }

// made is kept while the keys of an attempt are fetched, and until it is revoked.
type made struct {
	done   chan struct{}
	fields map[string]any
	lease  string
	err    error
}

// keep is how long after it was made another key of the attempt may be of the same secret.
const keep = time.Minute

// make returns a value under a lease.
func (s *Store) make(ctx context.Context, r broker.Request, t target) (broker.Value, error) {
	doing := "read " + t.mount + "/" + t.path
	if r.Version != "" {
		return broker.Value{}, fmt.Errorf("vault: %s: it is made for who asks, and has no versions: %w", doing, broker.ErrNoVersion)
	}
	key := making{r.Attempt, r.Tenant, t.mount, t.path}
	s.mu.Lock()
	m := s.made[key]
	mine := m == nil
	if mine {
		m = &made{done: make(chan struct{})}
		s.made[key] = m
	}
	s.mu.Unlock()
	if mine {
		m.err = s.fill(ctx, m, r, t, doing)
		close(m.done)
		if m.err != nil {
			s.forget(key, m)
		} else {
			time.AfterFunc(keep, func() { s.forget(key, m) })
		}
	}
	select {
	case <-m.done:
	case <-ctx.Done():
		return broker.Value{}, ctx.Err()
	}
	if m.err != nil {
		return broker.Value{}, m.err
	}
	value, err := pick(m.fields, t.field)
	if err != nil {
		return broker.Value{Lease: m.lease}, fmt.Errorf("vault: %s: %w", doing, err)
	}
	return broker.Value{Bytes: value, Lease: m.lease}, nil
}

func (s *Store) forget(key making, m *made) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.made[key] == m {
		delete(s.made, key)
	}
}

// fill makes a token for the attempt, and the secret under it.
func (s *Store) fill(ctx context.Context, m *made, r broker.Request, t target, doing string) error {
	life := time.Until(r.Until)
	if life <= 0 {
		return fmt.Errorf("vault: %s: the attempt is over: %w", doing, broker.ErrDenied)
	}
	renewable := false
	var token *api.Secret
	var own *api.Client
	err := s.session.do(ctx, func(ctx context.Context, c *api.Client) (err error) {
		token, err = c.Auth().Token().CreateWithRoleWithContext(ctx, &api.TokenCreateRequest{
			TTL: seconds(life), ExplicitMaxTTL: seconds(life), Renewable: &renewable, NoDefaultPolicy: true,
			DisplayName: "stepward", Metadata: map[string]string{"attempt": r.Attempt, "tenant": r.Tenant},
		}, s.config.TokenRole)
		if err != nil {
			return err
		}
		own, err = s.session.bare()
		return err
	})
	switch {
	case forbidden(err):
		return fail("make a token of role "+s.config.TokenRole, err, broker.ErrDenied)
	case err != nil:
		return failed("make a token of role "+s.config.TokenRole, err)
	case token.Auth == nil || token.Auth.Accessor == "":
		return &Error{Doing: "make a token of role " + s.config.TokenRole + ": there was none"}
	case !token.Auth.Orphan:
		err = fmt.Errorf("vault: the role %s makes tokens that end with the broker's: it needs orphan=true: %w", s.config.TokenRole, broker.ErrDenied)
	}
	m.lease = token.Auth.Accessor + "/"
	if err == nil {
		own.SetToken(token.Auth.ClientToken)
		err = s.readUnder(ctx, own, m, t, life, doing)
	}
	if err != nil {
		// Nobody is told of the lease, so nobody else would end it.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.config.Timeout)
		defer cancel()
		return errors.Join(err, s.Revoke(ctx, m.lease))
	}
	return nil
}

// readUnder has an engine make a secret, and gives it the attempt's time, as far as the engine allows.
func (s *Store) readUnder(ctx context.Context, own *api.Client, m *made, t target, life time.Duration, doing string) error {
	ctx, cancel := context.WithTimeout(ctx, s.config.Timeout)
	defer cancel()
	secret, err := own.Logical().ReadWithContext(ctx, t.mount+"/"+t.path)
	switch {
	case forbidden(err):
		return fail(doing, err, broker.ErrDenied)
	case status(err) == http.StatusBadRequest:
		// An engine says so of a role that it does not have.
		return fail(doing, err, broker.ErrNoSecret)
	case err != nil:
		return fail(doing, err, nil)
	case secret == nil || len(secret.Data) == 0:
		return fmt.Errorf("vault: %s: %w", doing, broker.ErrNoSecret)
	}
	m.fields = secret.Data
	m.lease += secret.LeaseID
	if secret.LeaseID != "" && secret.Renewable && time.Duration(secret.LeaseDuration)*time.Second < life {
		if _, err := own.Sys().RenewWithContext(ctx, secret.LeaseID, int(life.Seconds())); err != nil {
			return fail("renew "+t.mount+"/"+t.path, err, nil)
		}
	}
	return nil
}

// leases are the accessor of a token, which is worth nothing by itself, and what
// the engine called what it made.
var leases = regexp.MustCompile(`^([A-Za-z0-9._-]{8,200})/([A-Za-z0-9._~@:+=,/-]{0,600})$`)

// Revoke ends what an engine made for an attempt, and its token. The engine has done
// so when Revoke returns nil: a token's end alone would have Vault try it later, and give up after six times.
// That there is nothing any more is no error.
func (s *Store) Revoke(ctx context.Context, lease string) error {
	parts := leases.FindStringSubmatch(lease)
	if parts == nil {
		return fmt.Errorf("vault: %s is no lease", short(lease))
	}
	s.forgetLease(lease)
	if parts[2] != "" {
		if err := s.session.do(ctx, func(ctx context.Context, c *api.Client) error {
			return c.Sys().RevokeWithOptionsWithContext(ctx, &api.RevokeOptions{LeaseID: parts[2], Sync: true})
		}); err != nil {
			return failed("revoke "+parts[2], err)
		}
	}
	err := s.session.do(ctx, func(ctx context.Context, c *api.Client) error {
		return c.Auth().Token().RevokeAccessorWithContext(ctx, parts[1])
	})
	if err == nil || gone(err) {
		return nil
	}
	return failed("revoke the token of an attempt", err)
}

// gone reports whether Vault does not know the accessor of a token: it has ended.
func gone(err error) bool {
	answer, ok := errors.AsType[*api.ResponseError](err)
	return ok && (answer.StatusCode == http.StatusBadRequest || answer.StatusCode == http.StatusForbidden) &&
		strings.Contains(strings.Join(answer.Errors, " "), "invalid accessor")
}

func (s *Store) forgetLease(lease string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, m := range s.made {
		select {
		case <-m.done:
			if m.lease == lease {
				delete(s.made, key)
			}
		default: // not known yet
		}
	}
}
