// Command hello is the smallest complete program: a workflow with a bare and a
// sandboxed step, a client that enqueues a run, and a worker that executes it.
//
//	DATABASE_URL=postgres://… go run ./examples/hello
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"os/signal"
	"strings"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/worker/bootstrap"
	"github.com/stepward/stepward/workflow"
)

// Greeting is the workflow by name and types: enough to enqueue it.
var Greeting = workflow.DurableWorkflow[string, string]{Name: "greeting"}

var compose = workflow.NewStep("compose", func(ctx context.Context, name string) (string, error) {
	return "hello, " + name, nil
}, workflow.StepOptions{}) // inline on the worker

var shout = workflow.NewStep("shout", func(ctx context.Context, s string) (string, error) {
	return strings.ToUpper(s), nil
}, workflow.StepOptions{Mode: workflow.Sandboxed}) // in a sandbox without a network

var greetingV1 = workflow.Define(Greeting, func(ctx workflow.Context, name string) (string, error) {
	text, err := compose.Run(ctx, name) // recorded in Postgres: never runs again once it has
	if err != nil {
		return "", err
	}
	return shout.Run(ctx, text)
}, workflow.Options{Version: "1", Steps: []workflow.Declared{compose, shout}})

func main() {
	bootstrap.Init(greetingV1) // inside a sandbox, this program is the tool runner
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) error {
	pool, err := pgxpool.New(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		return err
	}
	defer pool.Close()
	if err := workflow.Migrate(ctx, pool, workflow.MigrateOptions{}); err != nil {
		return err
	}
	client, err := workflow.NewClient(workflow.ClientConfig{Pool: pool})
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() {
		done <- worker.Run(ctx, worker.Config{Pool: pool, Workflows: []*workflow.Definition{greetingV1}})
		stop() // a worker that cannot start ends the wait below
	}()
	greeting, err := Greeting.Enqueue(ctx, client, "ada", workflow.EnqueueOptions{Tenant: "acme"})
	if err == nil {
		var text string
		if text, err = greeting.Result(ctx); err == nil {
			fmt.Println(text)
		}
	}
	stop()
	if werr := <-done; werr != nil {
		return werr
	}
	return errors.Join(err)
}
