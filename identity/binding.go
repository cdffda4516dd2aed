package identity

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// A Binding is what an enqueue has given to a run: which names, and what they
// referred to. What its steps get when they start may be less, and is never more.
type Binding struct {
	Place Scope            `json:"place"` // of the run, without a step
	Epoch map[string]int64 `json:"epoch"` // of what is revoked: of the tenant, and of the deployment ("")
	Keys  map[string]Key   `json:"keys,omitempty"`
	Names []Bound          `json:"names"`

	// Policies are those that have to permit what a step gets, beside those that apply
	// when it starts.
	Policies []BoundPolicy `json:"policies,omitempty"`

	// Early is of a run that was enqueued before any worker had defined its workflow:
	// it is bound to everything that its tenant had, and names without a step are of any.
	Early bool `json:"early,omitempty"`
}

// A Bound is a name that a run was bound to.
type Bound struct {
	Step     string   `json:"step,omitempty"`
	Name     string   `json:"name"`
	Ref      string   `json:"ref,omitempty"` // empty: it was a knob
	Version  string   `json:"version,omitempty"`
	From     Origin   `json:"from"`
	Retarget bool     `json:"retarget,omitempty"`
	Commands []string `json:"commands,omitempty"`
	MinLevel Level    `json:"min_level,omitzero"`
	Strict   bool     `json:"strict,omitempty"`
	Inject   *Inject  `json:"inject,omitempty"`
}

// Digest identifies what was bound.
func (b Binding) Digest() [32]byte {
	text, err := json.Marshal(b) // of strings, numbers and sorted maps
	if err != nil {
		return [32]byte{}
	}
	return sha256.Sum256(text)
}

// What a [KeyError] of a start may be about, beyond those of a [Resolved].
var (
	// ErrUnbound reports a name that the run was not bound to when it was enqueued.
	ErrUnbound = errors.New("not bound when the run was enqueued")

	// ErrRetargeted reports a name that refers to something else than when the run was
	// enqueued, and has no Retarget.
	ErrRetargeted = errors.New("it refers to something else than when the run was enqueued")
)

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
// profiles give them. run is what is said with the run itself. An error is a *[KeyError]:
// a name that is required and that nobody gets, one that is [ErrAmbiguous] or
// [ErrLocked], or [ErrRevoked].
func (v View) Bind(place Scope, run map[string]Key, steps []Lister) (Binding, error) {
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
func (v View) BindEarly(place Scope, run map[string]Key) (Binding, error) {
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
		all := Resolve(v.Profiles, place, run)
		for _, name := range slices.Sorted(maps.Keys(all)) {
			if r := all[name]; r.Err == nil && v.allowed(use.of(r), step, name) == nil {
				b.add(step, r)
			}
		}
	}
	return b, nil
}

func (v View) binding(place Scope, run map[string]Key) Binding {
	b := Binding{Place: place, Epoch: map[string]int64{}, Keys: run, Names: []Bound{}, Policies: v.policiesIn(place)}
	for _, tenant := range []string{"", place.Tenant} {
		b.Epoch[tenant] = v.Revocations.Epochs[tenant]
	}
	return b
}

func (b *Binding) add(step string, r Resolved) {
	b.Names = append(b.Names, Bound{Step: step, Name: r.Name, Ref: r.Key.Ref, Version: r.Key.Version, From: r.From,
		Retarget: r.Key.Retarget, Commands: r.Key.Commands, MinLevel: r.Key.MinLevel,
		Strict: r.Key.Strict, Inject: r.Key.Inject})
}

// Keep drops the names that another run was not bound to, and adds the policies that it was.
func (b *Binding) Keep(other Binding) {
	b.Names = slices.DeleteFunc(b.Names, func(n Bound) bool {
		_, ok := other.bound(n.Step, n.Name)
		return !ok
	})
	for _, p := range other.Policies {
		if !slices.Contains(b.Policies, p) {
			b.Policies = append(b.Policies, p)
		}
	}
}

