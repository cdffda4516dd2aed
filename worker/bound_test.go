package worker_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/stepward/stepward/identity"
	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

// A child whose secrets are revoked is not added: the run that calls it is parked,
// with the reason, and goes on when that is seen to.
func TestChildRevoked(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	p, err := identity.New(f.pool, identity.Options{Schema: f.schema})
	if err != nil {
		t.Fatal(err)
	}
	child := workflow.DurableWorkflow[int, int]{Name: "undefined"}
	parent := workflow.DurableWorkflow[int, int]{Name: "caller"}
	f.start(worker.Config{Workflows: []*workflow.Definition{workflow.Define(parent, func(ctx workflow.Context, n int) (int, error) {
		return child.With(workflow.EnqueueOptions{Project: "web"}).Run(ctx, n)
	}, workflow.Options{})}})
	if err := p.Revoke(t.Context(), identity.Revocation{Tenant: "acme", Kind: identity.KindWorkflow, Target: "undefined", State: identity.Soft}); err != nil {
		t.Fatal(err)
	}
	if _, err := child.Enqueue(t.Context(), f.client, 1, workflow.EnqueueOptions{Tenant: "acme"}); !errors.Is(err, identity.ErrRevoked) {
		t.Errorf("got %v", err)
	}
	run, err := parent.Enqueue(t.Context(), f.client, 1, workflow.EnqueueOptions{Tenant: "acme", Environment: "prod"})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the run is parked", func() bool { return f.state(run.ID).State == workflow.StateParked })
	s := f.state(run.ID)
	if s.Reason != "identity" || !strings.Contains(s.Err.Error(), "workflow undefined, soft") {
		t.Errorf("got %+v", s)
	}
	other, err := parent.Enqueue(t.Context(), f.client, 1, workflow.EnqueueOptions{Tenant: "other", Environment: "prod"})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the child of another tenant is added, in its place", func() bool {
		return f.count(`SELECT count(*) FROM stepward.binding b JOIN stepward.run r ON r.id = b.run_id
			WHERE r.parent_id = $1 AND convert_from(body, 'UTF8')::jsonb -> 'place' = '{"tenant": "other", "project": "web", "environment": "prod", "workflow": "undefined"}'`, int64(other.ID)) == 1
	})
}
