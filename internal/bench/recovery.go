package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/stepward/stepward/internal/bench/measure"
	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

// envChild makes this program a worker in the schema that it names; envURL is
// where, and envHold lets its step wait for ever.
const (
	envChild = "STEPWARD_BENCH_SCHEMA"
	envURL   = "STEPWARD_BENCH_URL"
	envHold  = "STEPWARD_BENCH_HOLD"
)

var relay = workflow.DurableWorkflow[int, int]{Name: "relay"}

// relayV1 has a step that ends nowhere but on the second worker. It prints a
// line when it starts.
func relayV1() *workflow.Definition {
	first := workflow.NewStep("first", func(context.Context, int) (int, error) { return 1, nil }, workflow.StepOptions{})
	second := workflow.NewStep("second", func(ctx context.Context, n int) (int, error) {
		fmt.Println("started")
		if os.Getenv(envHold) != "" {
			<-ctx.Done()
			return 0, ctx.Err()
		}
		return n + 1, nil
	}, workflow.StepOptions{})
	return workflow.Define(relay, func(ctx workflow.Context, n int) (int, error) {
		n, err := first.Run(ctx, n)
		if err != nil {
			return 0, err
		}
		return second.Run(ctx, n)
	}, workflow.Options{Steps: []workflow.Declared{first, second}})
}

// child is a worker process. It ends when its standard input does, so that it
// never outlives the benchmark.
func child() error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		stop()
	}()
	pool, err := pgxpool.New(ctx, os.Getenv(envURL))
	if err != nil {
		return err
	}
	defer pool.Close()
	return worker.Run(ctx, worker.Config{
		Pool: pool, Schema: os.Getenv(envChild), Workflows: []*workflow.Definition{relayV1(), boxV1, napV1},
		Logger:       slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError})),
		DrainTimeout: time.Second,
	})
}

// benchRecovery kills a worker process that holds a run, and waits for the run's
// step to start in another one. The repetitions run side by side.
func benchRecovery(ctx context.Context, b *bench) error {
	var mu sync.Mutex
	var all []time.Duration
	n := max(b.times(5), 3)
	if err := measure.Parallel(ctx, n, n, func(ctx context.Context) error {
		took, err := b.recoverOnce(ctx)
		mu.Lock()
		defer mu.Unlock()
		all = append(all, took)
		return err
	}); err != nil {
		return err
	}
	b.report.add(fmt.Sprintf("kill -9 to start of the run's step elsewhere, p50 of %d", n), measure.Quantile(all, 0.5)/1000, "s")
	b.report.bar(fmt.Sprintf("kill -9 to start of the run's step elsewhere, max of %d", n), measure.Quantile(all, 1)/1000, "s", 15)
	return nil
}

func (b *bench) recoverOnce(ctx context.Context) (time.Duration, error) {
	a, err := b.newApp(ctx, worker.Config{})
	if err != nil {
		return 0, err
	}
	defer a.close()
	run, err := relay.Enqueue(ctx, a.client, 0, workflow.EnqueueOptions{})
	if err != nil {
		return 0, err
	}
	victim, err := a.startChild(ctx, envHold+"=1")
	if err != nil {
		return 0, err
	}
	defer victim.end()
	if err := victim.awaitStep(); err != nil {
		return 0, err
	}
	heir, err := a.startChild(ctx)
	if err != nil {
		return 0, err
	}
	defer heir.end()
	if err := a.until(ctx, "SELECT count(*) = 2 FROM "+a.schema+".worker WHERE state = 'live'"); err != nil {
		return 0, err
	}
	killed := time.Now()
	if err := victim.cmd.Process.Kill(); err != nil {
		return 0, err
	}
	if err := heir.awaitStep(); err != nil {
		return 0, err
	}
	took := time.Since(killed)
	if n, err := run.Result(ctx); err != nil || n != 2 {
		return 0, fmt.Errorf("the run returned %d, %w", n, err)
	}
	return took, nil
}

// process is a child that runs a worker.
type process struct {
	cmd   *exec.Cmd
	stdin io.Closer
	out   *bufio.Reader
}

func (a *app) startChild(ctx context.Context, env ...string) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self)
	cmd.Env = append(append(os.Environ(), envChild+"="+a.schema, envURL+"="+a.c.URL), env...)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return &process{cmd: cmd, stdin: stdin, out: bufio.NewReader(stdout)}, nil
}

// awaitStep returns when the second step starts in the process.
func (p *process) awaitStep() error {
	line, err := p.out.ReadString('\n')
	if err == nil && strings.TrimSpace(line) != "started" {
		err = fmt.Errorf("the worker said %q", line)
	}
	if errors.Is(err, io.EOF) {
		err = errors.New("the worker ended before its step started")
	}
	return err
}

// end stops the process and waits for it.
func (p *process) end() {
	p.stdin.Close()
	_ = p.cmd.Wait() // one of them was killed
}
