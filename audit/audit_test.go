package audit_test

import (
	"context"
	"encoding/json"
	"slices"
	"testing"

	"github.com/stepward/stepward/audit"
	"github.com/stepward/stepward/internal/testenv"
	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

var greet = workflow.NewStep("greet", func(ctx context.Context, name string) (string, error) { return "hello, " + name, nil }, workflow.StepOptions{})

var greeting = workflow.DurableWorkflow[string, string]{Name: "greeting"}

var greetingV1 = workflow.Define(greeting, func(ctx workflow.Context, name string) (string, error) { return greet.Run(ctx, name) },
	workflow.Options{Steps: []workflow.Declared{greet}})

// TestEventsOfOneRun follows a run through one that is canceled and one that
// completes: every change has its event, in order and in one shape.
func TestEventsOfOneRun(t *testing.T) {
	pool, schema := testenv.Postgres(t)
	ctx := t.Context()
	if err := workflow.Migrate(ctx, pool, workflow.MigrateOptions{Schema: schema}); err != nil {
		t.Fatal(err)
	}
	client, err := workflow.NewClient(workflow.ClientConfig{Pool: pool, Schema: schema})
	if err != nil {
		t.Fatal(err)
	}
	canceled, err := greeting.Enqueue(ctx, client, "bob", workflow.EnqueueOptions{Tenant: "acme"})
	if err != nil {
		t.Fatal(err)
	}
	if err := canceled.Cancel(ctx); err != nil {
		t.Fatal(err)
	}
	running, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() {
		done <- worker.Run(running, worker.Config{Pool: pool, Schema: schema, Name: "w1", Workflows: []*workflow.Definition{greetingV1}})
	}()
	run, err := greeting.Enqueue(ctx, client, "ada", workflow.EnqueueOptions{Tenant: "acme"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := run.Result(ctx); err != nil {
		t.Fatal(err)
	}
	stop()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	for id, want := range map[workflow.RunID][]string{
		run.ID:      {audit.RunEnqueued, audit.RunClaimed, audit.StepCompleted, audit.RunCompleted},
		canceled.ID: {audit.RunEnqueued, audit.RunCancel, audit.RunCanceled},
	} {
		events, err := audit.Events(ctx, pool, audit.Filter{Schema: schema, Run: id})
		if err != nil {
			t.Fatal(err)
		}
		var kinds []string
		for _, e := range events {
			kinds = append(kinds, e.Kind)
			if e.Run != id || e.Tenant != "acme" || e.At.IsZero() || e.Actor == "" || e.Detail != nil && !json.Valid(e.Detail) {
				t.Errorf("incomplete event: %+v", e)
			}
		}
		if !slices.Equal(kinds, want) {
			t.Errorf("%v: got %v, want %v", id, kinds, want)
		}
	}
	acme := "acme"
	all, err := audit.Events(ctx, pool, audit.Filter{Schema: schema, Tenant: &acme, Kinds: []string{audit.RunEnqueued}})
	if err != nil || len(all) != 2 {
		t.Errorf("enqueued by the tenant: %v, %v", all, err)
	}
}
