package bootstrap_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"

	"github.com/hashicorp/vault/api"

	"github.com/stepward/stepward/audit"
	"github.com/stepward/stepward/identity"
	"github.com/stepward/stepward/identity/broker"
	"github.com/stepward/stepward/identity/vault"
	"github.com/stepward/stepward/internal/testenv"
	"github.com/stepward/stepward/workflow"
)

// wrapping is a worker and a broker whose Vault wraps acme's token for the sandbox; and Vault, who else is asked.
type wrapping struct {
	harbour
	root *api.Client
	kv   string // its engine
}

// The value in Vault.
const inVault = "canary-wrapped-in-vault-0123456789"

// wraps has Vault at an address, and who is between it and the sandboxes, if there is somebody.
func wraps(t *testing.T, address string, between func(*wrapping, *http.Request)) *wrapping {
	t.Helper()
	server := testenv.Vault(t)
	w := new(wrapping)
	var err error
	if w.root, err = api.NewClient(&api.Config{Address: server.Address}); err != nil {
		t.Fatal(err)
	}
	w.root.ClearNamespace()
	w.root.SetToken(server.Token)
	write := func(path string, data map[string]any) *api.Secret {
		t.Helper()
		s, err := w.root.Logical().WriteWithContext(t.Context(), path, data)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	kv := "kv-" + strings.ToLower(rand.Text()[:12])
	w.kv = kv
	write("sys/mounts/"+kv, map[string]any{"type": "kv", "options": map[string]string{"version": "2"}})
	t.Cleanup(func() { _ = w.root.Sys().UnmountWithContext(context.WithoutCancel(t.Context()), kv) })
	put(t, w.root, kv, inVault)
	write("sys/policies/acl/"+kv, map[string]any{"policy": `
		path "` + kv + `/metadata/*" { capabilities = ["read"] }
		path "` + kv + `/data/*" {
			capabilities     = ["read"]
			min_wrapping_ttl = "1s"
			max_wrapping_ttl = "2m"
		}`})
	login, err := w.root.Auth().Token().Create(&api.TokenCreateRequest{Policies: []string{kv}, TTL: "1h"})
	if err != nil {
		t.Fatal(err)
	}

	at, err := url.Parse(server.Address)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(at)
	host := httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if between != nil {
			between(w, r)
		}
		proxy.ServeHTTP(rw, r)
	}))
	t.Cleanup(host.Close)
	roots := x509.NewCertPool()
	roots.AddCert(host.Certificate())
	key := identity.Key{Ref: "vault://" + kv + "/acme/deploy#token", Commands: []string{"sh"}}
	w.harbour = reaches(t, host, key, func(cfg *broker.Config) {
		s, err := vault.New(vault.Config{
			Address: address, Places: []vault.Place{{Mount: kv, Path: "{tenant}/", Wrap: true}},
			Transport: &http.Transport{
				DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
					var d net.Dialer
					return d.DialContext(ctx, "tcp", host.Listener.Addr().String())
				},
				TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: "example.com"},
			},
			Auth: vault.Token{Source: func(context.Context) (string, error) { return login.Auth.ClientToken, nil }},
		})
		if err != nil {
			t.Fatal(err)
		}
		cfg.Stores["vault"] = s
	})
	return w
}

// enqueue has the guest and commands run.
func (w *wrapping) enqueue(t *testing.T, scripts ...string) workflow.Run[[]string] {
	t.Helper()
	run, err := call.Enqueue(t.Context(), w.client, scripts, workflow.EnqueueOptions{Tenant: "acme"})
	if err != nil {
		t.Fatal(err)
	}
	return run
}

// await returns what became of a run, and what is on record of that.
func (w *wrapping) await(t *testing.T, run workflow.Run[[]string]) (out []string, events []audit.Event, err error) {
	t.Helper()
	out, failure := outcome(t, w.client, run)
	if events, err = audit.Events(t.Context(), w.cfg.Pool, audit.Filter{Schema: w.cfg.Schema, Run: run.ID}); err != nil {
		t.Fatal(err)
	}
	for _, e := range events {
		if strings.Contains(string(e.Detail), inVault) || strings.Contains(string(e.Detail), "hvs.") {
			t.Errorf("%s has what is secret: %s", e.Kind, e.Detail)
		}
	}
	if said := fmt.Sprint(out, failure, w.log); strings.Contains(said, inVault) || strings.Contains(said, "hvs.") {
		t.Errorf("what is secret is in %s", said)
	}
	return out, events, failure
}

