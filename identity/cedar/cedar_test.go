package cedar

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/stepward/stepward/identity"
)

// deploy is a question that the statements of the tests are about.
var deploy = identity.Question{
	Place:   identity.Scope{Tenant: "acme", Project: "web", Environment: "prod", Workflow: "site", Step: "publish"},
	Version: "2", Level: identity.L1, Name: "DEPLOY_TOKEN", Command: "/usr/bin/deploy",
	Key: identity.Key{Ref: "vault://kv/acme/deploy#token", Version: "7"}, From: identity.Origin{Profile: "acme-prod"},
}

const all = "permit (principal, action, resource);\n"

func TestDecide(t *testing.T) {
	asked := func(f func(*identity.Question)) identity.Question {
		q := deploy
		f(&q)
		return q
	}
	function := asked(func(q *identity.Question) { q.Command = "" })
	knob := asked(func(q *identity.Question) { q.Key = identity.Key{Knob: "eu"} })
	for name, c := range map[string]struct {
		policy string
		asked  identity.Question
		allow  bool
		by     string // statements
	}{
		"all":                         {all, deploy, true, "line 1"},
		"nothing permits it":          {`permit (principal, action, resource == Key::"OTHER");`, deploy, false, ""},
		"by name":                     {`permit (principal == Step::"publish", action == Action::"issue", resource == Key::"DEPLOY_TOKEN");`, deploy, true, "line 1"},
		"forbid is stronger":          {all + `@id("no-deploy") forbid (principal, action, resource) when { context.command == "deploy" };` + all, deploy, false, "no-deploy"},
		"forbid of another command":   {all + `forbid (principal, action, resource) when { context.command == "curl" };`, deploy, true, "line 1"},
		"forbid all but a path":       {all + `forbid (principal, action, resource) unless { context.path like "/usr/bin/*" };`, deploy, true, "line 1"},
		"a base name has no path":     {all + `forbid (principal, action, resource) unless { context.path like "/usr/bin/*" };`, asked(func(q *identity.Question) { q.Command = "deploy" }), false, "line 2"},
		"a function is no command":    {`permit (principal, action, resource) when { context.command == "deploy" };`, function, false, ""},
		"a function":                  {`permit (principal, action, resource) when { context.command == "" };`, function, true, "line 1"},
		"by place":                    {`permit (principal, action, resource) when { principal.tenant == "acme" && principal.project == "web" && principal.environment == "prod" && principal.workflow == "site" && principal.version == "2" };`, deploy, true, "line 1"},
		"another environment":         {`permit (principal, action, resource) when { principal.environment == "dev" };`, deploy, false, ""},
		"by key":                      {`permit (principal, action, resource) when { resource.store == "vault" && resource.path like "kv/acme/*" && resource.version == "7" && resource.profile == "acme-prod" && !resource.knob };`, deploy, true, "line 1"},
		"a knob":                      {`permit (principal, action, resource) when { resource.knob && resource.store == "" };`, knob, true, "line 1"},
		"level":                       {all + `forbid (principal, action, resource) unless { ["L1", "L2", "L3"].contains(context.level) };`, deploy, true, "line 1"},
		"level, too low":              {all + "\n" + `forbid (principal, action, resource) unless { ["L1", "L2", "L3"].contains(context.level) };`, asked(func(q *identity.Question) { q.Level = identity.L1Dev }), false, "line 3"},
		"an unknown step by its name": {`permit (principal == Step::"other", action, resource);`, deploy, false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := Parse(c.policy)
			if err != nil {
				t.Fatal(err)
			}
			got := p.Decide(c.asked)
			if got.Allow != c.allow || strings.Join(got.Statements, " ") != c.by || (got.Reason == "") != c.allow {
				t.Errorf("got %+v", got)
			}
		})
	}
}

// What cannot be evaluated denies, where the language passes over it: each of these is a forbid that
// fails, beside a permit of everything.
func TestErrorDenies(t *testing.T) {
	for name, condition := range map[string]string{
		"missing attribute":              `context.revoked`,
		"missing attribute of a key":     `resource.owner == "ann"`,
		"type":                           `context.command < 3`,
		"no boolean":                     `context.command`,
		"unknown entity":                 `User::"ann".admin`,
		"an entity that is not there":    `Step::"other".tenant == "acme"`,
		"overflow":                       `9223372036854775807 + 1 > 0`,
		"function":                       `decimal(context.command).lessThan(decimal("1.0"))`,
		"in an if":                       `if context.command == "deploy" then context.revoked else false`,
		"behind an and that looks at it": `context.command == "deploy" && context.revoked`,
	} {
		p, err := parse(all + "@id(\"broken\")\nforbid (principal, action, resource) when { " + condition + " };")
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := p.Decide(deploy); got.Allow || got.Statements[0] != "broken" || !strings.HasPrefix(got.Reason, "broken cannot be evaluated: ") {
			t.Errorf("%s: got %+v", name, got)
		}
	}
	p, err := parse(all + `forbid (principal, action, resource) when { context.command == "deploy" && false };`) // the control
	if err != nil || !p.Decide(deploy).Allow {
		t.Errorf("got %v", err)
	}
	p, err = parse("permit (principal, action, resource) when { context.revoked };" + all) // a permit that fails is no permit less
	if err != nil || p.Decide(deploy).Allow {
		t.Errorf("got %v", err)
	}
}

