package binding_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/stepward/stepward/identity"
	"github.com/stepward/stepward/internal/binding"
)

// What a step gets when it starts is never more than what its run was bound to.
func TestBindingStart(t *testing.T) {
	lister := binding.Lister{Step: "publish", Secrets: []string{"K", "L?"}}
	at := func(k, l identity.Key) binding.View {
		v := binding.View{Profiles: []identity.Profile{{Name: "acme", Scope: tenant, Keys: keys{}}}}
		for name, key := range (keys{"K": k, "L": l}) {
			if fmt.Sprint(key) != fmt.Sprint(identity.Key{}) {
				v.Profiles[0].Keys[name] = key
			}
		}
		return v
	}
	none := identity.Key{}
	with := func(k identity.Key, f func(*identity.Key)) identity.Key { f(&k); return k }
	for what, c := range map[string]struct {
		then, now binding.View
		want      string // names, and references
		err       error
	}{
		"nothing changed":           {at(ref("k"), ref("l")), at(ref("k"), ref("l")), "K=file://k L=file://l ", nil},
		"rotated":                   {at(with(ref("k"), func(k *identity.Key) { k.Version = "1" }), none), at(with(ref("k"), func(k *identity.Key) { k.Version = "2" }), none), "K=file://k ", nil},
		"optional was added":        {at(ref("k"), none), at(ref("k"), ref("l")), "K=file://k ", nil},
		"optional was removed":      {at(ref("k"), ref("l")), at(ref("k"), none), "K=file://k ", nil},
		"optional became required":  {at(ref("k"), none), at(ref("k"), with(ref("l"), func(k *identity.Key) { k.Required = true })), "", identity.ErrUnbound},
		"required was removed":      {at(ref("k"), none), at(none, none), "", identity.ErrMissing},
		"required was denied":       {at(ref("k"), none), at(identity.Key{Deny: true}, none), "", identity.ErrDenied},
		"optional was denied":       {at(ref("k"), ref("l")), at(ref("k"), identity.Key{Deny: true}), "K=file://k ", nil},
		"required refers elsewhere": {at(ref("k"), none), at(ref("other"), none), "", identity.ErrRetargeted},
		"optional refers elsewhere": {at(ref("k"), ref("l")), at(ref("k"), ref("other")), "K=file://k ", nil},
		"elsewhere, allowed now":    {at(ref("k"), none), at(with(ref("other"), func(k *identity.Key) { k.Retarget = true }), none), "", identity.ErrRetargeted},
		"elsewhere, allowed then":   {at(with(ref("k"), func(k *identity.Key) { k.Retarget = true }), none), at(ref("other"), none), "K=file://other ", nil},
		"a knob became a secret":    {at(identity.Key{Knob: "v"}, none), at(ref("k"), none), "", identity.ErrRetargeted},
		"a secret became a knob":    {at(ref("k"), none), at(identity.Key{Knob: "v"}, none), "", identity.ErrRetargeted},
		"a knob has another value":  {at(identity.Key{Knob: "v"}, none), at(identity.Key{Knob: "w"}, none), "K=w ", nil},
		"two profiles give it":      {at(ref("k"), none), binding.View{Profiles: append(at(ref("k"), none).Profiles, profile("b", tenant, ref("k")))}, "", identity.ErrAmbiguous},
	} {
		t.Run(what, func(t *testing.T) {
			b, err := c.then.Bind(identity.Scope{Tenant: "acme", Workflow: "site"}, nil, []binding.Lister{lister})
			if err != nil {
				t.Fatal(err)
			}
			got, _, err := b.Start(c.now, lister, binding.Use{Run: 1})
			text := ""
			for _, g := range got {
				text += g.Name + "=" + g.Key.Ref + g.Key.Knob + " "
			}
			if text != c.want || !errors.Is(err, c.err) || c.err == nil && err != nil {
				t.Errorf("got %q, %v; want %q, %v", text, err, c.want, c.err)
			}
		})
	}
}

// The commands and the level of a key may become stricter, and not looser.
func TestBindingRestricts(t *testing.T) {
	view := func(commands []string, level identity.Level) binding.View {
		return binding.View{Profiles: []identity.Profile{profile("acme", tenant, identity.Key{Ref: "file://k", Commands: commands, MinLevel: level})}}
	}
	lister := binding.Lister{Step: "publish", Secrets: []string{"K"}}
	b, err := view([]string{"git", "deploy"}, identity.L1).Bind(tenant, nil, []binding.Lister{lister})
	if err != nil {
		t.Fatal(err)
	}
	got, _, err := b.Start(view([]string{"/bin/git", "curl"}, identity.L0), lister, binding.Use{})
	if err != nil || len(got) != 1 || fmt.Sprint(got[0].Key.Commands) != "[/bin/git]" || got[0].Key.MinLevel != identity.L1 {
		t.Errorf("got %+v, %v", got, err)
	}
	early, err := view(nil, identity.L0).BindEarly(tenant, nil)
	if err != nil || early.Digest() == b.Digest() {
		t.Errorf("got %v, %v", early, err)
	}
	if got, _, err := early.Start(view(nil, identity.L0), lister, binding.Use{}); err != nil || len(got) != 1 {
		t.Errorf("got %+v, %v", got, err)
	}
}

