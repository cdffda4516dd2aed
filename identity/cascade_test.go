package identity_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/stepward/stepward/identity"
)

var (
	deployment = identity.Scope{}
	tenant     = identity.Scope{Tenant: "acme"}
	project    = identity.Scope{Tenant: "acme", Project: "web"}
	env        = identity.Scope{Tenant: "acme", Environment: "prod"}
	wf         = identity.Scope{Tenant: "acme", Workflow: "site"}
	step       = identity.Scope{Tenant: "acme", Step: "publish"}
	place      = identity.Scope{Tenant: "acme", Project: "web", Environment: "prod", Workflow: "site", Step: "publish"}
)

type keys = map[string]identity.Key

// profile makes one that says something of K.
func profile(name string, s identity.Scope, k identity.Key) identity.Profile {
	return identity.Profile{Name: name, Scope: s, Keys: keys{"K": k}}
}

func ref(s string) identity.Key { return identity.Key{Ref: "file://" + s} }

func TestResolve(t *testing.T) {
	unset, deny, lock := identity.Key{Unset: true}, identity.Key{Deny: true}, identity.Key{Ref: "file://locked", Lock: true}
	for name, c := range map[string]struct {
		profiles []identity.Profile
		run      keys
		want     string // reference or knob
		from     string // breadth
		err      error
	}{
		"broad alone":                     {profiles: []identity.Profile{profile("d", deployment, ref("d"))}, want: "file://d", from: "deployment"},
		"narrowest set wins":              {profiles: []identity.Profile{profile("s", step, ref("s")), profile("t", tenant, ref("t")), profile("e", env, ref("e"))}, want: "file://s", from: "step"},
		"workflow over environment":       {profiles: []identity.Profile{profile("w", wf, ref("w")), profile("e", env, ref("e"))}, want: "file://w", from: "workflow"},
		"environment over project":        {profiles: []identity.Profile{profile("p", project, ref("p")), profile("e", env, ref("e"))}, want: "file://e", from: "environment"},
		"knob over secret":                {profiles: []identity.Profile{profile("t", tenant, ref("t")), profile("p", project, identity.Key{Knob: "v"})}, want: "v", from: "project"},
		"another tenant":                  {profiles: []identity.Profile{profile("t", identity.Scope{Tenant: "other"}, ref("t"))}},
		"another project":                 {profiles: []identity.Profile{profile("t", tenant, ref("t")), profile("p", identity.Scope{Tenant: "acme", Project: "api"}, ref("p"))}, want: "file://t", from: "tenant"},
		"unset hides":                     {profiles: []identity.Profile{profile("t", tenant, ref("t")), profile("p", project, unset)}, err: identity.ErrMissing},
		"set below unset":                 {profiles: []identity.Profile{profile("t", tenant, ref("t")), profile("p", project, unset), profile("s", step, ref("s"))}, want: "file://s", from: "step"},
		"deny is final for what is below": {profiles: []identity.Profile{profile("t", tenant, deny), profile("s", step, ref("s"))}, err: identity.ErrDenied},
		"deny is final for what is above": {profiles: []identity.Profile{profile("t", tenant, ref("t")), profile("s", step, deny)}, err: identity.ErrDenied},
		"deny for a run":                  {profiles: []identity.Profile{profile("t", tenant, deny)}, run: keys{"K": ref("t")}, err: identity.ErrDenied},
		"set below a lock":                {profiles: []identity.Profile{profile("t", tenant, lock), profile("s", step, ref("s"))}, err: identity.ErrLocked},
		"set by a run below a lock":       {profiles: []identity.Profile{profile("t", tenant, lock)}, run: keys{"K": ref("locked")}, err: identity.ErrLocked},
		"unset below a lock takes away":   {profiles: []identity.Profile{profile("t", tenant, lock), profile("s", step, unset)}, err: identity.ErrMissing},
		"a lock does not look up":         {profiles: []identity.Profile{profile("t", tenant, ref("t")), profile("s", step, lock)}, want: "file://locked", from: "step"},
		"a lock without a value":          {profiles: []identity.Profile{profile("d", deployment, identity.Key{Lock: true}), profile("t", tenant, ref("t"))}, err: identity.ErrLocked},
		"ambiguous":                       {profiles: []identity.Profile{profile("a", tenant, ref("a")), profile("b", tenant, ref("a"))}, err: identity.ErrAmbiguous},
		"ambiguous by equal narrowness":   {profiles: []identity.Profile{profile("a", identity.Scope{Tenant: "acme", Project: "web", Step: "publish"}, ref("a")), profile("b", step, ref("b"))}, err: identity.ErrAmbiguous},
		"ambiguous although hidden":       {profiles: []identity.Profile{profile("a", tenant, ref("a")), profile("b", tenant, ref("b")), profile("s", step, ref("s"))}, err: identity.ErrAmbiguous},
		"two at one scope, other names":   {profiles: []identity.Profile{profile("a", tenant, ref("a")), {Name: "b", Scope: tenant, Keys: keys{"OTHER": ref("b")}}}, want: "file://a", from: "tenant"},
		"restriction alone":               {profiles: []identity.Profile{profile("a", tenant, identity.Key{Required: true})}, err: identity.ErrMissing},
		"restriction below":               {profiles: []identity.Profile{profile("a", tenant, ref("a")), profile("s", step, identity.Key{MinLevel: identity.L1})}, want: "file://a", from: "tenant"},
		"a run unsets":                    {profiles: []identity.Profile{profile("a", tenant, ref("a"))}, run: keys{"K": unset}, err: identity.ErrMissing},
		"a run re-points":                 {profiles: []identity.Profile{profile("a", tenant, ref("a")), {Name: "b", Scope: identity.Scope{Tenant: "acme", Project: "api"}, Keys: keys{"OTHER": ref("b")}}}, run: keys{"K": ref("b")}, want: "file://b", from: "run"},
		"a run re-points out":             {profiles: []identity.Profile{profile("a", tenant, ref("a")), {Name: "b", Scope: identity.Scope{Tenant: "other"}, Keys: keys{"K": ref("b")}}}, run: keys{"K": ref("b")}, err: identity.ErrMissing},
		"a run re-points to the top":      {profiles: []identity.Profile{profile("a", tenant, ref("a")), {Name: "b", Keys: keys{"OTHER": ref("b")}}}, run: keys{"K": ref("b")}, err: identity.ErrMissing},
		"a run needs no redaction":        {profiles: []identity.Profile{profile("a", tenant, ref("a"))}, run: keys{"K": {Ref: "file://a", Weak: true}}, err: identity.ErrMissing},
		"a run needs none either":         {profiles: []identity.Profile{profile("a", tenant, identity.Key{Ref: "file://a", Weak: true})}, run: keys{"K": {Ref: "file://a", Weak: true}}, want: "file://a", from: "run"},
		"a run adds":                      {run: keys{"K": ref("b")}, err: identity.ErrMissing},
		"a run adds what is hidden":       {profiles: []identity.Profile{profile("a", tenant, ref("a")), profile("s", step, unset)}, run: keys{"K": ref("a")}, err: identity.ErrMissing},
	} {
		t.Run(name, func(t *testing.T) {
			r := identity.Resolve(c.profiles, place, c.run)["K"]
			if got := r.Key.Ref + r.Key.Knob; got != c.want || r.From.Breadth != c.from {
				t.Errorf("got %q of %q, want %q of %q", got, r.From.Breadth, c.want, c.from)
			}
			if !errors.Is(r.Err, c.err) || c.err == nil && r.Err != nil {
				t.Errorf("got error %v, want %v", r.Err, c.err)
			}
		})
	}
}