// What is not Cedar, or not within the schema, is refused with its place.
func TestParseRefuses(t *testing.T) {
	when := func(condition string) string {
		return all + "forbid (principal, action, resource)\n  when { " + condition + " };"
	}
	for name, c := range map[string]struct {
		policy, place, reason string
	}{
		"nothing":               {"// nothing\n", "1:1", "no statement"},
		"cut":                   {"permit (", "1:9", ""},
		"a word":                {all + "allow (principal, action, resource);", "2:7", "unexpected effect"},
		"an assignment":         {when(`context.command = "deploy"`), "3:28", ""},
		"a string":              {all + `forbid (principal == Step::"x, action, resource);`, "2:28", "literal not terminated"},
		"a comment":             {all + "/* ", "2:1", "comment not terminated"},
		"NUL":                   {all + "\x00", "1:37", ""},
		"a template":            {`permit (principal == ?principal, action, resource);`, "1:23", ""},
		"a misspelt attribute":  {when(`context.comand == "deploy"`), "2:1", "attribute `comand`"},
		"of a key":              {when(`resource.owner == "ann"`), "2:1", "attribute `owner`"},
		"another type":          {when(`context.command == 3`), "2:1", ""},
		"an unknown entity":     {all + `forbid (principal == User::"ann", action, resource);`, "2:1", "unrecognized entity type `User`"},
		"an unknown action":     {all + `forbid (principal, action == Action::"isue", resource);`, "2:1", "unrecognized action"},
		"two @id":               {`@id("a") @id("b") ` + all, "1:13", "duplicate annotation"},
		"an @id of two lines":   {`@id("a\nb") ` + all, "1:1", "bad @id"},
		"too long":              {all + "//" + strings.Repeat("x", maxText), "1:1", "the limit is"},
		"not Cedar, and long":   {strings.Repeat("x", 1000), "1:1001", ""},
		"brackets":              {when(strings.Repeat("(", 4000) + "true" + strings.Repeat(")", 4000)), "3:41", "brackets"},
		"sets of sets":          {when(strings.Repeat("[", 4000) + "1" + strings.Repeat("]", 4000) + " == 1"), "3:41", "brackets"},
		"records":               {when(strings.Repeat("{a: ", 3000) + "1" + strings.Repeat("}", 3000) + " == 1"), "3:134", "brackets"},
		"no no no":              {when(strings.Repeat("!", 12000) + "true"), "3:42", "operators"},
		"no no no, with spaces": {when(strings.Repeat("! ", 6000) + "true"), "3:74", "operators"},
		"attributes":            {when("context has a" + strings.Repeat(".a", 6000)), "3:55", "attributes of attributes"},
		"attributes, commented": {when("context has a" + strings.Repeat("/*(*/.a", 2000)), "3:140", "attributes of attributes"},
		"attributes, in lines":  {when("context has a" + strings.Repeat(".//\n a", 2000)), "19:3", "attributes of attributes"},
		"if":                    {when(strings.Repeat("if true then ", 500) + "true" + strings.Repeat(" else false", 500)), "3:428", "times if"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse(c.policy)
			e, ok := errors.AsType[*identity.ProfileError](err)
			if !ok {
				t.Fatalf("got %v", err)
			}
			if at := fmt.Sprintf("%d:%d", e.Line, e.Column); at != c.place || !strings.Contains(e.Reason, c.reason) || len(e.Reason) > maxReason+3 {
				t.Errorf("at %s: %s", at, e.Reason)
			}
		})
	}
	// What only looks like that is none of it.
	ok := when(`["` + strings.Repeat("(", 100) + `", "\"` + strings.Repeat("!", 100) + `\\"].contains(context.command) // ` + strings.Repeat("[a.", 100))
	if _, err := Parse(strings.TrimSuffix(ok, " };") + "\n};"); err != nil {
		t.Error(err)
	}
	if _, err := Parse(strings.Repeat(all, 300)); err != nil {
		t.Error(err)
	}
}

// Whatever a policy says, it is read or refused, and read in the same way again.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		all, "", "permit (", `@id("x") forbid (principal == Step::"publish", action in [Action::"issue"], resource is Key) unless { context.path like "/usr/*" };`,
		`permit (principal, action, resource) when { if context has command then ["a", "b"].containsAny([context.command]) else principal.tenant == "acme" };`,
		`permit (principal, action, resource) when { context has a.b.c && -1 + 2 * 3 < 4 || !(resource.knob) };`, `permit (principal, action, resource) when { ip("10.0.0.1").isInRange(ip("10.0.0.0/8")) && {a: 1}["a"] == 1 };`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		p, err := Parse(text)
		if err != nil {
			if e, ok := errors.AsType[*identity.ProfileError](err); !ok || e.Line < 1 || e.Column < 1 || e.Reason == "" {
				t.Fatalf("%q: %v", text, err)
			}
			return
		}
		again, err := Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		got := p.Decide(deploy)
		if other := again.Decide(deploy); fmt.Sprint(got) != fmt.Sprint(other) {
			t.Errorf("%q decides %+v, and %+v", text, got, other)
		}
		if got.Allow != (got.Reason == "") || got.Allow && len(got.Statements) == 0 {
			t.Errorf("%q: %+v", text, got)
		}
	})
}