// The broker, to whom Vault gives no value, has it wrapped, and the guest and the commands have it from Vault, for which it
// is kept out of outputs as any is. Its version is on record.
func TestWrapped(t *testing.T) {
	w := wraps(t, "https://example.com", nil)
	run := w.enqueue(t, `printf %s "$DEPLOY_TOKEN" | sha256sum`, `echo "it is $DEPLOY_TOKEN"`)
	out, events, err := w.await(t, run)
	if err != nil {
		t.Fatalf("%v\n%s", err, w.log)
	}
	want := []string{"example.com: no", "other.invalid: no", "[REDACTED:DEPLOY_TOKEN]", sum(inVault), "it is [REDACTED:DEPLOY_TOKEN]\n"}
	if fmt.Sprintf("%q", out) != fmt.Sprintf("%q", want) {
		t.Errorf("got %q, want %q", out, want)
	}
	issued := 0
	for _, e := range events {
		if e.Kind == audit.EnvelopeIssued && strings.Contains(string(e.Detail), `"1@`) {
			issued++
		}
	}
	if issued != 2 { // one for each step
		t.Errorf("%d envelopes with the version: %s", issued, kinds(events))
	}

	// A run that is repeated has the version of then, and one that is not repeated the newest.
	put(t, w.root, w.kv, inVault+"-rotated")
	for reproduce, want := range map[bool]string{true: sum(inVault), false: sum(inVault + "-rotated")} {
		fork, err := w.client.Fork(t.Context(), run.ID, workflow.ForkOptions{Reproduce: reproduce})
		if err != nil {
			t.Fatal(err)
		}
		if out, _, err := w.await(t, call.Handle(w.client, fork)); err != nil || out[3] != want {
			t.Errorf("reproduced %v: %q, %v", reproduce, out, err)
		}
	}
	if err := w.root.KVv2(w.kv).Destroy(t.Context(), "acme/deploy", []int{1}); err != nil {
		t.Fatal(err)
	}
	fork, err := w.client.Fork(t.Context(), run.ID, workflow.ForkOptions{Reproduce: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := w.await(t, call.Handle(w.client, fork)); err == nil || !strings.Contains(err.Error(), "version 1") {
		t.Errorf("what is no more: %v", err)
	}
}

// sum is what sha256sum says.
func sum(value string) string { return fmt.Sprintf("%x  -\n", sha256.Sum256([]byte(value))) }

// put writes the tenant's secret. A new engine is not there for a moment.
func put(t *testing.T, root *api.Client, kv, value string) {
	t.Helper()
	for {
		_, err := root.KVv2(kv).Put(t.Context(), "acme/deploy", map[string]any{"token": value})
		if err == nil {
			return
		}
		if t.Context().Err() != nil {
			t.Fatal(err)
		}
	}
}

// Case 13: that somebody else has had the value fails the step for good, before it begins, and is on record as the incident
// that it is.
func TestWrappedIsIntercepted(t *testing.T) {
	w := wraps(t, "https://example.com", func(w *wrapping, r *http.Request) {
		if r.URL.Path != "/v1/sys/wrapping/lookup" {
			return
		}
		raw, err := io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(raw))
		var asked struct{ Token string }
		if err != nil || json.Unmarshal(raw, &asked) != nil {
			return
		}
		thief, err := w.root.Clone()
		if err == nil {
			thief.SetToken(asked.Token)
			_, _ = thief.Logical().Unwrap("")
		}
	})
	out, events, err := w.await(t, w.enqueue(t))
	if err == nil || !strings.Contains(err.Error(), "rotate it") || !strings.Contains(err.Error(), "DEPLOY_TOKEN") {
		t.Errorf("got %q, %v", out, err)
	}
	incidents, issued := 0, 0
	for _, e := range events {
		switch {
		case e.Kind == audit.EnvelopeIssued:
			issued++
		case e.Kind == audit.EnvelopeRefused && strings.Contains(string(e.Detail), `"wrap"`) && strings.Contains(string(e.Detail), "DEPLOY_TOKEN"):
			incidents++
		}
	}
	if incidents != 1 || issued != 1 { // no other is tried
		t.Errorf("%d incidents of %d envelopes: %s", incidents, issued, kinds(events))
	}
}

// A sandbox that may not reach Vault is told which address its step has to allow, and nothing is wrapped.
func TestWrappedOutOfReach(t *testing.T) {
	w := wraps(t, "https://vault.invalid:8200", nil)
	_, events, err := w.await(t, w.enqueue(t))
	if err == nil || !strings.Contains(err.Error(), "does not allow") || !strings.Contains(err.Error(), "vault.invalid:8200") {
		t.Errorf("got %v: %s", err, kinds(events))
	}
}

func kinds(events []audit.Event) string {
	var out strings.Builder
	for _, e := range events {
		fmt.Fprintf(&out, "%s %s\n", e.Kind, e.Detail)
	}
	return out.String()
}