// What restricts adds up, wherever it is said.
func TestResolveRestrictions(t *testing.T) {
	r := identity.Resolve([]identity.Profile{
		profile("d", deployment, identity.Key{Commands: []string{"git", "deploy", "curl"}, MinLevel: identity.L1}),
		profile("t", tenant, identity.Key{Ref: "file://t", Commands: []string{"/usr/bin/git", "deploy"}, Required: true}),
		profile("p", project, identity.Key{Unset: true}),
		profile("e", env, identity.Key{Strict: true}),
		profile("s", step, identity.Key{Ref: "file://s", MinLevel: identity.L1Dev, Version: "7"}),
	}, place, keys{"K": {Commands: []string{"git", "curl"}}})["K"]
	if r.Err != nil {
		t.Fatal(r.Err)
	}
	want := identity.Key{Ref: "file://s", Version: "7", Commands: []string{"/usr/bin/git"}, Required: true, Strict: true, MinLevel: identity.L1}
	if fmt.Sprint(r.Key) != fmt.Sprint(want) {
		t.Errorf("got %+v, want %+v", r.Key, want)
	}
	if len(r.Shadowed) != 1 || r.Shadowed[0].Profile != "t" {
		t.Errorf("shadowed: %v", r.Shadowed)
	}
	// What is left of lists that have nothing in common is nobody, not everybody.
	r = identity.Resolve([]identity.Profile{
		profile("t", tenant, identity.Key{Ref: "file://t", Commands: []string{"git"}}),
		profile("s", step, identity.Key{Commands: []string{"deploy"}}),
	}, place, keys{"K": {Commands: []string{"git"}}})["K"]
	if r.Err != nil || len(r.Key.Commands) != 0 {
		t.Errorf("got %v, %v", r.Key.Commands, r.Err)
	}
}

