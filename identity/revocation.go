package identity

import (
	"fmt"
	"slices"
	"time"

	"github.com/stepward/stepward/internal/envname"
	"github.com/stepward/stepward/internal/runid"
)

// A State says what may still be done with something. States are ordered, and
// only go up: what is revoked is not given back. A key that is revoked is of use
// again in a new version, see [Profiles.Rotate].
type State int

// The states.
const (
	Active     State = iota
	Deprecated       // all as before; each use is on record as event key.deprecated, and package explain says it
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
	_, isRun := runid.Read(r.Target)
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
	case isKey && envname.Problem(r.Target, true) != "":
		return "want the name of a key, as steps list it: " + envname.Problem(r.Target, true)
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
