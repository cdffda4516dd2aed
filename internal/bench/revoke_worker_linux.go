package main

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/sandbox/docker"
	"github.com/stepward/stepward/sandbox/local"
	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

// What this program is started as: a worker whose runs hold secrets, or what uses one.
const (
	argUses = "uses-secrets"
	argTick = "tick"
)

// useEvery is how often a command in a sandbox writes a byte.
const useEvery = 10 * time.Millisecond

// cutWord, on its standard input, cuts a worker off from its sandboxes.
const cutWord = "cut"

// A use is a run's input: the file that its command writes to.
type use struct {
	File   string
	Strict bool
}

var uses = workflow.DurableWorkflow[use, int]{Name: "uses"}

// usesV1 runs a command with a secret, of the usual kind or strict, until it is stopped, and prints when
// the attempt was.
func usesV1(name string, args []string) *workflow.Definition {
	step := func(key string) *workflow.Step[string, int] {
		return workflow.NewToolStep(key, func(ctx context.Context, s *sandbox.Sandbox, file string) (int, error) {
			over := sync.OnceFunc(func() { fmt.Println(file, time.Now().UnixNano()) })
			defer over()
			defer context.AfterFunc(ctx, over)()
			cmd := s.Command(name, append(args, file)...)
			cmd.Secrets = []string{key}
			return 0, cmd.Run(ctx)
		}, workflow.StepOptions{Mode: workflow.Identity, Secrets: []string{key}, Retry: workflow.Retry{MaxAttempts: 1}})
	}
	usual, strict := step("USUAL"), step("STRICT")
	return workflow.Define(uses, func(ctx workflow.Context, u use) (int, error) {
		if u.Strict {
			return strict.Run(ctx, u.File)
		}
		return usual.Run(ctx, u.File)
	}, workflow.Options{Steps: []workflow.Declared{usual, strict}})
}

// userOf is the command that uses a secret in a sandbox of a backend: the bytes that it writes are what is
// measured. It starts no process for each.
func userOf(backend string) (name string, args []string) {
	if backend == docker.Name {
		return docker.ProgramPath, []string{argTick}
	}
	return "bash", []string{"-c", `sleep 3600 | while printf .; do read -r -t 0.01; done > "$0"`}
}

// revokePart is a worker or what uses its secrets, if this program was started as one.
func revokePart() {
	switch {
	case len(os.Args) == 3 && os.Args[1] == argTick:
		exit(tick(os.Args[2]))
	case len(os.Args) == 6 && os.Args[1] == argUses:
		exit(usesSecrets(os.Args[2], os.Args[3], os.Args[4], os.Args[5]))
	}
}

func tick(file string) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	for range time.Tick(useEvery) {
		if _, err := f.WriteString("."); err != nil {
			return err
		}
	}
	return nil
}

// backendOf returns a backend whose sandboxes this program is the tool runner of.
func backendOf(name, program string) (sandbox.Backend, error) {
	if name == docker.Name {
		return docker.New(docker.Config{Program: program}), nil
	}
	path, err := filepath.EvalSymlinks(program)
	return local.New(local.Config{Program: path}), err
}

// usesSecrets is a worker process, until its standard input ends.
func usesSecrets(schema, backend, program, broker string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	made, err := backendOf(backend, program)
	if err != nil {
		return err
	}
	w := newWire()
	defer w.end()
	go func() {
		for orders := bufio.NewScanner(os.Stdin); orders.Scan(); {
			if orders.Text() == cutWord {
				w.hold()
			}
		}
		stop()
	}()
	pool, err := pgxpool.New(ctx, os.Getenv(envURL))
	if err != nil {
		return err
	}
	defer pool.Close()
	return worker.Run(ctx, worker.Config{
		Pool: pool, Schema: schema, Workflows: []*workflow.Definition{usesV1(userOf(backend))},
		Backends: []sandbox.Backend{&wired{made, w}}, MaxSandboxes: 64, Broker: broker,
		Logger:       slog.New(slog.DiscardHandler), // it complains of what is done to it
		DrainTimeout: time.Second,
	})
}

// wired is a backend whose sandboxes are at the other end of a wire.
type wired struct {
	sandbox.Backend
	wire *wire
}

func (b *wired) Dial(ctx context.Context, id string) (net.Conn, error) {
	select {
	case <-b.wire.held:
		<-ctx.Done()
		return nil, context.Cause(ctx)
	default:
	}
	c, err := b.Backend.Dial(ctx, id)
	if err != nil {
		return nil, err
	}
	near, far := net.Pipe()
	b.wire.join(far, c)
	return near, nil
}