// A model that looks at one question at a time.
func naive(profiles []identity.Profile, place identity.Scope, run keys) (sets string, class error) {
	type entry struct {
		breadth int
		k       identity.Key
	}
	breadth := func(s identity.Scope) int {
		for i, v := range []string{s.Step, s.Workflow, s.Environment, s.Project, s.Tenant} {
			if v != "" {
				return 5 - i
			}
		}
		return 0
	}
	var all []entry
	for _, p := range profiles {
		s := p.Scope
		if (s.Tenant == "" || s.Tenant == place.Tenant) && (s.Project == "" || s.Project == place.Project) && (s.Environment == "" || s.Environment == place.Environment) &&
			(s.Workflow == "" || s.Workflow == place.Workflow) && (s.Step == "" || s.Step == place.Step) {
			if k, ok := p.Keys["K"]; ok {
				all = append(all, entry{breadth(s), k})
			}
		}
	}
	if k, ok := run["K"]; ok {
		all = append(all, entry{6, k})
	}
	value := func(k identity.Key) string { return k.Ref + k.Knob }
	for _, e := range all {
		if e.k.Deny {
			return "", identity.ErrDenied
		}
	}
	for i, e := range all {
		for _, o := range all[i+1:] {
			if e.breadth == o.breadth {
				return "", identity.ErrAmbiguous
			}
		}
	}
	for _, e := range all {
		for _, o := range all {
			if e.k.Lock && o.breadth > e.breadth && value(o.k) != "" {
				return "", identity.ErrLocked
			}
		}
	}
	at := func(upTo int) string { // what is in force with what is that broad
		best, v := -1, ""
		for _, e := range all {
			if e.breadth <= upTo && e.breadth > best && (value(e.k) != "" || e.k.Unset) {
				best, v = e.breadth, value(e.k)
			}
		}
		return v
	}
	v := at(6)
	if v == "" {
		return "", identity.ErrMissing
	}
	if r := run["K"]; value(r) != "" {
		before := at(5)
		own := false
		for _, p := range profiles {
			for _, k := range p.Keys {
				own = own || p.Scope.Tenant == place.Tenant && k.Ref == r.Ref
			}
		}
		if before == "" || r.Ref != "" && r.Ref != before && !own {
			return "", identity.ErrMissing
		}
		for _, p := range profiles { // has it, and what another says of that counts for K no less
			for n, k := range p.Keys {
				for _, q := range profiles {
					said := q.Keys[n]
					if k.Ref != "" && k.Ref == r.Ref && r.Ref != before && (said.Lock || said.Deny) && (n != "K" || !within(q.Scope, place, false)) &&
						within(p.Scope, identity.Scope{Tenant: place.Tenant}, true) && within(q.Scope, identity.Scope{Tenant: place.Tenant}, true) && within(p.Scope, q.Scope, true) {
						return "", identity.ErrMissing
					}
				}
			}
		}
	}
	return v, nil
}

