// Package binding says what the steps of a run may have: what an enqueue binds the run to, and what a step gets of that
// when it starts, as profiles, policies and what is revoked have it then. Package enqueue binds, package broker starts, and
// package explain tells beforehand.
package binding

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/stepward/stepward/identity"
	"github.com/stepward/stepward/internal/hostport"
	"github.com/stepward/stepward/internal/within"
)

// A Binding is what an enqueue has given to a run: which names, and what they
// referred to. What its steps get when they start may be less, and is never more.
type Binding struct {
	Place identity.Scope          `json:"place"` // of the run, without a step
	Epoch map[string]int64        `json:"epoch"` // of what is revoked: of the tenant, and of the deployment ("")
	Keys  map[string]identity.Key `json:"keys,omitempty"`
	Names []identity.Bound        `json:"names"`

	// Policies are those that have to permit what a step gets, beside those that apply
	// when it starts.
	Policies []Policy `json:"policies,omitempty"`

	// Early is of a run that was enqueued before any worker had defined its workflow:
	// it is bound to everything that its tenant had, and names without a step are of any.
	Early bool `json:"early,omitempty"`
}

// Digest identifies what was bound.
func (b Binding) Digest() [32]byte {
	text, err := json.Marshal(b) // of strings, numbers and sorted maps
	if err != nil {
		return [32]byte{}
	}
	return sha256.Sum256(text)
}

// A Lister is a step, and the names that it lists: one that ends in "?" may be
// missing.
type Lister struct {
	Step    string
	Secrets []string
	Tool    bool // its commands get them, not its function
}

// Uses are what is asked about the names, for [Load].
func (l Lister) Uses() (out []Use) {
	for _, listed := range l.Secrets {
		out = append(out, Use{Key: strings.TrimSuffix(listed, "?")})
	}
	return out
}

// Listers returns the steps of a definition that list names, as table definition has
// them.
func Listers(steps []byte) (out []Lister, err error) {
	if len(steps) == 0 {
		return nil, nil
	}
	var all []struct {
		Name    string   `json:"name"`
		Secrets []string `json:"secrets"`
		Tool    bool     `json:"tool"`
	}
	if err := json.Unmarshal(steps, &all); err != nil {
		return nil, fmt.Errorf("identity: steps of a definition: %w", err)
	}
	for _, s := range all {
		if len(s.Secrets) > 0 {
			out = append(out, Lister{Step: s.Name, Secrets: s.Secrets, Tool: s.Tool})
		}
	}
	return out, nil
}

// Bind says what a run at a place is bound to: of what its steps list, what
// profiles give them. run is what is said with the run itself. An error is a *[identity.KeyError]:
// a name that is required and that nobody gets, one that is [identity.ErrAmbiguous] or
// [identity.ErrLocked], or [identity.ErrRevoked].
func (v View) Bind(place identity.Scope, run map[string]identity.Key, steps []Lister) (Binding, error) {
	b := v.binding(place, run)
	use := Use{Tenant: place.Tenant, Workflow: place.Workflow}
	if err := v.allowed(use, "", ""); err != nil {
		return b, err
	}
	for _, s := range steps {
		place.Step = s.Step
		grants, _, err := v.grants(place, run, s, use)
		if err != nil {
			return b, err
		}
		for _, g := range grants {
			b.add(s.Step, g)
		}
	}
	return b, nil
}

// BindEarly binds a run whose workflow nobody has defined, to everything that there is
// for it.
func (v View) BindEarly(place identity.Scope, run map[string]identity.Key) (Binding, error) {
	b := v.binding(place, run)
	b.Early = true
	use := Use{Tenant: place.Tenant, Workflow: place.Workflow}
	if err := v.allowed(use, "", ""); err != nil {
		return b, err
	}
	steps := map[string]bool{"": true}
	for _, p := range v.Profiles {
		steps[p.Scope.Step] = true
	}
	for _, step := range slices.Sorted(maps.Keys(steps)) {
		place.Step = step
		all := identity.Resolve(v.Profiles, place, run)
		for _, name := range slices.Sorted(maps.Keys(all)) {
			if r := all[name]; r.Err == nil && v.allowed(use.Of(r), step, name) == nil {
				b.add(step, r)
			}
		}
	}
	return b, nil
}

func (v View) binding(place identity.Scope, run map[string]identity.Key) Binding {
	b := Binding{Place: place, Epoch: map[string]int64{}, Keys: run, Names: []identity.Bound{}, Policies: v.policiesIn(place)}
	for _, tenant := range []string{"", place.Tenant} {
		b.Epoch[tenant] = v.Revocations.Epochs[tenant]
	}
	return b
}

func (b *Binding) add(step string, r identity.Resolved) {
	b.Names = append(b.Names, identity.Bound{Step: step, Name: r.Name, Ref: r.Key.Ref, Version: r.Key.Version, From: r.From,
		Retarget: r.Key.Retarget, Commands: r.Key.Commands, MinLevel: r.Key.MinLevel,
		Strict: r.Key.Strict, Inject: r.Key.Inject})
}

// Keep drops the names that another run was not bound to, and adds the policies that it was.
func (b *Binding) Keep(other Binding) {
	b.Names = slices.DeleteFunc(b.Names, func(n identity.Bound) bool {
		_, ok := other.Bound(n.Step, n.Name)
		return !ok
	})
	for _, p := range other.Policies {
		if !slices.Contains(b.Policies, p) {
			b.Policies = append(b.Policies, p)
		}
	}
}

