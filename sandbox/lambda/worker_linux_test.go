package lambda

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stepward/stepward/internal/testenv"
	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/sandbox/lambda/internal/words"
	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

// TestWorker runs a workflow whose step is invoked.
func TestWorker(t *testing.T) {
	c := newCloud(t)
	c.program = buildFunction(t, "internal/words/function")
	pool, schema := testenv.Postgres(t)
	if err := workflow.Migrate(t.Context(), pool, workflow.MigrateOptions{Schema: schema}); err != nil {
		t.Fatal(err)
	}
	client, err := workflow.NewClient(workflow.ClientConfig{Pool: pool, Schema: schema, MaxBytes: 16 << 20})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- worker.Run(ctx, worker.Config{
			Pool: pool, Schema: schema, MaxBytes: 16 << 20, Workflows: []*workflow.Definition{words.V1},
			Backends: []sandbox.Backend{c.backend()}, Warm: worker.Warm{Min: 1, Max: 1}, // which this backend has none of
		})
	}()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	result := func(in words.In) (string, error) {
		t.Helper()
		run, err := words.Words.Enqueue(t.Context(), client, in, workflow.EnqueueOptions{})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		return run.Result(ctx)
	}
	if out, err := result(words.In{Word: "ada ", Times: 2}); err != nil || out != "ADA ADA " {
		t.Errorf("%q, %v", out, err)
	}
	var recorded *workflow.RecordedError
	if _, err := result(words.In{Word: "bad", Times: 1}); !errors.As(err, &recorded) || !strings.Contains(err.Error(), "a bad word") {
		t.Errorf("a step that fails: %v", err)
	}
	// Over the limit of a request in one attempt, not after many.
	if _, err := result(words.In{Word: "large", Times: 1 << 20}); !errors.As(err, &recorded) || !recorded.Permanent || !strings.Contains(err.Error(), "6291456 bytes") {
		t.Errorf("an input of 5 MiB: %v", err)
	}
}
