package identity

import (
	"strings"

	"github.com/stepward/stepward/internal/within"
)

// restricts says which profile restricts a reference that a run names at a place: what counts for a key that has
// it would not for name. It is "" if none does; of several, the same one in whatever order they come.
func restricts(profiles []Profile, place Scope, name, ref string) (first string) {
	of := secretOf(ref)
	for _, p := range profiles {
		if !p.Scope.concerns(place.Tenant) {
			continue
		}
		for n, k := range p.Keys {
			if k.Ref == "" || secretOf(k.Ref) != of {
				continue
			}
			// What p's key is under may be said by any profile that applies where p does.
			for _, q := range profiles {
				if !q.Scope.concerns(place.Tenant) || !within.Scope(q.Scope).Meets(within.Scope(p.Scope)) {
					continue
				}
				counts := n == name && within.Scope(q.Scope).Covers(within.Scope(place)) // for name too
				if r, ok := q.Keys[n]; ok && (r.Inject != nil || !counts && r.restricts()) || (q.Policy != "" || q.Digest != "") && !counts {
					if o := q.origin().String(); first == "" || o < first {
						first = o
					}
				}
			}
		}
	}
	return first
}

// restricts reports whether the key keeps something from some who would have what it, or another profile's key of
// its name, refers to.
func (k Key) restricts() bool {
	return k.Inject != nil || k.MinLevel != L0 || len(k.Commands) > 0 || k.Strict || k.Lock || k.Deny
}

// secretOf is a reference without what names a part of the secret.
func secretOf(ref string) string {
	whole, _, _ := strings.Cut(ref, "#")
	return strings.TrimSuffix(whole, "/")
}

// concerns reports whether a profile of that scope is the tenant's, or the deployment's.
func (s Scope) concerns(tenant string) bool { return s.Tenant == "" || s.Tenant == tenant }
