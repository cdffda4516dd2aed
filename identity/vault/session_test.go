package vault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stepward/stepward/identity/broker"
)

const answer = `{"data":{"data":{"v":"value"},"metadata":{"version":1,"created_time":"2026-01-01T00:00:00Z"}}}`

// answered returns a store whose Vault is a handler.
func answered(t *testing.T, config Config, handler http.HandlerFunc) *Store {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	config.Address = server.URL
	if config.Auth == nil {
		config.Auth = Token{Source: func(context.Context) (string, error) { return "hvs.cAnArYcAnArYcAnArYcAnArY", nil }}
	}
	s, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

var wanted = broker.Request{Tenant: "acme", Path: "secret/acme/x", Attempt: "a"}

// A token that may read the secrets of all tenants goes to no other host.
func TestRedirect(t *testing.T) {
	var asked atomic.Bool
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Store(true)
		_, _ = io.WriteString(w, answer)
	}))
	defer other.Close()
	for _, status := range []int{http.StatusMovedPermanently, http.StatusFound, http.StatusTemporaryRedirect, http.StatusPermanentRedirect} {
		s := answered(t, Config{}, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, other.URL+r.URL.Path, status) })
		_, err := s.Get(t.Context(), wanted)
		if e, ok := errors.AsType[*RedirectError](err); !ok || "http://"+e.Host != other.URL {
			t.Errorf("%d: %v", status, err)
		}
	}
	if asked.Load() {
		t.Error("it was followed")
	}
}

// Neither a namespace nor headers of the environment are in any request; the configured namespace is in each.
func TestEnvironmentOfRequests(t *testing.T) {
	for _, namespace := range []string{"", "team/prod"} {
		t.Run(namespace, func(t *testing.T) { testEnvironmentOfRequests(t, namespace) })
	}
}

func testEnvironmentOfRequests(t *testing.T, namespace string) {
	t.Setenv("VAULT_NAMESPACE", "other")
	t.Setenv("VAULT_HEADERS", `{"X-Other":"yes"}`)
	requests := make(chan *http.Request, 10)
	config := Config{TokenRole: "stepward", Namespace: namespace, Places: []Place{{Mount: "database", Path: "creds/{tenant}", Dynamic: true}, {Mount: "secret", Path: "{tenant}/"}}}
	s := answered(t, config, func(w http.ResponseWriter, r *http.Request) {
		requests <- r
		switch {
		case strings.HasPrefix(r.URL.Path, "/v1/auth/token/create"):
			_, _ = io.WriteString(w, `{"auth":{"client_token":"hvs.childchildchildchildchild","accessor":"accessor12345678","orphan":true}}`)
		case strings.HasPrefix(r.URL.Path, "/v1/database"):
			_ = json.NewEncoder(w).Encode(map[string]any{"lease_id": "database/creds/acme/abc", "lease_duration": 10, "renewable": true, "data": map[string]any{"password": "p4ssw0rd-longer"}})
		case strings.HasPrefix(r.URL.Path, "/v1/secret"):
			_, _ = io.WriteString(w, answer)
		default:
			w.WriteHeader(http.StatusNoContent)
		}
	})
	if _, err := s.Get(t.Context(), wanted); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(t.Context(), broker.Request{Tenant: "acme", Path: "database/creds/acme#password", Attempt: "a", Until: time.Now().Add(time.Hour)}); err != nil {
		t.Fatal(err)
	}
	if len(requests) < 4 {
		t.Fatalf("%d requests", len(requests))
	}
	for len(requests) > 0 {
		r := <-requests
		if r.Header.Get("X-Vault-Namespace") != namespace || r.Header.Get("X-Other") != "" || r.Header.Get("X-Vault-Request") != "true" {
			t.Errorf("%s: %v", r.URL.Path, r.Header)
		}
	}
}

// An answer without an end is not read to its end.
func TestEndlessAnswer(t *testing.T) {
	s := answered(t, Config{}, func(w http.ResponseWriter, r *http.Request) {
		_, err := fmt.Fprint(w, `{"data":{"metadata":{"version":1},"data":{"v":"`)
		for chunk := strings.Repeat("x", 1<<20); err == nil && r.Context().Err() == nil; {
			_, err = io.WriteString(w, chunk)
		}
	})
	if _, err := s.Get(t.Context(), wanted); err == nil || !strings.Contains(err.Error(), "more than 4 MiB") {
		t.Error(err)
	}
	large := strings.Repeat("x", 1<<20) // as much as Vault keeps
	s = answered(t, Config{}, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, strings.Replace(answer, "value", large, 1))
	})
	if v, err := s.Get(t.Context(), wanted); err != nil || len(v.Bytes) != len(large) {
		t.Errorf("%d bytes, %v", len(v.Bytes), err)
	}
}

// A token that still holds is used when there is no other.
func TestLoginAway(t *testing.T) {
	var logins atomic.Int32
	config := Config{Auth: AppRole{RoleID: "r", SecretID: func(context.Context) (string, error) { return "s", nil }}}
	s := answered(t, config, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case !strings.HasPrefix(r.URL.Path, "/v1/auth/approle/login"):
			_, _ = io.WriteString(w, answer)
		case logins.Add(1) == 1:
			_, _ = io.WriteString(w, `{"auth":{"client_token":"hvs.cAnArYcAnArYcAnArYcAnArY","lease_duration":3600}}`)
		default:
			http.Error(w, `{"errors":["away"]}`, http.StatusBadRequest)
		}
	})
	get := func() error {
		_, err := s.Get(t.Context(), wanted)
		return err
	}
	if err := get(); err != nil {
		t.Fatal(err)
	}
	s.session.until = time.Now() // two thirds of its life are over
	if err := get(); err != nil || logins.Load() != 2 {
		t.Errorf("%d logins: %v", logins.Load(), err)
	}
	if err := get(); err != nil || logins.Load() != 2 {
		t.Errorf("it asks again at once, %d times: %v", logins.Load(), err)
	}
	s.session.until, s.session.ends = time.Now(), time.Now()
	if err := get(); err == nil {
		t.Error("it used a token that has ended")
	}
}
