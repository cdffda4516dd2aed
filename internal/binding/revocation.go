package binding

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/stepward/stepward/identity"
	"github.com/stepward/stepward/internal/runid"
	"github.com/stepward/stepward/internal/within"
)

// Revocations are those that count for a tenant: its own, and the deployment's.
type Revocations struct {
	Epochs map[string]int64 // by tenant; the deployment is ""
	rows   []identity.Revocation
	asked  asked // what rows are about; nil: nothing was asked
}

// asked are targets by kind.
type asked map[string]map[string]bool

const anyTarget = "*"

// targets are those that a use is about, but for its tenant.
func (u Use) targets(yield func(kind, target string) bool) {
	more := (u.Key == "" || yield(identity.KindKey, u.Key)) && (u.Workflow == "" || yield(identity.KindWorkflow, u.Workflow)) &&
		(u.Run == 0 || yield(identity.KindRun, runid.Text(u.Run)))
	for _, w := range u.Worker {
		more = more && yield(identity.KindWorker, w)
	}
	for _, id := range u.Profiles {
		more = more && yield(identity.KindProfile, strconv.FormatInt(id, 10))
	}
}

func (a asked) add(u Use) {
	for kind, target := range u.targets {
		if a[kind] == nil {
			a[kind] = make(map[string]bool)
		}
		a[kind][target] = true
	}
}

// pairs returns all targets, each with its kind, and that of what is revoked of a tenant. A key's are those of its versions as well.
func (a asked) pairs() (kinds, targets []string) {
	kinds, targets = []string{identity.KindTenant}, []string{""}
	for kind, of := range a {
		for target := range of {
			kinds, targets = append(kinds, kind), append(targets, target)
			if kind == identity.KindKey {
				kinds, targets = append(kinds, identity.KindVersion), append(targets, target)
			}
		}
	}
	return kinds, targets
}

// lacks returns what of a use was not asked about.
func (a asked) lacks(u Use) (r identity.Revocation, is bool) {
	if a == nil {
		return r, false
	}
	for kind, target := range u.targets {
		if all := a[kind]; !all[target] && !all[anyTarget] {
			return identity.Revocation{Tenant: u.Tenant, Kind: kind, Target: target, State: identity.Hard, Reason: "nobody has looked"}, true
		}
	}
	return r, false
}

// A Use is what is asked about: whichever fields are known.
type Use struct {
	Tenant   string
	Workflow string
	Run      int64
	Worker   []string // its name, and its session
	Key      string
	Version  string // of the key; empty: whichever is current
	Profiles []int64

	// Issued is the Epochs of when a key without a Version was given out: that one has become
	// current since says nothing of it. Nil otherwise.
	Issued map[string]int64

	// Bound is the Epochs of when the run was enqueued, of a start; nil otherwise.
	Bound map[string]int64

	// What only policies are told, of a start: the version of the workflow, and the level of the attempt.
	WorkflowVersion string
	Level           identity.Level
}

// Of returns the state of a use: the highest of what is revoked of it, and
// which revocation says so. One that was not among those of [Load] is [identity.Hard].
func (r Revocations) Of(u Use) (s identity.State, why identity.Revocation) {
	if not, is := r.asked.lacks(u); is {
		return not.State, not
	}
	for _, row := range r.rows {
		if row.State <= s || (row.Tenant != "" && row.Tenant != u.Tenant) || !r.concerns(row, u) {
			continue
		}
		if row.Drain && u.Bound != nil && u.Bound[row.Tenant] < row.Epoch {
			continue
		}
		s, why = row.State, row
	}
	return s, why
}

func (r Revocations) concerns(row identity.Revocation, u Use) bool {
	switch row.Kind {
	case identity.KindKey:
		after := u.Version == "" && u.Issued != nil && row.Epoch > u.Issued[row.Tenant]
		return row.Target == u.Key && (after || !r.rotated(row, u.Version))
	case identity.KindVersion:
		return row.Target == u.Key && within.Version(row.Version, u.Version)
	case identity.KindProfile:
		return slices.ContainsFunc(u.Profiles, func(id int64) bool { return fmt.Sprint(id) == row.Target })
	case identity.KindTenant:
		return true
	case identity.KindWorkflow:
		return row.Target == u.Workflow
	case identity.KindRun:
		return row.Target == runid.Text(u.Run)
	case identity.KindWorker:
		return slices.Contains(u.Worker, row.Target)
	}
	return true // of a later version of this program: what it does not know, it does not allow
}

// Current returns the version of a key that has become current since the key was revoked, if nothing else than that it is
// another one is against a use from a state on.
func (r Revocations) Current(u Use, from identity.State) (version string, only bool) {
	_, why := r.Of(u)
	rest := r
	rest.rows = nil
	for _, row := range r.rows { // oldest first, of each tenant
		if row.Kind != identity.KindKey || row.Target != u.Key || !r.rotated(row, "") {
			rest.rows = append(rest.rows, row)
		}
		if row.Kind == identity.KindKey && row.Target == u.Key && row.State == identity.Active && row.Tenant == why.Tenant && row.Epoch > why.Epoch {
			version = row.Version
		}
	}
	state, _ := rest.Of(u)
	return version, state < from && version != ""
}

// rotated reports whether a version has become current after the key was revoked.
// Of an unknown version, whether any has.
func (r Revocations) rotated(revoked identity.Revocation, version string) bool {
	return slices.ContainsFunc(r.rows, func(n identity.Revocation) bool {
		return n.State == identity.Active && n.Kind == identity.KindKey && n.Tenant == revoked.Tenant && n.Target == revoked.Target && n.Epoch > revoked.Epoch &&
			(version == "" || within.Alike(n.Version, version))
	})
}
