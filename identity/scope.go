package identity

import (
	"cmp"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/stepward/stepward/internal/within"
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

// String returns the fields that are set, such as "tenant acme, project web".
func (s Scope) String() string {
	var parts []string
	for i, v := range within.Scope(s).Fields() {
		if v != "" {
			parts = append(parts, (within.Tenant+within.Breadth(i)).String()+" "+v)
		}
	}
	return cmp.Or(strings.Join(parts, ", "), within.Deployment.String())
}

// problem returns what is wrong with the scope of a profile, or "".
func (s Scope) problem() string {
	if s.Tenant == "" && s != (Scope{}) {
		return fmt.Sprintf("scope %s has no tenant", s)
	}
	for i, v := range within.Scope(s).Fields() {
		if reason := badText(v); reason != "" {
			return fmt.Sprintf("%v of its scope: %s", within.Tenant+within.Breadth(i), reason)
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
