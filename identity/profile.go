package identity

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/stepward/stepward/internal/within"
)

// A Profile gives names to what is within its scope.
type Profile struct {
	Name  string // unique for its tenant: 1 to 100 letters, digits and _-./, not starting with -./
	Scope Scope
	Keys  map[string]Key // by name: A-Z, 0-9 and _; up to 200

	// Policy has a say about every key of the steps in Scope, whichever profile sets it: the
	// text, in the Cedar language, of what package identity/cedar describes; up to 16 KiB.
	// Empty: all is permitted that the Keys of profiles do not forbid.
	Policy string

	// Generation counts up with each change: see [Profiles.Put].
	Generation int64

	ID      int64 // of the stored profile; one that is deleted and made again has another
	Changed time.Time
	Actor   string // who changed it last
	Digest  string // of the stored Policy, as a Ruling has it
}

const maxKeys = 200

var profileName = pattern(`^[A-Za-z0-9_][A-Za-z0-9_./-]{0,99}$`)

// Check returns what is wrong with the profile, or nil: a *[ProfileError].
func (p Profile) Check() error {
	bad := func(key, format string, args ...any) error {
		return &ProfileError{Profile: p.Name, Key: key, Reason: fmt.Sprintf(format, args...)}
	}
	if !profileName().MatchString(p.Name) {
		return bad("", "bad name: want 1 to 100 letters, digits and _-./, not starting with -./")
	}
	if reason := p.Scope.problem(); reason != "" {
		return bad("", "%s", reason)
	}
	if len(p.Keys) > maxKeys {
		return bad("", "%d keys, the limit is %d", len(p.Keys), maxKeys)
	}
	if reason := policyProblem(p.Policy); reason != "" {
		return bad("", "%s", reason)
	}
	for _, name := range slices.Sorted(maps.Keys(p.Keys)) {
		if reason := p.Keys[name].problem(name); reason != "" {
			return bad(name, "%s", reason)
		}
	}
	return nil
}

func (p Profile) origin() Origin {
	return Origin{Breadth: within.Scope(p.Scope).Breadth().String(), Profile: p.Name, ID: p.ID, Scope: p.Scope}
}

// refers reports whether a key of the profile has the reference.
func (p Profile) refers(ref string) bool {
	for _, k := range p.Keys {
		if k.Ref == ref {
			return true
		}
	}
	return false
}
