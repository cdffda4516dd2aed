package cedar

import (
	"fmt"
	"path"
	"slices"

	"github.com/cedar-policy/cedar-go"

	"github.com/stepward/stepward/identity"
)

// policy is a text that was read, as its statements.
type policy cedar.PolicyList

// Decide implements identity.Policy.
func (p policy) Decide(q identity.Question) identity.Ruling {
	set := make(cedar.PolicyMap, len(p))
	for i, s := range p {
		set[cedar.PolicyID(fmt.Sprint(i))] = s
	}
	step, key := cedar.NewEntityUID("Step", cedar.String(q.Place.Step)), cedar.NewEntityUID("Key", cedar.String(q.Name))
	scheme, rest, err := identity.SplitRef(q.Key.Ref)
	if err != nil { // a knob
		scheme, rest = "", ""
	}
	entities := cedar.EntityMap{
		step: {UID: step, Attributes: record(map[string]string{
			"tenant": q.Place.Tenant, "project": q.Place.Project, "environment": q.Place.Environment, "workflow": q.Place.Workflow, "version": q.Version,
		}, nil)},
		key: {UID: key, Attributes: record(map[string]string{
			"store": scheme, "path": rest, "version": q.Key.Version, "profile": q.From.Profile,
		}, cedar.RecordMap{"knob": cedar.Boolean(q.Key.Knob != "")})},
	}
	command, absolute := q.Command, ""
	if path.IsAbs(command) {
		command, absolute = path.Base(command), command
	}
	decision, why := cedar.Authorize(set, entities, cedar.Request{
		Principal: step, Action: cedar.NewEntityUID("Action", "issue"), Resource: key,
		Context: record(map[string]string{"command": command, "path": absolute, "level": q.Level.String()}, nil),
	})
	// The engine passes over what it cannot evaluate, be it a forbid. Here it denies.
	if len(why.Errors) > 0 {
		slices.SortFunc(why.Errors, func(a, b cedar.DiagnosticError) int { return a.Position.Offset - b.Position.Offset })
		first := why.Errors[0]
		out := identity.Ruling{}
		for _, e := range why.Errors {
			out.Statements = append(out.Statements, p.name(set[e.PolicyID]))
		}
		out.Reason = fmt.Sprintf("%s cannot be evaluated: %s", out.Statements[0], first.Message)
		return out
	}
	out := identity.Ruling{Allow: decision == cedar.Allow}
	slices.SortFunc(why.Reasons, func(a, b cedar.DiagnosticReason) int { return a.Position.Offset - b.Position.Offset })
	for _, r := range why.Reasons {
		out.Statements = append(out.Statements, p.name(set[r.PolicyID]))
	}
	switch {
	case out.Allow:
	case len(out.Statements) > 0:
		out.Reason = out.Statements[0] + " forbids it"
	default:
		out.Reason = "no statement permits it"
	}
	return out
}

// name is how a statement is named: by its @id, or by its line.
func (p policy) name(s *cedar.Policy) string {
	if id := s.Annotations()["id"]; id != "" {
		return string(id)
	}
	return fmt.Sprintf("line %d", s.Position().Line)
}

func record(of map[string]string, with cedar.RecordMap) cedar.Record {
	if with == nil {
		with = cedar.RecordMap{}
	}
	for name, v := range of {
		with[cedar.String(name)] = cedar.String(v)
	}
	return cedar.NewRecord(with)
}
