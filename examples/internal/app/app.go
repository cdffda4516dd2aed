// Package app is what the small examples share: a Postgres, a client, and
// workers in the same process. examples/hello shows all of that in full.
package app

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/stepward/stepward/internal/devdb"
	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

// App is the application that an example plays.
type App struct {
	Pool   *pgxpool.Pool
	Client *workflow.Client
	Schema string // of Stepward's tables
	Tables string // schema for tables of the example's own

	fail context.CancelCauseFunc
}

// Main runs an example, and ends the process with status 1 if it fails.
func Main(example func(context.Context, *App) error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := Run(ctx, example); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// Run runs an example.
func Run(ctx context.Context, example func(context.Context, *App) error) (err error) {
	server, err := devdb.Open(ctx, devdb.Config{}) // DATABASE_URL, or one that lives as long as it is used
	if err != nil {
		return err
	}
	defer server.Close()
	pool, err := pgxpool.New(ctx, server.URL)
	if err != nil {
		return err
	}
	defer pool.Close()
	a := &App{Pool: pool, Schema: "example_" + strings.ToLower(rand.Text()[:10])}
	a.Tables = a.Schema + "_app"
	defer func() { err = errors.Join(err, a.drop(context.WithoutCancel(ctx))) }()
	if err := workflow.Migrate(ctx, pool, workflow.MigrateOptions{Schema: a.Schema}); err != nil {
		return err
	}
	if _, err := pool.Exec(ctx, "CREATE SCHEMA "+a.Tables); err != nil {
		return err
	}
	if a.Client, err = workflow.NewClient(workflow.ClientConfig{Pool: pool, Schema: a.Schema}); err != nil {
		return err
	}
	ctx, a.fail = context.WithCancelCause(ctx)
	defer a.fail(nil)
	return example(ctx, a)
}

// drop leaves the server as it was.
func (a *App) drop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for _, schema := range []string{a.Schema, a.Schema + "_river", a.Tables} {
		if _, err := a.Pool.Exec(ctx, "DROP SCHEMA IF EXISTS "+pgx.Identifier{schema}.Sanitize()+" CASCADE"); err != nil {
			return err
		}
	}
	return nil
}

// Work starts a worker, and returns when its definitions are known. stop drains it
// and returns when it has ended. A worker that cannot start ends the example.
func (a *App) Work(ctx context.Context, definitions ...*workflow.Definition) (stop func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx)) // it outlives an interrupt, to put its runs away
	done := make(chan struct{})
	var health worker.Health
	go func() {
		defer close(done)
		err := worker.Run(ctx, worker.Config{
			Pool: a.Pool, Schema: a.Schema, Workflows: definitions, Health: &health,
			Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError})),
		})
		if err != nil {
			a.fail(err)
		}
	}()
	stop = func() {
		cancel()
		<-done
	}
	for poll := time.Tick(time.Millisecond); ; {
		if _, ok := health.Report(); ok {
			return stop
		}
		select {
		case <-done:
			return stop
		case <-poll:
		}
	}
}
