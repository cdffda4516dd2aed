package sandbox_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"testing"

	"github.com/stepward/stepward/sandbox"
)

// gone is a backend on which no sandbox is left.
type gone struct{ sandbox.Backend }

func (gone) Name() string { return "gone" }
func (gone) Dial(context.Context, string) (net.Conn, error) {
	return nil, sandbox.ErrLost
}

// Whatever is stored as a handle, Open returns: here with the reason why it cannot be
// used, or with ErrLost. What is read is the same when it is stored again.
func FuzzHandle(f *testing.F) {
	whole, err := json.Marshal(map[string]any{
		"ID": "stepward-7", "Token": []byte("token"), "Enforcement": sandbox.Enforcement{Backend: "gone", Network: "stream", Landlock: 5},
		"Spec": sandbox.Spec{Env: map[string]string{"A": "b"}, Limits: sandbox.Limits{CPU: 1.5, Memory: 1 << 30}, Network: sandbox.NetworkPolicy{Allow: []string{"example.com:443", "10.0.0.0/8"}}},
	})
	if err != nil {
		f.Fatal(err)
	}
	for _, s := range []string{
		string(whole), "null", "{}", "[]", `{"ID":"a"}`, `{"ID":"a","Token":"!"}`, `{"ID":"../a"}`, `{"ID":"a","Spec":{"Network":{"Allow":["*:0","::1/129",""]}}}`,
		`{"ID":"a","Spec":{"Env":{"":"\u0000"},"Limits":{"PIDs":-1}}}`, `{"id":"a","spec":null,"enforcement":{"landlock_abi":1e3}}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, stored []byte) {
		var h, back sandbox.Handle
		if h.UnmarshalBinary(stored) != nil {
			return
		}
		text, err := h.MarshalBinary()
		if err == nil {
			err = back.UnmarshalBinary(text)
		}
		again, aerr := back.MarshalBinary()
		if err != nil || aerr != nil || !bytes.Equal(again, text) {
			t.Fatalf("%q is stored as %s and then %s: %v, %v", stored, text, again, err, aerr)
		}
		s, err := sandbox.Open(t.Context(), gone{}, h, sandbox.Options{})
		if s != nil || err == nil || err.Error() == "" {
			t.Fatalf("%q opens: %v", stored, err)
		}
		if h.ID == "stepward-7" && h.Spec.Network.Allow == nil && !errors.Is(err, sandbox.ErrLost) {
			t.Errorf("%q: %v", stored, err)
		}
	})
}

// What is printed or logged of a handle opens nothing, and Open says so.
func TestHandleShowsNoToken(t *testing.T) {
	token := []byte("0123456789abcdef")
	stored, err := json.Marshal(map[string]any{"ID": "stepward-7", "Token": token})
	if err != nil {
		t.Fatal(err)
	}
	var h sandbox.Handle
	if err := h.UnmarshalBinary(stored); err != nil {
		t.Fatal(err)
	}
	held := struct{ H sandbox.Handle }{h}
	var shown strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%b", "%o", "%c", "%U"} {
		for _, what := range []any{h, &h, held, []sandbox.Handle{h}, []*sandbox.Handle{&h}} {
			fmt.Fprintf(&shown, verb+"\n", what)
		}
	}
	for _, handler := range []slog.Handler{slog.NewTextHandler(&shown, nil), slog.NewJSONHandler(&shown, nil)} {
		slog.New(handler).Info("open", "handle", h, "pointer", &h, "held", held)
	}
	text, err := json.Marshal(held)
	if err != nil {
		t.Fatal(err)
	}
	shown.Write(text)
	for _, form := range []string{"%s", "%x", "%X", "%d", "%#v", "%b", "%o", "%c", "%U"} {
		if secret := strings.Trim(fmt.Sprintf(form, token[2:]), "[]byte{}"); strings.Contains(shown.String(), secret) {
			t.Errorf("the token is shown, as %s", secret)
		}
	}
	if secret := base64.StdEncoding.EncodeToString(token); strings.Contains(shown.String(), secret) {
		t.Errorf("the token is shown, as %s", secret)
	}

	var without sandbox.Handle
	if err := json.Unmarshal([]byte(`{"ID":"stepward-7"}`), &without); err != nil {
		t.Fatal(err)
	}
	if _, err := sandbox.Open(t.Context(), gone{}, without, sandbox.Options{}); err == nil || errors.Is(err, sandbox.ErrLost) || !strings.Contains(err.Error(), "no token") {
		t.Errorf("opened without a token: %v", err)
	}
}
