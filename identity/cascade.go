package identity

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/stepward/stepward/internal/within"
)

// An Origin says where something about a name comes from.
type Origin struct {
	Breadth string `json:"breadth"` // deployment, tenant, project, environment, workflow, step or run
	Profile string `json:"profile,omitempty"`
	ID      int64  `json:"id,omitempty"` // of the profile
	Scope   Scope  `json:"scope,omitzero"`
}

func (o Origin) String() string {
	if o.Profile == "" {
		return "the " + o.Breadth
	}
	return fmt.Sprintf("profile %s (%s)", o.Profile, o.Scope)
}

// A Resolved is what the cascade says of one name at one place.
type Resolved struct {
	Name string
	Key  Key    // what is in force, with the restrictions of all; sets nothing if Err is not nil
	From Origin // of what wins; zero: there is nothing

	Shadowed []Origin // what sets the name too, and is broader, or hidden; from broad to narrow
	Denied   []Origin
	Locked   []Origin
	Unset    Origin // of the narrowest that hides what is broader, if nothing narrower sets it again

	Rulings []Ruling // of the policies that apply, of what starts

	// Err is nil, or why nobody gets it: a *[KeyError] with ErrDenied, ErrAmbiguous,
	// ErrLocked or ErrMissing.
	Err error
}

// Resolve returns what profiles say at a place, by name. Those that do not
// apply there are passed over. run is what the enqueue of a run says: it is the
// narrowest scope, and can hide, restrict and re-point what others set, but add no
// name, nor a reference that none of the tenant's own profiles has, or that a profile
// restricts under another name: that would be a way around what is said there.
func Resolve(profiles []Profile, place Scope, run map[string]Key) map[string]Resolved {
	layers := layersAt(profiles, place, run)
	own := func(name, ref string) (is bool, held string) {
		is = slices.ContainsFunc(profiles, func(p Profile) bool { return p.Scope.Tenant == place.Tenant && place.Tenant != "" && p.refers(ref) })
		return is, restricts(profiles, place, name, ref)
	}
	out := make(map[string]Resolved)
	for _, l := range layers {
		for name := range l.keys {
			if _, done := out[name]; !done {
				out[name] = resolve(layers, name, own)
			}
		}
	}
	return out
}

// A layer is a profile that applies, or what a run says itself.
type layer struct {
	breadth within.Breadth
	keys    map[string]Key
	origin  Origin
}

// layersAt returns what applies at a place, from broad to narrow.
func layersAt(profiles []Profile, place Scope, run map[string]Key) (layers []layer) {
	for _, p := range profiles {
		if within.Scope(p.Scope).Covers(within.Scope(place)) {
			layers = append(layers, layer{within.Scope(p.Scope).Breadth(), p.Keys, p.origin()})
		}
	}
	slices.SortStableFunc(layers, func(a, b layer) int {
		return cmp.Or(cmp.Compare(a.breadth, b.breadth), cmp.Compare(a.origin.Profile, b.origin.Profile))
	})
	if len(run) > 0 {
		layers = append(layers, layer{within.Run, run, Origin{Breadth: within.Run.String()}})
	}
	return layers
}

func resolve(layers []layer, name string, own func(name, ref string) (is bool, held string)) Resolved {
	r := Resolved{Name: name}
	var winner, merged Key
	var lock, set, last *layer // the broadest that locks, what is in force, what names it
	var ambiguous, locked, added string
	restricted := false
	for i := range layers {
		l := &layers[i]
		k, ok := l.keys[name]
		if !ok {
			continue
		}
		if last != nil && last.breadth == l.breadth {
			ambiguous = fmt.Sprintf("%v and %v", last.origin, l.origin)
		}
		if k.Deny {
			r.Denied = append(r.Denied, l.origin)
		}
		if k.sets() {
			is, held := true, ""
			if l.breadth == within.Run && k.Ref != "" && k.Ref != winner.Ref {
				is, held = own(name, k.Ref)
			}
			switch {
			case lock != nil && lock.breadth < l.breadth:
				locked = fmt.Sprintf("%v, under %v", l.origin, lock.origin)
			case l.breadth == within.Run && set == nil:
				added = "a run adds no name"
			case !is:
				added = "no profile of the tenant has the reference that the run names"
			case held != "":
				added = held + " restricts what the run names, and a run takes nothing of that off"
			case l.breadth == within.Run && k.Inject != nil:
				added = "a run does not say where a secret goes"
			case l.breadth == within.Run && k.Weak && (!winner.Weak || k.Ref != winner.Ref):
				added = "a run does not say that a value needs no redaction"
			}
			if set != nil {
				r.Shadowed = append(r.Shadowed, set.origin)
			}
			k.Inject = cmp.Or(k.Inject, winner.Inject)
			set, winner, r.Unset = l, k, Origin{}
		}
		if k.Unset {
			if set != nil {
				r.Shadowed = append(r.Shadowed, set.origin)
			}
			set, winner, r.Unset = nil, Key{}, l.origin
		}
		if k.Lock {
			r.Locked = append(r.Locked, l.origin)
			lock = cmp.Or(lock, l)
		}
		if len(k.Commands) > 0 {
			if restricted {
				merged.Commands = within.Commands(merged.Commands, k.Commands)
			} else {
				merged.Commands, restricted = slices.Clone(k.Commands), true
			}
		}
		merged.MinLevel = max(merged.MinLevel, k.MinLevel)
		merged.Required = merged.Required || k.Required
		merged.Strict = merged.Strict || k.Strict
		last = l
	}
	slices.Sort(merged.Commands)
	merged.Commands = slices.Compact(merged.Commands)
	fail := func(err error, detail string) {
		r.Err = &KeyError{Key: name, Detail: detail, Err: err}
	}
	switch {
	case len(r.Denied) > 0:
		fail(ErrDenied, "by "+r.Denied[0].String())
	case ambiguous != "":
		fail(ErrAmbiguous, ambiguous)
	case locked != "":
		fail(ErrLocked, locked)
	case added != "":
		fail(ErrMissing, added)
	case set == nil && r.Unset != (Origin{}):
		fail(ErrMissing, r.Unset.String()+" unsets it")
	case set == nil:
		fail(ErrMissing, "")
	default:
		merged.Ref, merged.Version, merged.Knob, merged.File, merged.Retarget, merged.Weak = winner.Ref, winner.Version, winner.Knob, winner.File, winner.Retarget, winner.Weak
		if merged.Ref != "" {
			merged.Inject = winner.Inject
			merged.Weak = merged.Weak && merged.Inject == nil // what a host echoes is redacted
		}
		r.From = set.origin
	}
	r.Key = merged
	return r
}
