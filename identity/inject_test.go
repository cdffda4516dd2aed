package identity_test

import (
	"slices"
	"testing"

	"github.com/stepward/stepward/identity"
	"github.com/stepward/stepward/internal/hostport"
)

// What a key says of where its value goes is exact.
func TestInject(t *testing.T) {
	with := func(i identity.Inject) error {
		p := identity.Profile{Name: "p", Scope: identity.Scope{Tenant: "acme"}, Keys: map[string]identity.Key{"TOKEN": {Ref: "file://x", Inject: &i}}}
		return p.Check()
	}
	good := identity.Inject{Hosts: []string{"API.example.com", "b.example.com:8443"}, Header: "X-Api-Key", Prefix: "ghp_"}
	if err := with(good); err != nil {
		t.Error(err)
	}
	if got := hostport.All(good.Hosts); !slices.Equal(got, []string{"api.example.com:443", "b.example.com:8443"}) {
		t.Errorf("got %q", got)
	}
	for _, h := range []string{
		"", "*.example.com", "93.184.216.34", "[::1]", "::1", "example.com.", "a..b", "-a.com", "example.com:80", "example.com:0", "example.com:x", "example.com:",
		"https://example.com", "example.com/x", "ex ample.com", "a.0x7f", "1.2.3", "b\u00fccher.example",
	} {
		if err := with(identity.Inject{Hosts: []string{h}}); err == nil {
			t.Errorf("host %q: %v", h, err)
		}
	}
	for _, i := range []identity.Inject{
		{}, {Hosts: make([]string, 17)},
		{Hosts: []string{"example.com"}, Header: "host"}, {Hosts: []string{"example.com"}, Header: "Transfer-Encoding"}, {Hosts: []string{"example.com"}, Header: "A: b"},
		{Hosts: []string{"example.com"}, Prefix: "a b"},
	} {
		if with(i) == nil {
			t.Errorf("%+v is accepted", i)
		}
	}
	for _, k := range []identity.Key{{Knob: "x", Inject: &good}, {Ref: "file://x", Weak: true, Inject: &good}, {Deny: true, Inject: &good}} {
		if (identity.Profile{Name: "p", Keys: map[string]identity.Key{"TOKEN": k}}).Check() == nil {
			t.Errorf("%+v is accepted", k)
		}
	}
}

// Nothing narrower lets a value into a sandbox that a broader profile keeps out, and a run says not where it goes.
func TestInjectCascade(t *testing.T) {
	at := func(name string, s identity.Scope, keys map[string]identity.Key) identity.Profile {
		return identity.Profile{Name: name, Scope: s, Keys: keys}
	}
	tenant, project := identity.Scope{Tenant: "acme"}, identity.Scope{Tenant: "acme", Project: "web"}
	kept := &identity.Inject{Hosts: []string{"api.example.com"}}
	other := &identity.Inject{Hosts: []string{"other.example.com"}}
	base := at("base", tenant, map[string]identity.Key{"TOKEN": {Ref: "file://x", Inject: kept}, "PLAIN": {Ref: "file://y"}})
	for what, c := range map[string]struct {
		narrower identity.Key
		run      map[string]identity.Key
		want     *identity.Inject
		plain    bool // PLAIN is refused
		refused  bool
	}{
		"as it is":            {want: kept},
		"another reference":   {narrower: identity.Key{Ref: "file://z"}, want: kept},
		"other hosts":         {narrower: identity.Key{Ref: "file://x", Inject: other}, want: other},
		"a knob":              {narrower: identity.Key{Knob: "none"}},
		"by a run, the same":  {run: map[string]identity.Key{"TOKEN": {Ref: "file://x"}}, want: kept},
		"by a run, hosts":     {run: map[string]identity.Key{"TOKEN": {Ref: "file://x", Inject: other}}, refused: true},
		"by a run, elsewhere": {run: map[string]identity.Key{"PLAIN": {Ref: "file://x"}}, want: kept, plain: true},
	} {
		profiles := []identity.Profile{base}
		if c.narrower.Ref != "" || c.narrower.Knob != "" {
			profiles = append(profiles, at("narrow", project, map[string]identity.Key{"TOKEN": c.narrower}))
		}
		all := identity.Resolve(profiles, project, c.run)
		if got := all["TOKEN"]; (got.Err != nil) != c.refused || !c.refused && got.Key.Inject != c.want {
			t.Errorf("%s: %+v, %v", what, got.Key.Inject, got.Err)
		}
		if got := all["PLAIN"]; (got.Err != nil) != c.plain || got.Key.Inject != nil {
			t.Errorf("%s: PLAIN is %+v, %v", what, got.Key, got.Err)
		}
	}
}
