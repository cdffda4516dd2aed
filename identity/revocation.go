package identity

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/stepward/stepward/internal/runid"
)

// A State says what may still be done with something. States are ordered, and
// only go up: what is revoked is not given back. A key that is revoked is of use
// again in a new version, see [Profiles.Rotate].
type State int

// The states.
const (
	Active     State = iota
	Deprecated       // all as before; each use is on record as event key.deprecated, and [Profiles.Explain] says it
	Soft             // no new use: enqueues are refused, and starts, but what runs ends normally
	Hard             // and what runs is stopped, within 15 seconds
)

var stateNames = [...]string{"active", "deprecated", "soft", "hard"}

// String returns the state as events have it.
func (s State) String() string {
	if s < 0 || int(s) >= len(stateNames) {
		return fmt.Sprintf("state(%d)", int(s))
	}
	return stateNames[s]
}

// What can be revoked.
const (
	KindKey      = "key"      // Target is its name, as steps list it: every version that there is
	KindVersion  = "version"  // and Version one of them
	KindProfile  = "profile"  // Target is its name, for Revoke; its id when read
	KindTenant   = "tenant"   // without a Target
	KindWorkflow = "workflow" // Target is its name
	KindRun      = "run"      // Target is its id: a workflow.RunID as text, or in digits for Revoke
	KindWorker   = "worker"   // Target is its name, or its session
)

// A Revocation says what may no longer be used, or that a version of a key is
// current.
type Revocation struct {
	Tenant  string // whose; empty: the deployment's, and so everybody's
	Kind    string
	Target  string
	Version string // of a key, as the store has it; what follows an "@" may be left out: then it is every version that begins so
	State   State
	Drain   bool // of Soft: runs that were enqueued before may still start
	Reason  string

	// Set by [Profiles.Revoke].
	Epoch int64 // counts the changes of the tenant
	At    time.Time
	Actor string
}

func (r Revocation) problem() string {
	named := r.Target != ""
	isKey := r.Kind == KindKey || r.Kind == KindVersion
	_, isRun := parseRun(r.Target)
	switch {
	case badText(r.Tenant) != "":
		return "tenant: " + badText(r.Tenant)
	case badText(r.Target) != "":
		return "target: " + badText(r.Target)
	case badText(r.Reason) != "":
		return "reason: " + badText(r.Reason)
	case !slices.Contains([]string{KindKey, KindVersion, KindProfile, KindTenant, KindWorkflow, KindRun, KindWorker}, r.Kind):
		return fmt.Sprintf("nothing of kind %q can be revoked", r.Kind)
	case named == (r.Kind == KindTenant):
		return "want a Target, but for a tenant"
	case isKey && badName(r.Target, true) != "":
		return "want the name of a key, as steps list it: " + badName(r.Target, true)
	case r.Kind == KindRun && !isRun:
		return "want the id of a run: run_ and 13 letters and digits, or a number"
	case r.Kind == KindWorkflow && !workflowForm().MatchString(r.Target):
		return "want the name of a workflow, without its version"
	case (r.Version != "") != (r.Kind == KindVersion):
		return "want a Version for that of a key, and for nothing else"
	case r.Version != "" && !version().MatchString(r.Version):
		return "bad Version: want 1 to 200 visible ASCII characters"
	case r.State < Deprecated || r.State > Hard:
		return fmt.Sprintf("nothing can be made %v", r.State)
	case r.Drain && r.State != Soft:
		return "Drain is for Soft"
	}
	return ""
}

// Revocations are those that count for a tenant: its own, and the deployment's.
type Revocations struct {
	Epochs map[string]int64 // by tenant; the deployment is ""
	rows   []Revocation
	asked  asked // what rows are about; nil: nothing was asked
}

// asked are targets by kind.
type asked map[string]map[string]bool

const anyTarget = "*"

// targets are those that a use is about, but for its tenant.
func (u Use) targets(yield func(kind, target string) bool) {
	more := (u.Key == "" || yield(KindKey, u.Key)) && (u.Workflow == "" || yield(KindWorkflow, u.Workflow)) &&
		(u.Run == 0 || yield(KindRun, runid.Text(u.Run)))
	for _, w := range u.Worker {
		more = more && yield(KindWorker, w)
	}
	for _, id := range u.Profiles {
		more = more && yield(KindProfile, strconv.FormatInt(id, 10))
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

// of returns the targets of a kind, nil if there are none.
func (a asked) of(kind string) []string { return slices.Collect(maps.Keys(a[kind])) }

// lacks returns what of a use was not asked about.
func (a asked) lacks(u Use) (r Revocation, is bool) {
	if a == nil {
		return r, false
	}
	for kind, target := range u.targets {
		if all := a[kind]; !all[target] && !all[anyTarget] {
			return Revocation{Tenant: u.Tenant, Kind: kind, Target: target, State: Hard, Reason: "nobody has looked"}, true
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
	Level           Level
}

// Of returns the state of a use: the highest of what is revoked of it, and
// which revocation says so. One that was not among those of [Load] is [Hard].
func (r Revocations) Of(u Use) (s State, why Revocation) {
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

func (r Revocations) concerns(row Revocation, u Use) bool {
	switch row.Kind {
	case KindKey:
		after := u.Version == "" && u.Issued != nil && row.Epoch > u.Issued[row.Tenant]
		return row.Target == u.Key && (after || !r.rotated(row, u.Version))
	case KindVersion:
		return row.Target == u.Key && covers(row.Version, u.Version)
	case KindProfile:
		return slices.ContainsFunc(u.Profiles, func(id int64) bool { return fmt.Sprint(id) == row.Target })
	case KindTenant:
		return true
	case KindWorkflow:
		return row.Target == u.Workflow
	case KindRun:
		return row.Target == runid.Text(u.Run)
	case KindWorker:
		return slices.Contains(u.Worker, row.Target)
	}
	return true // of a later version of this program: what it does not know, it does not allow
}

// rotated reports whether a version has become current after the key was revoked.
// Of an unknown version, whether any has.
func (r Revocations) rotated(revoked Revocation, version string) bool {
	return slices.ContainsFunc(r.rows, func(n Revocation) bool {
		return n.State == Active && n.Kind == KindKey && n.Tenant == revoked.Tenant && n.Target == revoked.Target && n.Epoch > revoked.Epoch &&
			(version == "" || alike(n.Version, version))
	})
}

// covers reports whether who says a version means another: that, or what a store has put an "@" and more behind, so
// that it names one value for ever.
func covers(said, version string) bool {
	return said == version || strings.HasPrefix(version, said+"@")
}

// alike reports whether two versions may be the same.
func alike(a, b string) bool { return covers(a, b) || covers(b, a) }

// parseRun reads the id of a run, as text or in digits.
func parseRun(text string) (int64, bool) {
	if id, ok := runid.Parse(text); ok {
		return id, true
	}
	id, err := strconv.ParseInt(text, 10, 64)
	return id, err == nil && id > 0
}
