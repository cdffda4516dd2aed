package main

import (
	"context"
	"io"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/stepward/stepward/examples/quickstart/sitework"
	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

// workerSetup is what every worker gets.
type workerSetup struct {
	db        *database
	sandboxes sandboxOptions
	verbose   bool
	logs      io.Writer
	fail      context.CancelCauseFunc // ends the program's wait
}

// drain is short, because the steps are.
const drain = 10 * time.Second

func workerConfig(pool *pgxpool.Pool, schema, name string, sandboxes sandboxOptions, logs io.Writer, verbose bool) worker.Config {
	level := slog.LevelError
	if verbose {
		level = slog.LevelInfo
	}
	return worker.Config{
		Pool: pool, Schema: schema, Name: name,
		Workflows:    []*workflow.Definition{sitework.PortfolioV1},
		Backends:     []sandbox.Backend{sandboxes.make()},
		DrainTimeout: drain,
		Logger:       slog.New(slog.NewTextHandler(logs, &slog.HandlerOptions{Level: level})),
	}
}

// startInProcess runs a worker in this process, as an application that embeds
// one does. stop drains it.
func startInProcess(ctx context.Context, s workerSetup, name string) (stop func()) {
	// Not ended by ctx itself: what is canceled must be recorded by somebody.
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := worker.Run(ctx, workerConfig(s.db.pool, s.db.schema, name, s.sandboxes, s.logs, s.verbose)); err != nil {
			s.fail(err)
		}
	}()
	return func() {
		cancel()
		<-done
	}
}