// Where a value may go, and what happens to what has it, may become stricter as well, and not looser.
func TestBindingKeepsOut(t *testing.T) {
	to := func(hosts ...string) *identity.Inject { return &identity.Inject{Hosts: hosts} }
	lister := binding.Lister{Step: "publish", Secrets: []string{"K"}}
	view := func(k identity.Key) binding.View {
		return binding.View{Profiles: []identity.Profile{profile("acme", tenant, k)}}
	}
	for what, c := range map[string]struct {
		then, now identity.Key
		hosts     string // of Inject; empty: there is none
		strict    bool
		err       error
	}{
		"it stays out":                        {identity.Key{Ref: "file://k", Inject: to("a.example")}, identity.Key{Ref: "file://k"}, "[a.example]", false, nil},
		"it stays out, redacted":              {identity.Key{Ref: "file://k", Inject: to("a.example")}, identity.Key{Ref: "file://k", Weak: true}, "[a.example]", false, nil},
		"out from now on":                     {identity.Key{Ref: "file://k"}, identity.Key{Ref: "file://k", Inject: to("a.example")}, "[a.example]", false, nil},
		"one host more":                       {identity.Key{Ref: "file://k", Inject: to("a.example")}, identity.Key{Ref: "file://k", Inject: to("b.example", "A.example")}, "[A.example]", false, nil},
		"one host less":                       {identity.Key{Ref: "file://k", Inject: to("a.example", "b.example:8443")}, identity.Key{Ref: "file://k", Inject: to("b.example:8443")}, "[b.example:8443]", false, nil},
		"other hosts":                         {identity.Key{Ref: "file://k", Inject: to("a.example")}, identity.Key{Ref: "file://k", Inject: to("a.example:8443")}, "", false, identity.ErrUnbound},
		"strict":                              {identity.Key{Ref: "file://k", Strict: true}, identity.Key{Ref: "file://k"}, "", true, nil},
		"strict from now on":                  {identity.Key{Ref: "file://k"}, identity.Key{Ref: "file://k", Strict: true}, "", true, nil},
		"neither":                             {identity.Key{Ref: "file://k"}, identity.Key{Ref: "file://k"}, "", false, nil},
		"a knob goes to no host":              {identity.Key{Knob: "a"}, identity.Key{Knob: "b"}, "", false, nil},
		"to where its reference is, followed": {identity.Key{Ref: "file://k", Retarget: true, Inject: to("a.example")}, identity.Key{Ref: "file://l"}, "[a.example]", false, nil},
	} {
		b, err := view(c.then).Bind(tenant, nil, []binding.Lister{lister})
		if err != nil {
			t.Fatal(err)
		}
		got, _, err := b.Start(view(c.now), lister, binding.Use{})
		if !errors.Is(err, c.err) || c.err == nil && err != nil {
			t.Errorf("%s: %v, want %v", what, err, c.err)
		}
		if err != nil {
			continue
		}
		hosts, k := "", got[0].Key
		if k.Inject != nil {
			hosts = fmt.Sprint(k.Inject.Hosts)
		}
		if hosts != c.hosts || k.Strict != c.strict || k.Weak {
			t.Errorf("%s: got %+v, to %s", what, k, hosts)
		}
	}
}

// A key that does not enter the sandbox has level L3 where the broker is kept from the worker, and no more than
// the attempt has where it is not.
func TestLevelAt(t *testing.T) {
	injected := identity.Key{Ref: "mem://x", Inject: &identity.Inject{Hosts: []string{"example.com"}}}
	for _, c := range []struct {
		at, want identity.Level
		key      identity.Key
	}{{identity.L1Dev, identity.L1Dev, injected}, {identity.L1, identity.L3, injected}, {identity.L2, identity.L3, injected}, {identity.L1, identity.L1, identity.Key{Ref: "mem://x"}}} {
		if got := binding.LevelAt(c.key, c.at); got != c.want {
			t.Errorf("at %v: %v, want %v", c.at, got, c.want)
		}
	}
}
