package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/stepward/stepward/examples/internal/app"
	"github.com/stepward/stepward/identity"
	"github.com/stepward/stepward/identity/cedar"
	"github.com/stepward/stepward/identity/explain"
	"github.com/stepward/stepward/workflow"
)

// secrets are what customers have, by tenant.
var secrets = []struct{ tenant, name string }{{"acme", "deploy-token"}, {"globex", "deploy-token"}, {"globex", "cdn-token"}}

// profiles say who has what under which name.
func profiles() []identity.Profile {
	return []identity.Profile{
		{Name: "defaults", Keys: map[string]identity.Key{"REGION": {Knob: "eu"}}},
		{Name: "acme", Scope: identity.Scope{Tenant: "acme"}, Keys: map[string]identity.Key{
			"DEPLOY_TOKEN": {Ref: reference("acme", "deploy-token")},
		}},
		{Name: "globex", Scope: identity.Scope{Tenant: "globex"}, Keys: map[string]identity.Key{
			"DEPLOY_TOKEN": {Ref: reference("globex", "deploy-token")},
			"CDN_TOKEN":    {Ref: reference("globex", "cdn-token")},
			"REGION":       {Knob: "us"},
		}, Policy: `
			permit (principal, action, resource);

			@id("cdn-of-prod")
			forbid (principal, action, resource == Key::"CDN_TOKEN")
			when { principal.environment == "dev" };
		`},
	}
}

// A story is the example while it goes on.
type story struct {
	*app.App
	admin *identity.Profiles
	names map[string]string // of tokens, by fingerprint
	made  map[string]int    // how many tokens of a tenant
}

func example(ctx context.Context, a *app.App) error {
	admin, err := identity.New(a.Pool, identity.Options{Schema: a.Schema, Actor: "ops@example.com", Engine: cedar.Parse})
	if err != nil {
		return err
	}
	s := &story{App: a, admin: admin, names: map[string]string{}, made: map[string]int{}}
	if os.Getenv(vaultEnv) != "" {
		defer s.clean(context.WithoutCancel(ctx))
	}
	for _, x := range secrets {
		if _, err := s.renew(ctx, x.tenant, x.name); err != nil {
			return err
		}
	}
	for _, p := range profiles() {
		if err := admin.Put(ctx, p); err != nil {
			return err
		}
	}
	// A fleet of two, with a broker each: as they have one key, they are one broker.
	defer a.Work(ctx, deployV1)()
	defer a.Work(ctx, deployV1)()
	for _, part := range []func(context.Context) error{s.both, s.policy, s.rotate, s.soft, s.hard, s.trail} {
		if err := part(ctx); err != nil {
			return err
		}
	}
	return nil
}

// both deploys for both customers with the same code.
func (s *story) both(ctx context.Context) error {
	for _, tenant := range []string{"acme", "globex"} {
		run, err := s.deploy(ctx, tenant, Release{})
		if err != nil {
			return err
		}
		fmt.Printf("        and its log says %q\n", s.tell(ctx, tenant, run))
	}
	return nil
}

// policy deploys where a policy of the customer keeps a token from the step, which can do without.
func (s *story) policy(ctx context.Context) error {
	fmt.Println("\nIn environment dev, a policy of globex keeps the token of its cache from deploys:")
	run, err := Deploy.Enqueue(ctx, s.Client, Release{}, workflow.EnqueueOptions{Tenant: "globex", Environment: "dev"})
	if err != nil {
		return err
	}
	s.tell(ctx, "globex", run)
	return s.explain(ctx, run.ID)
}

// explain prints what the steps of a run would get if they started now.
func (s *story) explain(ctx context.Context, run workflow.RunID) error {
	r, err := explain.Run(ctx, s.Pool, run.String(), identity.Options{Schema: s.Schema, Engine: cedar.Parse})
	if err == nil {
		fmt.Print(r)
	}
	return err
}

// rotate gives acme a new token while a deploy waits.
func (s *story) rotate(ctx context.Context) error {
	fmt.Println("\nA deploy of acme waits for a review. If it started now:")
	run, err := s.deploy(ctx, "acme", Release{Review: true})
	if err != nil {
		return err
	}
	if err := s.explain(ctx, run.ID); err != nil {
		return err
	}
	fmt.Println("Its token is rotated, and the deploy approved:")
	if err := s.rotated(ctx, "acme"); err != nil {
		return err
	}
	if err := Approve.Send(ctx, s.Client, run.ID, "ada"); err != nil {
		return err
	}
	s.tell(ctx, "acme", run)
	return nil
}

