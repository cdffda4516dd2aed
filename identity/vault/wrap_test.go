package vault_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/stepward/stepward/identity/broker"
	"github.com/stepward/stepward/identity/vault"
	"github.com/stepward/stepward/internal/wrapped"
)

// A front is Vault with a certificate, behind a handler of the test's.
type front struct {
	bench
	server *httptest.Server
	policy string // of the store's token
}

// behind serves Vault with TLS. With a handler, that has each request first, and whether it goes on.
func behind(t *testing.T, first func(http.ResponseWriter, *http.Request, http.Handler)) front {
	t.Helper()
	b := open(t)
	target, err := url.Parse(b.addr)
	if err != nil {
		t.Fatal(err)
	}
	var to http.Handler = httputil.NewSingleHostReverseProxy(target)
	if first != nil {
		proxy := to
		to = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { first(w, r, proxy) })
	}
	f := front{bench: b, server: httptest.NewTLSServer(to), policy: unique("wrapping")}
	t.Cleanup(f.server.Close)
	// What a broker may that is not to have values: Vault refuses it a read that is not wrapped.
	must(t, b.root, "sys/policies/acl/"+f.policy, map[string]any{"policy": `
		path "` + b.kv + `/metadata/*" { capabilities = ["read"] }
		path "` + b.kv + `/data/*" {
			capabilities     = ["read"]
			min_wrapping_ttl = "1s"
			max_wrapping_ttl = "2m"
		}`})
	return f
}

// config is that of a store whose place is the test's.
func (f front) config(t *testing.T, wrap bool) vault.Config {
	t.Helper()
	token, err := f.root.Auth().Token().Create(&api.TokenCreateRequest{Policies: []string{f.policy}, TTL: "1h"})
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(f.server.Certificate())
	return vault.Config{
		Address: f.server.URL, Places: []vault.Place{{Mount: f.kv, Path: t.Name() + "/", Wrap: wrap}},
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}},
		Auth:      vault.Token{Source: func(context.Context) (string, error) { return token.Auth.ClientToken, nil }},
	}
}

// wrapped puts a value, and has it wrapped.
func (f front) wrapped(t *testing.T, s *vault.Store, name string) broker.Value {
	t.Helper()
	path := t.Name() + "/" + name
	if _, err := f.root.KVv2(f.kv).Put(t.Context(), path, map[string]any{"v": "canary of " + name, "w": 7}); err != nil {
		t.Fatal(err)
	}
	v, err := s.Get(t.Context(), request(f.kv+"/"+path+"#v", ""))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// opened is what a sandbox has that connects by itself.
func opened(t *testing.T, w wrapped.Value) (string, error) {
	t.Helper()
	raw, err := w.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if w, err = wrapped.Read(raw); err != nil {
		t.Fatal(err)
	}
	v, err := w.Open(t.Context(), func(ctx context.Context, host string, port int) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	})
	if err != nil && (strings.Contains(err.Error(), w.Token) || strings.Contains(err.Error(), "canary")) {
		t.Errorf("an error has what is secret: %v", err)
	}
	return string(v), err
}

