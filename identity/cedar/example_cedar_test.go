package cedar_test

import (
	"fmt"

	"github.com/stepward/stepward/identity"
	"github.com/stepward/stepward/identity/cedar"
)

// A tenant's keys go to every command that its profiles name, but for those of production,
// which nothing but /usr/bin/deploy gets.
func Example() {
	acme := identity.Profile{Name: "acme", Scope: identity.Scope{Tenant: "acme"}, Policy: `
		permit (principal, action, resource);

		@id("prod-by-deploy")
		forbid (principal, action, resource)
		when { principal.environment == "prod" && resource.path like "kv/acme/prod/*" }
		unless { context.path == "/usr/bin/deploy" };
	`}
	// What a broker asks; identity.New, with cedar.Parse as Options.Engine, keeps such a profile.
	policy, err := cedar.Parse(acme.Policy)
	if err != nil {
		panic(err)
	}
	q := identity.Question{
		Place: identity.Scope{Tenant: "acme", Environment: "prod", Workflow: "site", Step: "publish"},
		Name:  "TOKEN", Key: identity.Key{Ref: "vault://kv/acme/prod/token"},
	}
	for _, q.Command = range []string{"/usr/bin/deploy", "curl"} {
		r := policy.Decide(q)
		fmt.Printf("%s: %v, by %q\n", q.Command, r.Allow, r.Statements)
	}
	_, err = cedar.Parse(`forbid (principal, action, resource) when { context.comand == "curl" };`)
	fmt.Println(err)
	// Output:
	// /usr/bin/deploy: true, by ["line 2"]
	// curl: false, by ["prod-by-deploy"]
	// identity: policy, line 1, column 1: attribute `comand` in context for Action::"issue" not found
}