func (b Binding) bound(step, name string) (Bound, bool) {
	for _, of := range []string{step, ""} { // "" is of any step, and of an early one only
		for _, n := range b.Names {
			if n.Name == name && n.Step == of {
				return n, true
			}
		}
	}
	return Bound{}, false
}

// Start says what a step gets when it starts: of what it lists, what the profiles give
// it now, if the run was bound to it, and if all policies permit it, those of now and those
// that the run was bound to. use is the run's, with what is known of its worker. What the step
// could do without and does not get is withheld, each with its Err. What it cannot do without
// and does not get is a *[KeyError].
func (b Binding) Start(v View, s Lister, use Use) (given, withheld []Resolved, err error) {
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
		n, ok := b.bound(s.Step, g.Name)
		switch {
		case !ok:
			g.Err = &KeyError{Step: s.Step, Key: g.Name, Err: ErrUnbound}
		case (n.Ref != g.Key.Ref || (n.Ref == "") != (g.Key.Knob != "")) && !n.Retarget:
			g.Err = &KeyError{Step: s.Step, Key: g.Name, Err: ErrRetargeted}
		default:
			if !n.restrict(&g.Key) {
				g.Err = &KeyError{Step: s.Step, Key: g.Name, Detail: "none of the hosts that its value may be sent to", Err: ErrUnbound}
				break
			}
			g.Err = judge(rules, Question{Place: place, Version: use.WorkflowVersion, Level: g.Key.LevelAt(use.Level)}, s.Tool, &g)
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
func (n Bound) restrict(k *Key) bool {
	k.Commands, k.MinLevel, k.Strict = both(n.Commands, k.Commands), max(n.MinLevel, k.MinLevel), n.Strict || k.Strict
	if n.Inject == nil || k.Ref == "" {
		return true
	}
	i := *n.Inject
	if k.Inject != nil {
		i, i.Hosts = *k.Inject, nil
		bound := n.Inject.Endpoints()
		for at, endpoint := range k.Inject.Endpoints() {
			if slices.Contains(bound, endpoint) {
				i.Hosts = append(i.Hosts, k.Inject.Hosts[at])
			}
		}
	}
	k.Inject, k.Weak = &i, false
	return len(i.Hosts) > 0
}

// grants returns what a step gets of what it lists, each with Required if it cannot do
// without, and what it does not get and can do without.
func (v View) grants(place Scope, run map[string]Key, s Lister, use Use) (out, withheld []Resolved, err error) {
	all := Resolve(v.Profiles, place, run)
	for _, listed := range s.Secrets {
		name, optional := strings.CutSuffix(listed, "?")
		r, ok := all[name]
		if !ok {
			r = Resolved{Name: name, Err: &KeyError{Key: name, Err: ErrMissing}}
		}
		r.Key.Required = r.Key.Required || !optional
		err := r.Err
		if e := (*KeyError)(nil); errors.As(err, &e) {
			err = &KeyError{Step: s.Step, Key: e.Key, Detail: e.Detail, Err: e.Err}
		}
		if err == nil {
			err = v.allowed(use.of(r), s.Step, name)
		}
		switch {
		case err == nil:
			out = append(out, r)
		case r.Key.Required, errors.Is(err, ErrAmbiguous), errors.Is(err, ErrLocked):
			return nil, nil, err
		default:
			r.Err = err
			withheld = append(withheld, r)
		}
	}
	return out, withheld, nil
}

// of adds a key to a use.
func (u Use) of(r Resolved) Use {
	u.Key, u.Version, u.Profiles = r.Name, r.Key.Version, r.Profiles()
	return u
}

// allowed returns an error if a use must not begin.
func (v View) allowed(u Use, step, name string) error {
	state, why := v.Revocations.Of(u)
	if state < Soft {
		return nil
	}
	what := why.Kind
	if why.Target != "" {
		what += " " + why.Target
	}
	return &KeyError{Step: step, Key: name, Detail: fmt.Sprintf("%s, %v", what, state), Err: ErrRevoked}
}
