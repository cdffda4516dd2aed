package broker_test

import (
	"context"
	"strings"
	"testing"

	"connectrpc.com/connect"

	"github.com/stepward/stepward/audit"
	"github.com/stepward/stepward/identity"
	"github.com/stepward/stepward/identity/broker"
	"github.com/stepward/stepward/internal/brokerlink"
	"github.com/stepward/stepward/internal/rpc"
	"github.com/stepward/stepward/internal/wrapped"
)

// wraps is a store that has nothing but wrapped values.
type wraps struct{}

func (wraps) Get(context.Context, broker.Request) (broker.Value, error) {
	return broker.Value{Version: "1@2026-11-01T00:00:00Z", Wrapped: &wrapped.Value{Address: "https://vault.example.com:8200", Token: "hvs.canary", Path: "kv/data/x"}}, nil
}

// That a wrapped value was lost is on record once, ends what was issued, and is believed of what was wrapped for that
// attempt alone.
func TestLost(t *testing.T) {
	f := newFixture(t, "WRAPPED?", "PLAIN")
	f.allow("vault.example.com:8200")
	f.cfg.Stores["wraps"] = wraps{}
	f.store.values["x"] = "s3cr3t-canary"
	f.put("WRAPPED", identity.Key{Ref: "wraps://x"})
	f.put("PLAIN", identity.Key{Ref: "mem://x"})
	link := f.serve()
	lost := func(name string) string {
		t.Helper()
		client, err := link.Client(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		_, err = client.Opened(t.Context(), connect.NewRequest(&rpc.OpenedRequest{Claim: f.claim, Lost: name}))
		if r := brokerlink.Refused(err); r != nil {
			return r.Reason
		}
		if err != nil {
			t.Fatal(err)
		}
		return ""
	}
	if got := lost("WRAPPED"); got != "unopened" {
		t.Errorf("before anything was issued: %q", got)
	}
	o, err := get(t.Context(), link, f.claim)
	if err != nil {
		t.Fatal(err)
	}
	if len(o.Items) != 2 || o.Items[0].Wrapped == o.Items[1].Wrapped {
		t.Errorf("got %+v", o.Items)
	}
	for _, name := range []string{"PLAIN", "WRAPPED?", "ANOTHER"} {
		if got := lost(name); got != "denied" {
			t.Errorf("%s: %q", name, got)
		}
	}
	if n := f.events(audit.EnvelopeRefused); n != 0 {
		t.Errorf("%d events of what was not lost", n)
	}
	if got := lost("WRAPPED"); got != "" {
		t.Errorf("refused: %q", got)
	}
	if r := f.last(audit.EnvelopeRefused); r.Reason != "wrap" || r.Name != "WRAPPED" || !strings.Contains(r.Error, "rotate it") {
		t.Errorf("on record is %+v", r)
	}
	if got := lost("WRAPPED"); got != "unopened" {
		t.Errorf("again: %q", got)
	}
	if n := f.events(audit.EnvelopeRefused); n != 1 {
		t.Errorf("%d events", n)
	}
	if _, err := renew(t.Context(), link, f.claim, o); brokerlink.Refused(err) == nil {
		t.Errorf("what was issued is renewed: %v", err)
	}
}

// What the sandbox could not have is refused before anything is issued.
func TestWrapRefused(t *testing.T) {
	for want, c := range map[string]struct {
		allow []string
		key   identity.Key
		other identity.Key
	}{
		"vault.example.com:8200 itself, which the network of step publish does not allow": {[]string{"example.com:443"}, identity.Key{Ref: "wraps://x"}, identity.Key{Knob: "x"}},
		"take Wrap from its place": {
			[]string{"vault.example.com:8200", "example.com:443"}, identity.Key{Ref: "wraps://x", Inject: &identity.Inject{Hosts: []string{"example.com"}}}, identity.Key{Knob: "x"},
		},
		"where PLAIN is put into requests": {
			[]string{"vault.example.com:8200"}, identity.Key{Ref: "wraps://x"}, identity.Key{Ref: "mem://x", Inject: &identity.Inject{Hosts: []string{"vault.example.com:8200"}}},
		},
	} {
		f := newFixture(t, "WRAPPED", "PLAIN")
		f.allow(c.allow...)
		f.cfg.Stores["wraps"] = wraps{}
		f.store.values["x"] = "s3cr3t-canary"
		f.put("WRAPPED", c.key)
		f.put("PLAIN", c.other)
		_, err := get(t.Context(), f.serve(), f.claim)
		r := brokerlink.Refused(err)
		if r == nil || r.Reason != "denied" || !strings.Contains(r.Error(), want) || strings.Contains(r.Error(), "canary") || f.issued() != 0 {
			t.Errorf("got %v, %d issued, want %q", err, f.issued(), want)
		}
	}
}
