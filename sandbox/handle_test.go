package sandbox_test

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"reflect"
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
	whole, err := json.Marshal(sandbox.Handle{
		ID: "stepward-7", Token: []byte("token"), Enforcement: sandbox.Enforcement{Backend: "gone", Network: "stream", Landlock: 5},
		Spec: sandbox.Spec{Env: map[string]string{"A": "b"}, Limits: sandbox.Limits{CPU: 1.5, Memory: 1 << 30}, Network: sandbox.NetworkPolicy{Allow: []string{"example.com:443", "10.0.0.0/8"}}},
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
		if json.Unmarshal(stored, &h) != nil {
			return
		}
		text, err := json.Marshal(h)
		if err == nil {
			err = json.Unmarshal(text, &back)
		}
		if err != nil || !reflect.DeepEqual(back, h) {
			t.Fatalf("%q is stored as %s, %v", stored, text, err)
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
