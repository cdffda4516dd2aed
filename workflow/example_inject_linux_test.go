package workflow_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/stepward/stepward/identity"
	"github.com/stepward/stepward/identity/explain"
	"github.com/stepward/stepward/identity/filestore"
	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/workflow"
)

var (
	triage = workflow.DurableWorkflow[string, string]{Name: "triage"}

	// In GH_TOKEN is no token. A program that sends it to api.github.com, as its credential, is
	// answered as if it were: the broker puts the token in its place, on the way.
	review = workflow.NewStep("review", func(_ context.Context, what string) (string, error) {
		looks := strings.HasPrefix(os.Getenv("GH_TOKEN"), "ghp_")
		is := os.Getenv("GH_TOKEN") == "ghp_swordfish2f6d0c"
		return fmt.Sprintf("%s: looks like a token %t, is the token %t", what, looks, is), nil
	}, workflow.StepOptions{
		Mode: workflow.Identity, Secrets: []string{"GH_TOKEN"},
		Sandbox: sandbox.Spec{Network: sandbox.NetworkPolicy{Allow: []string{"api.github.com"}}}, // and nothing else
	})

	triageV1 = workflow.Define(triage, func(ctx workflow.Context, what string) (string, error) {
		return review.Run(ctx, what)
	}, workflow.Options{Steps: []workflow.Declared{review}})
)

// A key with Inject is of use to a sandbox, and not in it.
func ExampleStepOptions_inject() {
	ctx := context.Background()
	client, pool, stop := serve(ctx, triageV1)
	defer stop()
	dir, err := os.MkdirTemp("", "example-")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	os.Setenv(exampleStore, filepath.Join(dir, "secrets"))
	defer os.Unsetenv(exampleStore)
	store, err := filestore.Open(filestore.Config{Dir: os.Getenv(exampleStore)})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer store.Close()
	if _, err := store.Put(ctx, "acme", "github", []byte("ghp_swordfish2f6d0c")); err != nil {
		fmt.Println(err)
		return
	}
	options := identity.Options{Schema: schemaOf(ctx, pool)}
	profiles, err := identity.New(pool, options)
	if err != nil {
		fmt.Println(err)
		return
	}
	err = profiles.Put(ctx, identity.Profile{Name: "acme", Scope: identity.Scope{Tenant: "acme"}, Keys: map[string]identity.Key{
		"GH_TOKEN": {Ref: "file://github", Inject: &identity.Inject{Hosts: []string{"api.github.com"}, Prefix: "ghp_"}},
	}})
	if err != nil {
		fmt.Println(err)
		return
	}
	run, err := triage.Enqueue(ctx, client, "issue 7", workflow.EnqueueOptions{Tenant: "acme"})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(run.Result(ctx))
	e, err := explain.Run(ctx, pool, run.ID.String(), options)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Print(e)
	// Output:
	// issue 7: looks like a token true, is the token false <nil>
	// review GH_TOKEN: file://github of profile acme (tenant acme); not in the sandbox, but put into requests to api.github.com:443
}
