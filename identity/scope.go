package identity

import (
	"cmp"
	"fmt"
	"strings"
	"unicode/utf8"
)

// A Scope says where a profile applies: each field that is not empty has to be
// that of the run. The zero Scope is the whole deployment; every other has a
// Tenant. The last field that is set says how narrow it is. As a place, that
// [Resolve] is asked about, it says where a step is.
type Scope struct {
	Tenant      string `json:"tenant,omitempty"`
	Project     string `json:"project,omitempty"`
	Environment string `json:"environment,omitempty"`
	Workflow    string `json:"workflow,omitempty"`
	Step        string `json:"step,omitempty"` // the name that the step was made with
}

// The breadths, from broad to narrow.
var breadths = [...]string{"deployment", "tenant", "project", "environment", "workflow", "step", "run"}

const runBreadth = len(breadths) - 1

func (s Scope) fields() [5]string {
	return [...]string{s.Tenant, s.Project, s.Environment, s.Workflow, s.Step}
}

// breadth is an index of breadths.
func (s Scope) breadth() (n int) {
	for i, v := range s.fields() {
		if v != "" {
			n = i + 1
		}
	}
	return n
}

// covers reports whether a place is within the scope.
func (s Scope) covers(place Scope) bool {
	at := place.fields()
	for i, v := range s.fields() {
		if v != "" && v != at[i] {
			return false
		}
	}
	return true
}

// String returns the fields that are set, such as "tenant acme, project web".
func (s Scope) String() string {
	var parts []string
	for i, v := range s.fields() {
		if v != "" {
			parts = append(parts, breadths[i+1]+" "+v)
		}
	}
	return cmp.Or(strings.Join(parts, ", "), breadths[0])
}

// problem returns what is wrong with the scope of a profile, or "".
func (s Scope) problem() string {
	if s.Tenant == "" && s != (Scope{}) {
		return fmt.Sprintf("scope %s has no tenant", s)
	}
	for i, v := range s.fields() {
		if reason := badText(v); reason != "" {
			return fmt.Sprintf("%s of its scope: %s", breadths[i+1], reason)
		}
	}
	return ""
}

// badText returns what is wrong with a tenant and the like, or "".
func badText(s string) string {
	switch {
	case len(s) > 200:
		return fmt.Sprintf("%d bytes, the limit is 200", len(s))
	case strings.ContainsRune(s, 0) || !utf8.ValidString(s):
		return "want UTF-8 without NUL"
	}
	return ""
}
