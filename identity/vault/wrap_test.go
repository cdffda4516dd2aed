package vault_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stepward/stepward/identity/broker"
	"github.com/stepward/stepward/identity/vault"
)

// wrapped puts a value, and has it wrapped.
func wrapped(t *testing.T, b bench, name string) (*vault.Store, vault.Wrapped) {
	t.Helper()
	path := t.Name() + "/" + name
	if _, err := b.root.KVv2(b.kv).Put(t.Context(), path, map[string]any{"v": "canary of " + name, "w": "x"}); err != nil {
		t.Fatal(err)
	}
	s := b.store(t)
	w, err := s.Wrap(t.Context(), request(b.kv+"/"+path+"#v", ""), time.Minute)
	if err != nil || w.TTL != time.Minute {
		t.Fatal(w.TTL, err)
	}
	return s, w
}

func TestWrap(t *testing.T) {
	b := open(t)
	s, w := wrapped(t, b, "x")
	at := vault.Config{Address: b.addr}
	v, err := vault.Unwrap(t.Context(), at, w)
	if err != nil || string(v.Bytes) != "canary of x" || !strings.HasPrefix(v.Version, "1@") {
		t.Fatalf("%q, %q, %v", v.Bytes, v.Version, err)
	}
	if v, err := vault.Unwrap(t.Context(), at, w); !errors.Is(err, vault.ErrWrap) {
		t.Errorf("a second time: %q, %v", v.Bytes, err)
	}
	r := request(b.kv+"/"+t.Name()+"/x#v", v.Version)
	if w, err = s.Wrap(t.Context(), r, time.Minute); err != nil {
		t.Fatal(err)
	}
	if again, err := vault.Unwrap(t.Context(), at, w); err != nil || again.Version != v.Version {
		t.Errorf("a version: %v", err)
	}
	r.Version = "1@2020-01-01T00:00:00Z"
	if w, err = s.Wrap(t.Context(), r, time.Minute); err != nil {
		t.Fatal(err)
	}
	if _, err := vault.Unwrap(t.Context(), at, w); !errors.Is(err, broker.ErrNoVersion) {
		t.Errorf("a version of a path that was made again: %v", err)
	}
	for _, bad := range []struct {
		path, version string
		want          error
	}{{"secret/other/x", "", broker.ErrDenied}, {b.kv + "/" + t.Name() + "/absent", "", broker.ErrNoSecret}, {b.kv + "/" + t.Name() + "/x", "01", broker.ErrNoVersion}} {
		if _, err := s.Wrap(t.Context(), request(bad.path, bad.version), time.Minute); !errors.Is(err, bad.want) {
			t.Errorf("%s: %v", bad.path, err)
		}
	}
}

// Case 13: who comes second is told.
func TestWrapIntercepted(t *testing.T) {
	b := open(t)
	_, w := wrapped(t, b, "x")
	if _, err := client(t, b.addr, w.Token).Logical().Unwrap(""); err != nil {
		t.Fatal(err)
	}
	v, err := vault.Unwrap(t.Context(), vault.Config{Address: b.addr}, w)
	if !errors.Is(err, vault.ErrWrap) || len(v.Bytes) > 0 || strings.Contains(err.Error(), w.Token) {
		t.Errorf("%q, %v", v.Bytes, err)
	}
}

// Case 16: what is over cannot be told from what somebody else has had, whatever a clock here says:
// its time is Vault's alone.
func TestWrapIsOver(t *testing.T) {
	t.Parallel()
	b := open(t)
	s, _ := wrapped(t, b, "x")
	r := request(b.kv+"/"+t.Name()+"/x#v", "")
	w, err := s.Wrap(t.Context(), r, time.Second)
	if err != nil || w.TTL != time.Second {
		t.Fatal(w.TTL, err)
	}
	for err == nil {
		if t.Context().Err() != nil {
			t.Fatal("it stays")
		}
		_, err = b.root.Logical().Write("sys/wrapping/lookup", map[string]any{"token": w.Token})
	}
	if _, err := vault.Unwrap(t.Context(), vault.Config{Address: b.addr}, w); !errors.Is(err, vault.ErrWrap) {
		t.Errorf("%v", err)
	}
}

// Case 14: what somebody else has wrapped is not taken, whatever it is, and it is not unwrapped.
func TestWrapOfAnotherPath(t *testing.T) {
	b := open(t)
	_, w := wrapped(t, b, "x")
	_, sibling := wrapped(t, b, "y")
	planted := client(t, b.addr, b.root.Token())
	planted.SetWrappingLookupFunc(func(string, string) string { return "60s" })
	forged, err := planted.Logical().Write("sys/wrapping/wrap", map[string]any{
		"data": map[string]any{"v": "planted"}, "metadata": map[string]any{"version": 1, "created_time": "2026-01-01T00:00:00Z"},
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, token := range map[string]string{"sibling": sibling.Token, "sys/wrapping/wrap": forged.WrapInfo.Token} {
		swapped := w
		swapped.Token = token
		if v, err := vault.Unwrap(t.Context(), vault.Config{Address: b.addr}, swapped); !errors.Is(err, vault.ErrWrapPath) {
			t.Errorf("%s: %q, %v", name, v.Bytes, err)
		}
	}
	if v, err := vault.Unwrap(t.Context(), vault.Config{Address: b.addr}, sibling); err != nil || string(v.Bytes) != "canary of y" {
		t.Errorf("what was refused was used up: %v", err)
	}
}

// Case 15: an answer that is lost is not asked for again with the same token, and is a failure
// that passes: the value is wrapped anew.
func TestUnwrapAnswerIsLost(t *testing.T) {
	b := open(t)
	_, w := wrapped(t, b, "x")
	target, err := url.Parse(b.addr)
	if err != nil {
		t.Fatal(err)
	}
	calls := 0
	forward := httputil.NewSingleHostReverseProxy(target)
	between := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if !strings.HasSuffix(r.URL.Path, "/unwrap") {
			forward.ServeHTTP(rw, r)
			return
		}
		calls++
		forward.ServeHTTP(httptest.NewRecorder(), r)
		panic(http.ErrAbortHandler)
	}))
	defer between.Close()
	_, err = vault.Unwrap(t.Context(), vault.Config{Address: between.URL}, w)
	if err == nil || errors.Is(err, vault.ErrWrap) || calls != 1 || strings.Contains(err.Error(), w.Token) {
		t.Errorf("%d calls, %v", calls, err)
	}
	if _, err := vault.Unwrap(t.Context(), vault.Config{Address: b.addr}, w); !errors.Is(err, vault.ErrWrap) {
		t.Errorf("%v", err)
	}
}
