package launcher_test

import (
	"context"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/sandbox/launcher"
	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

// The broker of this host has Docker's socket, and makes the sandboxes of its workers.
func ExampleNew() {
	_ = func(ctx context.Context, pool *pgxpool.Pool, workflows []*workflow.Definition) error {
		sandboxes, err := launcher.New(launcher.Config{Broker: "unix:///run/brokerd/socket"})
		if err != nil {
			return err
		}
		return worker.Run(ctx, worker.Config{
			Pool: pool, Workflows: workflows, Broker: "unix:///run/brokerd/socket", Backends: []sandbox.Backend{sandboxes},
		})
	}
}
