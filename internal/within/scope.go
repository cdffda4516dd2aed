// Package within says what is within what: a place in the scope of a profile, a command in what a list names, a version
// in what somebody says of one. Package identity resolves by it, and package binding starts by it.
package within

// A Breadth says how much a scope has in it. Breadths are ordered, from broad to narrow.
type Breadth int

// The breadths. One is that of a scope whose last field is so called; Run is of what a run says itself.
const (
	Deployment Breadth = iota
	Tenant
	Project
	Environment
	Workflow
	Step
	Run
)

var names = [...]string{"deployment", "tenant", "project", "environment", "workflow", "step", "run"}

// String returns the breadth as people read it.
func (b Breadth) String() string { return names[b] }

// A Scope is an identity.Scope.
type Scope struct{ Tenant, Project, Environment, Workflow, Step string }

// Fields returns what the scope says, of [Tenant] first.
func (s Scope) Fields() [5]string {
	return [...]string{s.Tenant, s.Project, s.Environment, s.Workflow, s.Step}
}

// Breadth returns that of the last field which is set.
func (s Scope) Breadth() (b Breadth) {
	for i, v := range s.Fields() {
		if v != "" {
			b = Tenant + Breadth(i)
		}
	}
	return b
}

// Covers reports whether a place is within the scope.
func (s Scope) Covers(place Scope) bool {
	at := place.Fields()
	for i, v := range s.Fields() {
		if v != "" && v != at[i] {
			return false
		}
	}
	return true
}

// Meets reports whether there is a place within both scopes.
func (s Scope) Meets(o Scope) bool {
	at := o.Fields()
	for i, v := range s.Fields() {
		if v != "" && at[i] != "" && v != at[i] {
			return false
		}
	}
	return true
}
