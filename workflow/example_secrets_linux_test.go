package workflow_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/stepward/stepward/identity"
	"github.com/stepward/stepward/identity/filestore"
	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/workflow"
)

var (
	release = workflow.DurableWorkflow[string, string]{Name: "release"}

	// The function of a guest step has in its environment what the step lists.
	build = workflow.NewStep("build", func(_ context.Context, what string) (string, error) {
		return what + " for " + os.Getenv("REGION") + ", with " + os.Getenv("DEPLOY_TOKEN"), nil
	}, workflow.StepOptions{Mode: workflow.Identity, Secrets: []string{"DEPLOY_TOKEN", "REGION"}})

	// Of the commands of a tool step, those have a secret that ask for it, and that its profile names.
	upload = workflow.NewToolStep("upload", func(ctx context.Context, sb *sandbox.Sandbox, what string) (string, error) {
		c := sb.Command("sh", "-c", `echo "$0, uploaded with ${#DEPLOY_TOKEN} letters"`, what)
		c.Secrets = []string{"DEPLOY_TOKEN"}
		out, err := c.Output(ctx)
		return strings.TrimSpace(string(out)), err
	}, workflow.StepOptions{Mode: workflow.Identity, Secrets: []string{"DEPLOY_TOKEN"}})

	// main begins with bootstrap.Init(releaseV1), or, for a store elsewhere than in the user's configuration,
	// bootstrap.Config{Broker: bootstrap.FileStore(dir)}.Init(releaseV1).
	releaseV1 = workflow.Define(release, func(ctx workflow.Context, what string) (string, error) {
		built, err := build.Run(ctx, what)
		if err != nil {
			return "", err
		}
		return upload.Run(ctx, built)
	}, workflow.Options{Steps: []workflow.Declared{build, upload}})
)

// A tenant's token is in the sandboxes of its runs, and neither in the worker nor on record: what a
// step tells of it is not in its result.
func ExampleStepOptions_secrets() {
	ctx := context.Background()
	client, pool, stop := serve(ctx, releaseV1)
	defer stop()

	// An operator puts the token into the store, from a process that is no worker's, ...
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
	if _, err := store.Put(ctx, "acme", "deploy-token", []byte("swordfish-2f6d0c")); err != nil {
		fmt.Println(err)
		return
	}
	// ... and says by name what the runs of the tenant may have.
	profiles, err := identity.New(pool, identity.Options{Schema: schemaOf(ctx, pool)})
	if err != nil {
		fmt.Println(err)
		return
	}
	err = profiles.Put(ctx, identity.Profile{Name: "acme", Scope: identity.Scope{Tenant: "acme"}, Keys: map[string]identity.Key{
		"DEPLOY_TOKEN": {Ref: "file://deploy-token", Commands: []string{"sh"}},
		"REGION":       {Knob: "eu"},
	}})
	if err != nil {
		fmt.Println(err)
		return
	}

	run, err := release.Enqueue(ctx, client, "a site", workflow.EnqueueOptions{Tenant: "acme"})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(run.Result(ctx))
	_, err = release.Enqueue(ctx, client, "a site", workflow.EnqueueOptions{Tenant: "globex"})
	fmt.Println(err)

	// What executes anew has the token of today, or, to find out what went wrong, that of then.
	if _, err := store.Put(ctx, "acme", "deploy-token", []byte("hammerhead-2f6d0c91")); err != nil {
		fmt.Println(err)
		return
	}
	for _, reproduce := range []bool{false, true} {
		fork, err := client.Fork(ctx, run.ID, workflow.ForkOptions{From: "upload", Reproduce: reproduce})
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(release.Handle(client, fork).Result(ctx))
	}
	// Output:
	// a site for eu, with [REDACTED:DEPLOY_TOKEN], uploaded with 16 letters <nil>
	// workflow: enqueue release: identity: step build: DEPLOY_TOKEN: no profile sets it
	// a site for eu, with [REDACTED:DEPLOY_TOKEN], uploaded with 19 letters <nil>
	// a site for eu, with [REDACTED:DEPLOY_TOKEN], uploaded with 16 letters <nil>
}