// soft takes acme's token back: what has it goes on, and nothing gets it any more.
func (s *story) soft(ctx context.Context) error {
	fmt.Println("\nIts token is revoked, soft, while one deploy runs and another waits:")
	waits, err := s.deploy(ctx, "acme", Release{Review: true})
	if err != nil {
		return err
	}
	runs, err := s.uploading(ctx, "acme", Release{Takes: 2 * time.Second})
	if err != nil {
		return err
	}
	if err := s.revoke(ctx, "acme", identity.Soft); err != nil {
		return err
	}
	s.tell(ctx, "acme", runs)
	if err := Approve.Send(ctx, s.Client, waits.ID, "ada"); err != nil {
		return err
	}
	s.tell(ctx, "acme", waits)
	if _, err = s.deploy(ctx, "acme", Release{}); !errors.Is(err, identity.ErrRevoked) {
		return fmt.Errorf("an enqueue after the revoke: %w", err)
	}
	fmt.Println("acme    enqueues in vain:", err)

	fmt.Println("There is another token:")
	if err := s.rotated(ctx, "acme"); err != nil {
		return err
	}
	run, err := s.deploy(ctx, "acme", Release{})
	if err != nil {
		return err
	}
	s.tell(ctx, "acme", run)
	return nil
}

// hard stops what has the token.
func (s *story) hard(ctx context.Context) error {
	fmt.Println("\nThe token of globex is revoked, hard, in the middle of a deploy:")
	run, err := s.uploading(ctx, "globex", Release{Takes: time.Hour})
	if err != nil {
		return err
	}
	if err := s.revoke(ctx, "globex", identity.Hard); err != nil {
		return err
	}
	s.tell(ctx, "globex", run)
	return nil
}

func (s *story) deploy(ctx context.Context, tenant string, r Release) (workflow.Run[Receipt], error) {
	return Deploy.Enqueue(ctx, s.Client, r, workflow.EnqueueOptions{Tenant: tenant})
}

// uploading returns when the deploy is in the middle of it.
func (s *story) uploading(ctx context.Context, tenant string, r Release) (workflow.Run[Receipt], error) {
	run, err := s.deploy(ctx, tenant, r)
	for poll := time.Tick(10 * time.Millisecond); err == nil; {
		var stage string
		if stage, _, err = Stage.Get(ctx, s.Client, run.ID); stage == "uploading" {
			break
		}
		select {
		case <-ctx.Done():
			err = context.Cause(ctx)
		case <-poll:
		}
	}
	return run, err
}

// tell prints what became of a deploy, and returns what its tools have said.
func (s *story) tell(ctx context.Context, tenant string, run workflow.Run[Receipt]) (log string) {
	r, err := run.Result(ctx)
	var failed *workflow.RecordedError
	switch {
	case errors.As(err, &failed):
		fmt.Printf("%-7s failed as %q: %s\n", tenant, failed.Kind, failed.Message)
	case err != nil:
		fmt.Printf("%-7s %v\n", tenant, err)
	default:
		purged := ""
		if r.Purged {
			purged = ", and purged its cache"
		}
		fmt.Printf("%-7s deployed to %s with %s%s\n", tenant, r.Region, s.names[r.Token], purged)
	}
	return r.Log
}

// renew has the operator make a token.
func (s *story) renew(ctx context.Context, tenant, name string) (token, error) {
	t, err := operate(ctx, "put", tenant, name)
	if err == nil {
		s.made[tenant+" "+name]++
		s.names[t.print] = fmt.Sprintf("%s %d of %s", name, s.made[tenant+" "+name], tenant)
	}
	return t, err
}

func (s *story) rotated(ctx context.Context, tenant string) error {
	t, err := s.renew(ctx, tenant, "deploy-token")
	if err != nil {
		return err
	}
	return s.admin.Rotate(ctx, tenant, "DEPLOY_TOKEN", t.version)
}

func (s *story) revoke(ctx context.Context, tenant string, state identity.State) error {
	return s.admin.Revoke(ctx, identity.Revocation{
		Tenant: tenant, Kind: identity.KindKey, Target: "DEPLOY_TOKEN", State: state, Reason: "it was in a screenshot",
	})
}

// clean leaves Vault as it was.
func (s *story) clean(ctx context.Context) {
	for _, x := range secrets {
		if s.made[x.tenant+" "+x.name] == 0 {
			continue
		}
		if _, err := operate(ctx, "delete", x.tenant, x.name); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
}