// Bound returns what the run was bound to under a name.
func (b Binding) Bound(step, name string) (identity.Bound, bool) {
	for _, of := range []string{step, ""} { // "" is of any step, and of an early one only
		for _, n := range b.Names {
			if n.Name == name && n.Step == of {
				return n, true
			}
		}
	}
	return identity.Bound{}, false
}

// Start says what a step gets when it starts: of what it lists, what the profiles give
// it now, if the run was bound to it, and if all policies permit it, those of now and those
// that the run was bound to. use is the run's, with what is known of its worker. What the step
// could do without and does not get is withheld, each with its Err. What it cannot do without
// and does not get is a *[identity.KeyError].
func (b Binding) Start(v View, s Lister, use Use) (given, withheld []identity.Resolved, err error) {
	use.Tenant, use.Workflow, use.Bound = b.Place.Tenant, b.Place.Workflow, b.Epoch
	if err := v.allowed(use, s.Step, ""); err != nil {
		return nil, nil, err
	}
	place := b.Place
	place.Step = s.Step
	grants, withheld, err := v.grants(place, b.Keys, s, use)
	if err != nil {
		return nil, nil, err
	}
	rules := v.rules(b, place)
	for _, g := range grants {
		n, ok := b.Bound(s.Step, g.Name)
		switch {
		case !ok:
			g.Err = &identity.KeyError{Step: s.Step, Key: g.Name, Err: identity.ErrUnbound}
		case (n.Ref != g.Key.Ref || (n.Ref == "") != (g.Key.Knob != "")) && !n.Retarget:
			g.Err = &identity.KeyError{Step: s.Step, Key: g.Name, Err: identity.ErrRetargeted}
		default:
			if !restrict(&g.Key, n) {
				g.Err = &identity.KeyError{Step: s.Step, Key: g.Name, Detail: "none of the hosts that its value may be sent to", Err: identity.ErrUnbound}
				break
			}
			g.Err = judge(rules, identity.Question{Place: place, Version: use.WorkflowVersion, Level: LevelAt(g.Key, use.Level)}, s.Tool, &g)
		}
		switch {
		case g.Err == nil:
			given = append(given, g)
		case g.Key.Required:
			return nil, nil, g.Err
		default:
			withheld = append(withheld, g)
		}
	}
	return given, withheld, nil
}

// restrict takes off a key what it was not bound with. It returns whether something is left.
func restrict(k *identity.Key, n identity.Bound) bool {
	k.Commands, k.MinLevel, k.Strict = within.Commands(n.Commands, k.Commands), max(n.MinLevel, k.MinLevel), n.Strict || k.Strict
	if n.Inject == nil || k.Ref == "" {
		return true
	}
	i := *n.Inject
	if k.Inject != nil {
		i, i.Hosts = *k.Inject, nil
		bound := hostport.All(n.Inject.Hosts)
		for at, host := range hostport.All(k.Inject.Hosts) {
			if slices.Contains(bound, host) {
				i.Hosts = append(i.Hosts, k.Inject.Hosts[at])
			}
		}
	}
	k.Inject, k.Weak = &i, false
	return len(i.Hosts) > 0
}

// grants returns what a step gets of what it lists, each with Required if it cannot do
// without, and what it does not get and can do without.
func (v View) grants(place identity.Scope, run map[string]identity.Key, s Lister, use Use) (out, withheld []identity.Resolved, err error) {
	all := identity.Resolve(v.Profiles, place, run)
	for _, listed := range s.Secrets {
		name, optional := strings.CutSuffix(listed, "?")
		r, ok := all[name]
		if !ok {
			r = identity.Resolved{Name: name, Err: &identity.KeyError{Key: name, Err: identity.ErrMissing}}
		}
		r.Key.Required = r.Key.Required || !optional
		err := r.Err
		if e := (*identity.KeyError)(nil); errors.As(err, &e) {
			err = &identity.KeyError{Step: s.Step, Key: e.Key, Detail: e.Detail, Err: e.Err}
		}
		if err == nil {
			err = v.allowed(use.Of(r), s.Step, name)
		}
		switch {
		case err == nil:
			out = append(out, r)
		case r.Key.Required, errors.Is(err, identity.ErrAmbiguous), errors.Is(err, identity.ErrLocked):
			return nil, nil, err
		default:
			r.Err = err
			withheld = append(withheld, r)
		}
	}
	return out, withheld, nil
}

// Profiles returns the ids of the profiles that give a name: of what wins; of what a run says itself, of all that
// it says that in the place of.
func Profiles(r identity.Resolved) (ids []int64) {
	from := []identity.Origin{r.From}
	if r.From.Breadth == within.Run.String() {
		from = r.Shadowed
	}
	for _, o := range from {
		if o.ID != 0 {
			ids = append(ids, o.ID)
		}
	}
	return ids
}

// LevelAt returns the level of a key for an attempt at a level: what does not enter the sandbox is as safe as the
// broker is from the worker.
func LevelAt(k identity.Key, l identity.Level) identity.Level {
	if k.Inject != nil && l >= identity.L1 {
		return identity.L3
	}
	return l
}

// Of adds a key to a use.
func (u Use) Of(r identity.Resolved) Use {
	u.Key, u.Version, u.Profiles = r.Name, r.Key.Version, Profiles(r)
	return u
}

// allowed returns an error if a use must not begin.
func (v View) allowed(u Use, step, name string) error {
	state, why := v.Revocations.Of(u)
	if state < identity.Soft {
		return nil
	}
	what := why.Kind
	if why.Target != "" {
		what += " " + why.Target
	}
	return &identity.KeyError{Step: step, Key: name, Detail: fmt.Sprintf("%s, %v", what, state), Err: identity.ErrRevoked}
}