// A value is had once, by whom it is for; the broker, whose login Vault gives no value that is not wrapped, knows its
// version.
func TestWrap(t *testing.T) {
	f := behind(t, nil)
	s := store(t, f.config(t, true))
	v := f.wrapped(t, s, "x")
	if len(v.Bytes) > 0 || !strings.HasPrefix(v.Version, "1@") || time.Since(v.Created) > time.Hour {
		t.Fatalf("the broker has %q, version %q of %v", v.Bytes, v.Version, v.Created)
	}
	if got, err := opened(t, *v.Wrapped); err != nil || got != "canary of x" {
		t.Fatalf("got %q, %v", got, err)
	}
	if got, err := opened(t, *v.Wrapped); !errors.Is(err, wrapped.ErrGone) {
		t.Errorf("a second time: %q, %v", got, err)
	}
	plain := store(t, f.config(t, false)) // the control
	if v, err := plain.Get(t.Context(), request(f.kv+"/"+t.Name()+"/x#v", "")); !errors.Is(err, broker.ErrDenied) {
		t.Errorf("the broker can read %q, %v", v.Bytes, err)
	}

	// A version that is not the newest.
	f.wrapped(t, s, "x")
	again, err := s.Get(t.Context(), request(f.kv+"/"+t.Name()+"/x#w", v.Version))
	if err != nil || again.Version != v.Version {
		t.Fatalf("version %q, %v", again.Version, err)
	}
	if got, err := opened(t, *again.Wrapped); err != nil || got != "7" {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := opened(t, func() wrapped.Value {
		v := *f.wrapped(t, s, "z").Wrapped
		v.Field = "none"
		return v
	}()); err == nil || !strings.Contains(err.Error(), "no field") {
		t.Errorf("a field that is not there: %v", err)
	}
	if err := f.root.KVv2(f.kv).DeleteVersions(t.Context(), t.Name()+"/z", []int{1}); err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string]struct {
		path, version string
		want          error
	}{
		"another's":                       {"secret/other/x", "", broker.ErrDenied},
		"none":                            {f.kv + "/" + t.Name() + "/absent", "", broker.ErrNoSecret},
		"a version that is none":          {f.kv + "/" + t.Name() + "/x#v", "01", broker.ErrNoVersion},
		"a version that there is not":     {f.kv + "/" + t.Name() + "/x#v", "9", broker.ErrNoVersion},
		"a version of an earlier path":    {f.kv + "/" + t.Name() + "/x#v", "1@2020-01-01T00:00:00Z", broker.ErrNoVersion},
		"the current version was deleted": {f.kv + "/" + t.Name() + "/z#v", "", broker.ErrNoVersion},
		"a version that was deleted":      {f.kv + "/" + t.Name() + "/z#v", "1", broker.ErrNoVersion},
	} {
		if v, err := s.Get(t.Context(), request(bad.path, bad.version)); !errors.Is(err, bad.want) || v.Wrapped != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Case 13: who comes second is told.
func TestWrapIntercepted(t *testing.T) {
	f := behind(t, nil)
	v := f.wrapped(t, store(t, f.config(t, true)), "x")
	if _, err := client(t, f.addr, v.Wrapped.Token).Logical().Unwrap(""); err != nil {
		t.Fatal(err)
	}
	if got, err := opened(t, *v.Wrapped); !errors.Is(err, wrapped.ErrGone) || got != "" {
		t.Errorf("%q, %v", got, err)
	}
}

// Case 14: what somebody else has wrapped is not taken, whatever it is, and it is not unwrapped.
func TestWrapOfAnotherPath(t *testing.T) {
	f := behind(t, nil)
	s := store(t, f.config(t, true))
	v, sibling := f.wrapped(t, s, "x"), f.wrapped(t, s, "y")
	_, made, _ := strings.Cut(v.Version, "@")
	planted := client(t, f.addr, f.root.Token())
	planted.SetWrappingLookupFunc(func(string, string) string { return "60s" })
	forged, err := planted.Logical().Write("sys/wrapping/wrap", map[string]any{
		"data": map[string]any{"v": "planted"}, "metadata": map[string]any{"version": 1, "created_time": made},
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, token := range map[string]string{"sibling": sibling.Wrapped.Token, "sys/wrapping/wrap": forged.WrapInfo.Token} {
		swapped := *v.Wrapped
		swapped.Token = token
		if got, err := opened(t, swapped); !errors.Is(err, wrapped.ErrPath) || got != "" {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if got, err := opened(t, *sibling.Wrapped); err != nil || got != "canary of y" {
		t.Errorf("what was refused was used up: %q, %v", got, err)
	}
	old := *sibling.Wrapped // the right path, and another version
	old.Version = "2" + strings.TrimPrefix(sibling.Version, "1")
	old.Token = f.wrapped(t, s, "y").Wrapped.Token // which is 2, made later
	if got, err := opened(t, old); err == nil || errors.Is(err, wrapped.ErrGone) || got != "" {
		t.Errorf("another version: %q, %v", got, err)
	}
	asForged := *v.Wrapped // the control: but for its path it would be taken
	asForged.Token, asForged.Path = forged.WrapInfo.Token, "sys/wrapping/wrap"
	if got, err := opened(t, asForged); err != nil || got != "planted" {
		t.Errorf("%q, %v", got, err)
	}
}

// Case 15: an answer that is lost is not asked for again with the same token, and is a failure that passes: the value is
// wrapped anew.
func TestUnwrapAnswerIsLost(t *testing.T) {
	calls := 0
	f := behind(t, func(w http.ResponseWriter, r *http.Request, to http.Handler) {
		if !strings.HasSuffix(r.URL.Path, "/unwrap") || calls > 0 {
			to.ServeHTTP(w, r)
			return
		}
		calls++
		to.ServeHTTP(httptest.NewRecorder(), r)
		panic(http.ErrAbortHandler)
	})
	s := store(t, f.config(t, true))
	v := f.wrapped(t, s, "x")
	if got, err := opened(t, *v.Wrapped); err == nil || errors.Is(err, wrapped.ErrGone) || got != "" || calls != 1 {
		t.Errorf("%d calls, %q, %v", calls, got, err)
	}
	if _, err := opened(t, *v.Wrapped); !errors.Is(err, wrapped.ErrGone) {
		t.Errorf("the value was not had: %v", err)
	}
	if got, err := opened(t, *f.wrapped(t, s, "x").Wrapped); err != nil || got != "canary of x" {
		t.Errorf("wrapped anew: %q, %v", got, err)
	}
}

// Case 16: what is over cannot be told from what somebody else has had, whatever a clock here says: its time is Vault's
// alone.
func TestWrapIsOver(t *testing.T) {
	f := behind(t, func(w http.ResponseWriter, r *http.Request, to http.Handler) {
		if r.Header.Get("X-Vault-Wrap-TTL") != "" {
			r.Header.Set("X-Vault-Wrap-TTL", "1s")
		}
		to.ServeHTTP(w, r)
	})
	v := f.wrapped(t, store(t, f.config(t, true)), "x")
	var err error
	for err == nil {
		if t.Context().Err() != nil {
			t.Fatal("it stays")
		}
		_, err = f.root.Logical().Write("sys/wrapping/lookup", map[string]any{"token": v.Wrapped.Token})
	}
	if got, err := opened(t, *v.Wrapped); !errors.Is(err, wrapped.ErrGone) || got != "" {
		t.Errorf("%q, %v", got, err)
	}
}

// The sandbox trusts whom the broker has seen to be Vault, and nobody else who is on the way; and it follows nobody.
func TestWrapTrusts(t *testing.T) {
	f := behind(t, nil)
	s := store(t, f.config(t, true))
	v := *f.wrapped(t, s, "x").Wrapped
	another := httptest.NewUnstartedServer(f.server.Config.Handler)
	another.TLS = &tls.Config{Certificates: []tls.Certificate{selfSigned(t)}}
	another.StartTLS()
	defer another.Close()
	v.Address = another.URL
	if _, ok := errors.AsType[*tls.CertificateVerificationError](second(opened(t, v))); !ok {
		t.Errorf("another certificate: %v", second(opened(t, v)))
	}
	for _, status := range []int{http.StatusTemporaryRedirect, http.StatusFound, http.StatusForbidden, http.StatusNotFound} {
		front := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { // with the same certificate
			w.Header().Set("Location", f.server.URL+"/v1/sys/wrapping/lookup")
			w.WriteHeader(status)
		}))
		v.Address = front.URL
		if _, err := opened(t, v); errors.Is(err, wrapped.ErrGone) || err == nil || !strings.Contains(err.Error(), fmt.Sprintf("status %d", status)) {
			t.Errorf("what is no answer of Vault's: %v", err)
		}
		front.Close()
	}
	v.Address = f.server.URL
	if got, err := opened(t, v); err != nil || got != "canary of x" {
		t.Errorf("%q, %v", got, err)
	}

	// The broker takes nothing from a Vault that it does not verify, and nothing that is not wrapped.
	unverified := f.config(t, true)
	unverified.Transport.TLSClientConfig.InsecureSkipVerify = true
	open := behind(t, func(w http.ResponseWriter, r *http.Request, to http.Handler) {
		r.Header.Del("X-Vault-Wrap-TTL")
		to.ServeHTTP(w, r)
	})
	unwrapped := open.config(t, true)
	unwrapped.Auth = vault.Token{Source: func(context.Context) (string, error) { return f.root.Token(), nil }}
	swapping := behind(t, func(w http.ResponseWriter, r *http.Request, to http.Handler) {
		r.URL.Path = strings.Replace(r.URL.Path, "/data/"+t.Name()+"/x", "/data/"+t.Name()+"/y", 1)
		to.ServeHTTP(w, r)
	})
	f.wrapped(t, s, "y")
	for name, c := range map[string]vault.Config{"not verified": unverified, "not wrapped": unwrapped, "of another path": swapping.config(t, true)} {
		if v, err := store(t, c).Get(t.Context(), request(f.kv+"/"+t.Name()+"/x#v", "")); !errors.Is(err, broker.ErrDenied) || len(v.Bytes) > 0 || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for want, c := range map[string]vault.Config{
		"https":          {Address: "http://vault.example.com", Places: []vault.Place{{Mount: "kv", Wrap: true}}},
		"is not wrapped": {Address: "https://vault.example.com", TokenRole: "r", Places: []vault.Place{{Mount: "db", Wrap: true, Dynamic: true}}},
	} {
		c.Auth = unverified.Auth
		if _, err := vault.New(c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

// selfSigned is a certificate for where tests serve that nobody has reason to trust.
func selfSigned(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func second[T any](_ T, err error) error { return err }
