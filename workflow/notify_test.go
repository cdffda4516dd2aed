package workflow_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stepward/stepward/internal/testenv"
	"github.com/stepward/stepward/workflow"
)

// A worker hears of runs that are enqueued one right after the other, not only
// of the first: one that it does not hear of waits for its next poll.
func TestEnqueueNotifies(t *testing.T) {
	pool, schema := testenv.Postgres(t)
	ctx := t.Context()
	if err := workflow.Migrate(ctx, pool, workflow.MigrateOptions{Schema: schema}); err != nil {
		t.Fatal(err)
	}
	client, err := workflow.NewClient(workflow.ClientConfig{Pool: pool, Schema: schema})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := pool.Acquire(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	if _, err := conn.Exec(ctx, "LISTEN "+pgx.Identifier{schema + "_river.river_insert"}.Sanitize()); err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = conn.Exec(context.WithoutCancel(ctx), "UNLISTEN *") }()
	w := workflow.DurableWorkflow[int, int]{Name: "nobody"}
	const n = 30
	for range n {
		if _, err := w.Enqueue(ctx, client, 1, workflow.EnqueueOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := conn.Exec(ctx, "NOTIFY "+pgx.Identifier{schema + "_river.river_insert"}.Sanitize()+", 'last'"); err != nil {
		t.Fatal(err)
	}
	heard := 0
	for {
		wait, cancel := context.WithTimeout(ctx, time.Minute)
		got, err := conn.Conn().WaitForNotification(wait)
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		if got.Payload == "last" {
			break
		}
		heard++
	}
	// Not all: two that are less than a millisecond apart may share one.
	if heard < n/2 {
		t.Errorf("of %d runs, %d were announced", n, heard)
	}
}
