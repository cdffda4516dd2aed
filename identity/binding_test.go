package identity_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/stepward/stepward/identity"
)

// What a step gets when it starts is never more than what its run was bound to.
func TestBindingStart(t *testing.T) {
	lister := identity.Lister{Step: "publish", Secrets: []string{"K", "L?"}}
	at := func(k, l identity.Key) identity.View {
		v := identity.View{Profiles: []identity.Profile{{Name: "acme", Scope: tenant, Keys: keys{}}}}
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
		then, now identity.View
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
		"two profiles give it":      {at(ref("k"), none), identity.View{Profiles: append(at(ref("k"), none).Profiles, profile("b", tenant, ref("k")))}, "", identity.ErrAmbiguous},
	} {
		t.Run(what, func(t *testing.T) {
			b, err := c.then.Bind(identity.Scope{Tenant: "acme", Workflow: "site"}, nil, []identity.Lister{lister})
			if err != nil {
				t.Fatal(err)
			}
			got, _, err := b.Start(c.now, lister, identity.Use{Run: 1})
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
	view := func(commands []string, level identity.Level) identity.View {
		return identity.View{Profiles: []identity.Profile{profile("acme", tenant, identity.Key{Ref: "file://k", Commands: commands, MinLevel: level})}}
	}
	lister := identity.Lister{Step: "publish", Secrets: []string{"K"}}
	b, err := view([]string{"git", "deploy"}, identity.L1).Bind(tenant, nil, []identity.Lister{lister})
	if err != nil {
		t.Fatal(err)
	}
	got, _, err := b.Start(view([]string{"/bin/git", "curl"}, identity.L0), lister, identity.Use{})
	if err != nil || len(got) != 1 || fmt.Sprint(got[0].Key.Commands) != "[/bin/git]" || got[0].Key.MinLevel != identity.L1 {
		t.Errorf("got %+v, %v", got, err)
	}
	early, err := view(nil, identity.L0).BindEarly(tenant, nil)
	if err != nil || early.Digest() == b.Digest() {
		t.Errorf("got %v, %v", early, err)
	}
	if got, _, err := early.Start(view(nil, identity.L0), lister, identity.Use{}); err != nil || len(got) != 1 {
		t.Errorf("got %+v, %v", got, err)
	}
}
