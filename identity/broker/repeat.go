package broker

import (
	"slices"
	"strings"

	"github.com/stepward/stepward/identity"
	"github.com/stepward/stepward/workflow"
)

// repeated is what the run of an attempt shall repeat: what another run was given. See workflow.ForkOptions.Reproduce.
type repeated struct {
	run  int64 // 0: nothing
	pins []pin // of the same step there; nil: none are on record
}

// pin ties what an attempt gets to what the other run had. It has that, or is refused, also what it could do without;
// what it had not, it has not. Policies, what is revoked and what the profiles refer to count as of now.
func (r repeated) pin(f facts, to *bound) error {
	if r.run == 0 {
		return nil
	}
	id := workflow.RunID(r.run)
	if r.pins == nil {
		return refuse(reasonPin, "", "broker: run %v, which is repeated, has nothing on record that step %s was given", id, f.key)
	}
	for _, w := range to.withheld {
		if slices.ContainsFunc(r.pins, func(p pin) bool { return p.Name == w.Name }) {
			return unresolved(w.Err)
		}
	}
	to.repeats = r.run
	var grants []grant
	for _, g := range to.grants {
		i := slices.IndexFunc(r.pins, func(p pin) bool { return p.Name == g.name })
		switch {
		case i < 0 && g.required:
			return refuse(reasonPin, g.name, "broker: %s: step %s of run %v, which is repeated, was not given it", g.name, f.key, id)
		case i < 0:
			to.withheld = append(to.withheld, identity.Resolved{Name: g.name, Err: &identity.KeyError{Step: f.def.Name, Key: g.name, Detail: "the run that is repeated had it not", Err: identity.ErrUnbound}})
		case r.pins[i].Ref != g.key.Ref:
			return refuse(reasonPin, g.name, "broker: %s: it refers to something else than in run %v, which is repeated", g.name, id)
		default:
			g.pinned, g.required = &r.pins[i], true
			grants = append(grants, g)
		}
	}
	to.grants = grants
	return nil
}

// version is the one to ask the store for.
func (g grant) version() string {
	switch {
	case g.pinned == nil:
		return g.key.Version
	case g.pinned.Leased: // those are made for who asks
		return ""
	}
	return g.pinned.Version
}

// again returns why what was fetched is not what is to be repeated; of a lease, which cannot be, it says so. root is of
// this broker's fingerprints.
func (g grant) again(now *pin, root *root, tenant string) error {
	was := g.pinned
	switch {
	case was.Leased && now.Leased:
		now.Equivalent = true
	case !strings.HasPrefix(was.Fingerprint, root.mark):
		return refuse(reasonPin, g.name, "broker: %s: its fingerprint is that of a broker with another key: nobody can say whether it is the same", g.name)
	case g.key.Ref == "" && was.Fingerprint != now.Fingerprint:
		return refuse(reasonPin, g.name, "broker: %s: the profiles have another value, and do not keep what they had", g.name)
	case was.Version == "" && was.Fingerprint != now.Fingerprint:
		return refuse(reasonPin, g.name, "broker: %s: the store keeps no versions, and has another value now", g.name)
	case was.Leased != now.Leased, was.Version != now.Version:
		return refuse(reasonPin, g.name, "broker: %s: the store has not kept version %q of it", g.name, was.Version)
	case was.Wrapped != now.Wrapped: // its version is all that the broker knows of one of them
		if was.Wrapped && was.Fingerprint != root.ofVersion(tenant, *was) {
			return refuse(reasonMismatch, g.name, "broker: %s: what is on record of version %q is not what the broker wrote", g.name, was.Version)
		}
		now.Epochs = was.Epochs
	case was.Fingerprint != now.Fingerprint:
		return refuse(reasonMismatch, g.name, "broker: %s: the store gives another value under the same version %q", g.name, was.Version)
	default:
		now.Epochs = was.Epochs
	}
	return nil
}
