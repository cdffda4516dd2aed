// Command inside is the worker of a test, in a pod of its own: it makes a sandbox
// with nothing configured, says so, and stays.
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/sandbox/kubernetes"
	"github.com/stepward/stepward/sandbox/sandboxtest"
)

func main() {
	sandboxtest.Init()
	if err := run(); err != nil {
		fmt.Println("failed:", err)
		os.Exit(1)
	}
	select {}
}

func run() error {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	b := kubernetes.New(kubernetes.Config{})
	if _, err := b.Probe(ctx); err != nil {
		return err
	}
	s, err := sandbox.Start(ctx, b, sandbox.Options{ID: "inside", Labels: sandbox.Labels{Schema: "inside"}, OrphanAfter: time.Hour})
	if err != nil {
		return err
	}
	out, err := s.Guest(ctx, sandbox.GuestStep{Step: "echo", Workflow: "w", Version: "1", RunID: "2", Attempt: 3, IdempotencyKey: "k", Input: []byte("hello")})
	if err != nil {
		return err
	}
	fmt.Printf("ready: %s on %s\n", out, s.Enforcement().Image)
	return nil
}