// within reports whether what one scope names is what the other does; both may leave a field open.
func within(a, b identity.Scope, both bool) bool {
	in := func(x, y string) bool { return x == "" || x == y || both && y == "" }
	return in(a.Tenant, b.Tenant) && in(a.Project, b.Project) && in(a.Environment, b.Environment) && in(a.Workflow, b.Workflow) && in(a.Step, b.Step)
}

// A run does not take off what a profile says of a reference, by naming it under another name.
func TestResolveRestrictedReference(t *testing.T) {
	inject := &identity.Inject{Hosts: []string{"example.com"}}
	high := func(k identity.Key) identity.Key { k.Ref = "file://high"; return k }
	other := func(name string, s identity.Scope, k identity.Key) identity.Profile {
		return identity.Profile{Name: name, Scope: s, Keys: keys{"HIGH": k}}
	}
	elsewhere := identity.Scope{Tenant: "acme", Workflow: "blog"}
	for name, c := range map[string]struct {
		profiles []identity.Profile
		named    string
		refused  bool
	}{
		"nothing is said of it":       {[]identity.Profile{other("h", tenant, high(identity.Key{Required: true}))}, "file://high", false},
		"MinLevel":                    {[]identity.Profile{other("h", tenant, high(identity.Key{MinLevel: identity.L2}))}, "file://high", true},
		"Commands":                    {[]identity.Profile{other("h", tenant, high(identity.Key{Commands: []string{"deploy"}}))}, "file://high", true},
		"Strict":                      {[]identity.Profile{other("h", tenant, high(identity.Key{Strict: true}))}, "file://high", true},
		"Lock":                        {[]identity.Profile{other("h", tenant, high(identity.Key{Lock: true}))}, "file://high", true},
		"Inject":                      {[]identity.Profile{other("h", tenant, high(identity.Key{Inject: inject}))}, "file://high", true},
		"in another workflow":         {[]identity.Profile{other("h", elsewhere, high(identity.Key{MinLevel: identity.L2}))}, "file://high", true},
		"by the deployment":           {[]identity.Profile{other("d", deployment, high(identity.Key{MinLevel: identity.L2})), other("h", tenant, high(identity.Key{}))}, "file://high", true},
		"by a broader profile":        {[]identity.Profile{other("d", deployment, identity.Key{MinLevel: identity.L2}), other("h", tenant, high(identity.Key{}))}, "file://high", true},
		"by a narrower profile":       {[]identity.Profile{other("h", tenant, high(identity.Key{})), other("w", wf, identity.Key{Deny: true})}, "file://high", true},
		"Inject that is inherited":    {[]identity.Profile{other("t", tenant, identity.Key{Ref: "file://first", Inject: inject}), other("w", wf, high(identity.Key{}))}, "file://high", true},
		"by a policy":                 {[]identity.Profile{other("h", tenant, high(identity.Key{})), {Name: "p", Scope: wf, Policy: "forbid (principal, action, resource);"}}, "file://high", true},
		"where it is not":             {[]identity.Profile{other("h", wf, high(identity.Key{})), other("e", elsewhere, identity.Key{MinLevel: identity.L2})}, "file://high", false},
		"for another tenant":          {[]identity.Profile{other("h", tenant, high(identity.Key{})), other("o", identity.Scope{Tenant: "other"}, high(identity.Key{Lock: true}))}, "file://high", false},
		"of another part":             {[]identity.Profile{other("h", tenant, identity.Key{Ref: "file://high#a"}), {Name: "b", Scope: tenant, Keys: keys{"B": high(identity.Key{MinLevel: identity.L2})}}}, "file://high#a", true},
		"under the name, and counts":  {[]identity.Profile{profile("b", deployment, identity.Key{MinLevel: identity.L2}), profile("p", project, high(identity.Key{}))}, "file://high", false},
		"under the name, and Inject":  {[]identity.Profile{profile("p", identity.Scope{Tenant: "acme", Project: "api"}, high(identity.Key{Inject: inject}))}, "file://high", true},
		"under the name, and not now": {[]identity.Profile{profile("b", elsewhere, high(identity.Key{MinLevel: identity.L2}))}, "file://high", true},
		"of what wins, by its name":   {[]identity.Profile{other("h", tenant, identity.Key{Ref: "file://low", MinLevel: identity.L2})}, "file://low", false},
	} {
		t.Run(name, func(t *testing.T) {
			r := identity.Resolve(append(c.profiles, profile("low", wf, ref("low"))), place, keys{"K": {Ref: c.named}})["K"]
			if c.refused != errors.Is(r.Err, identity.ErrMissing) || !c.refused && (r.Err != nil || r.Key.Ref != c.named) {
				t.Errorf("got %q, %v; want it refused: %v", r.Key.Ref, r.Err, c.refused)
			}
		})
	}
}

func TestResolveModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		some := func(label string, of ...string) string { return rapid.SampledFrom(of).Draw(t, label) }
		key := func() identity.Key {
			k := identity.Key{Lock: rapid.IntRange(0, 7).Draw(t, "lock") == 0}
			switch some("kind", "ref", "ref", "ref", "knob", "unset", "restrict", "deny") {
			case "ref":
				k.Ref = "file://" + some("ref", "a", "b", "c")
			case "knob":
				k.Knob = some("knob", "x", "y")
			case "unset":
				k.Unset = true
			case "deny":
				k.Deny = rapid.Bool().Draw(t, "deny")
			}
			k.Required = true
			return k
		}
		var profiles []identity.Profile
		for i := range rapid.IntRange(0, 5).Draw(t, "profiles") {
			p := profile(fmt.Sprint("p", i), identity.Scope{Tenant: some("tenant", "", "acme", "acme", "acme", "other")}, key())
			if p.Scope.Tenant != "" {
				p.Scope.Project, p.Scope.Environment = some("project", "", "", "web", "api"), some("environment", "", "", "prod")
				p.Scope.Workflow, p.Scope.Step = some("workflow", "", "", "site", "blog"), some("step", "", "", "publish", "build")
			}
			if rapid.IntRange(0, 4).Draw(t, "other") == 0 {
				p.Keys = keys{"OTHER": p.Keys["K"]}
			}
			profiles = append(profiles, p)
		}
		run := keys{}
		if rapid.Bool().Draw(t, "run") {
			run["K"] = key()
		}
		want, class := naive(profiles, place, run)
		r, named := identity.Resolve(profiles, place, run)["K"]
		if !named {
			r.Err = identity.ErrMissing
		}
		if got := r.Key.Ref + r.Key.Knob; got != want || !errors.Is(r.Err, class) || class == nil && r.Err != nil {
			t.Fatalf("got %q, %v; want %q, %v", got, r.Err, want, class)
		}
		slices.Reverse(profiles) // their order says nothing
		o := identity.Resolve(profiles, place, run)["K"]
		if fmt.Sprint(o) != fmt.Sprint(r) && named {
			t.Fatalf("got %v, and in another order %v", r, o)
		}
	})
}

// Six scopes with fifty keys each.
func BenchmarkResolve(b *testing.B) {
	var profiles []identity.Profile
	for i, s := range []identity.Scope{deployment, tenant, project, env, wf, step} {
		p := identity.Profile{Name: strings.Repeat("p", i+1), Scope: s, Keys: keys{}}
		for j := range 50 {
			p.Keys[fmt.Sprint("KEY_", j)] = identity.Key{Ref: fmt.Sprint("vault://kv/", i, "/", j), Commands: []string{"deploy", "git"}}
		}
		profiles = append(profiles, p)
	}
	for b.Loop() {
		if got := len(identity.Resolve(profiles, place, nil)); got != 50 {
			b.Fatal(got)
		}
	}
}

// What a host echoes is redacted, whatever a narrower profile says of the value.
func TestWeakIsNotInjected(t *testing.T) {
	profiles := []identity.Profile{
		profile("a", identity.Scope{Tenant: "acme"}, identity.Key{Ref: "file://a", Inject: &identity.Inject{Hosts: []string{"a.example"}}}),
		profile("s", step, identity.Key{Ref: "file://b", Weak: true}),
	}
	if got := identity.Resolve(profiles, step, nil)["K"]; got.Err != nil || got.Key.Ref != "file://b" || got.Key.Inject == nil || got.Key.Weak {
		t.Errorf("got %+v", got)
	}
}
