// Command worker is the program of a Deployment as examples/kubernetes has it: it finds
// the database in its environment, and all else from where it runs.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/sandbox/kubernetes"
	"github.com/stepward/stepward/sandbox/kubernetes/internal/onboarding"
	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/worker/bootstrap"
	"github.com/stepward/stepward/workflow"
)

func main() {
	bootstrap.Init(onboarding.V1)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	pool, err := pgxpool.New(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		return err
	}
	defer pool.Close()
	return worker.Run(ctx, worker.Config{
		Pool: pool, Workflows: []*workflow.Definition{onboarding.V1},
		Backends: []sandbox.Backend{kubernetes.New(kubernetes.Config{})},
	})
}
