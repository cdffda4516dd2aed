package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/stepward/stepward/internal/bench/measure"
	"github.com/stepward/stepward/internal/bench/trees"
	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/sandbox/docker"
	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

// The bars of containers: times docker run, and milliseconds.
const (
	barDockerRun  = 1.15
	barWarm       = 5
	barWarmP99    = 25
	barKillGVisor = 500
)

// emptyImage is what the engine has from the first sandbox on.
const emptyImage = "stepward/empty:1"

// benchDocker times sandboxes of containers: made when they are needed, in pairs with
// docker run of the same image, and made before.
func benchDocker(ctx context.Context, b *bench) error {
	if b.runnerErr != nil {
		return b.runnerErr
	}
	backend := docker.New(docker.Config{Program: b.runner.Path})
	defer func() { _ = backend.Close() }()
	if _, err := backend.Probe(ctx); err != nil {
		b.report.note("left out: %v", err)
		return nil
	}
	if err := b.dockerCold(ctx, backend, b.times(30)); err != nil {
		return err
	}
	if err := b.dockerWarm(ctx, backend, b.times(200)); err != nil {
		return err
	}
	if err := b.dockerExec(ctx, backend, b.times(300)); err != nil {
		return err
	}
	if err := b.benchTree(ctx, "container", backend, "docker cp", dockerCopy, b.times(10)); err != nil {
		return err
	}
	return b.dockerKill(ctx, backend, b.times(40))
}

func (b *bench) dockerCold(ctx context.Context, backend sandbox.Backend, n int) error {
	ours := func() (time.Duration, error) {
		first := &firstWrite{}
		begin := time.Now()
		s, err := sandbox.Start(ctx, backend, sandbox.Options{})
		if err != nil {
			return 0, err
		}
		defer func() { _ = s.Destroy(context.WithoutCancel(ctx)) }()
		cmd := s.Command(docker.ProgramPath, argHello)
		cmd.Stdout = first
		if err := cmd.Run(ctx); err != nil {
			return 0, err
		}
		return first.after(begin)
	}
	if _, err := ours(); err != nil { // loads the image and fills the volume
		return err
	}
	peer := func() (time.Duration, error) {
		first, stderr := &firstWrite{}, &bytes.Buffer{}
		cmd := exec.CommandContext(ctx, "docker", "run", "--rm", "--network=none", "--read-only", "--tmpfs=/tmp",
			"--volume="+b.runner.Path+":/program:ro", emptyImage, "/program", argHello)
		cmd.Stdout, cmd.Stderr = first, stderr
		begin := time.Now()
		if err := cmd.Run(); err != nil {
			return 0, fmt.Errorf("docker run: %w: %s", err, stderr)
		}
		return first.after(begin)
	}
	var mine, theirs []time.Duration
	var ratios []float64
	for i := range n {
		first, second := ours, peer
		if i%2 == 1 {
			first, second = peer, ours
		}
		a, err := first()
		p, perr := second()
		if err := errors.Join(err, perr); err != nil {
			return err
		}
		if i%2 == 1 {
			a, p = p, a
		}
		mine, theirs, ratios = append(mine, a), append(theirs, p), append(ratios, a.Seconds()/p.Seconds())
	}
	b.report.durations("container from nothing to the first output of a command", mine, 0.5, 0.95)
	b.report.durations("docker run of the same image, to the first output", theirs, 0.5, 0.95)
	slices.Sort(ratios)
	b.report.bar(fmt.Sprintf("container, times docker run, p50 of %d pairs", n), ratios[len(ratios)/2], "x", barDockerRun)
	return nil
}

// dockerWarm times from the call of a step in the body to the begin of its function, which has
// the sandbox: claimed, with what a worker writes down before.
func (b *bench) dockerWarm(ctx context.Context, backend sandbox.Backend, n int) error {
	var called, began time.Time
	clock := time.Now // of the process: what is timed is no matter of the run
	boxed := workflow.NewToolStep("boxed", func(context.Context, *sandbox.Sandbox, int) (int, error) {
		began = time.Now()
		return 0, nil
	}, workflow.StepOptions{Mode: workflow.Sandboxed})
	asks := workflow.DurableWorkflow[int, int]{Name: "asks"}
	health := new(worker.Health)
	a, err := b.newApp(ctx, worker.Config{
		Backends: []sandbox.Backend{backend}, Health: health, Warm: worker.Warm{Min: 4, Max: 4},
		Workflows: []*workflow.Definition{workflow.Define(asks, func(ctx workflow.Context, n int) (int, error) {
			called = clock()
			return boxed.Run(ctx, n)
		}, workflow.Options{Steps: []workflow.Declared{boxed}})},
	})
	if err != nil {
		return err
	}
	defer a.close()
	if err := a.work(ctx); err != nil {
		return err
	}
	var took []time.Duration
	for range n {
		for full := false; !full; { // none is being made, or that would be timed as well
			r, _ := health.Report()
			full = r.Warm == 4
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-time.After(10 * time.Millisecond):
			}
		}
		run, err := asks.Enqueue(ctx, a.client, 1, workflow.EnqueueOptions{})
		if err != nil {
			return err
		}
		if _, err := run.Result(ctx); err != nil {
			return err
		}
		took = append(took, began.Sub(called))
	}
	b.report.bar("a step's start in a container that is ready, with its rows, p50", measure.Quantile(took, 0.5), "ms", barWarm)
	b.report.bar("a step's start in a container that is ready, with its rows, p99", measure.Quantile(took, 0.99), "ms", barWarmP99)
	return nil
}

// dockerExec times a program that does nothing: the image has none, and so not the host's true.
func (b *bench) dockerExec(ctx context.Context, backend sandbox.Backend, n int) error {
	dir, err := os.MkdirTemp("", "stepward-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	outside, err := trees.Build(ctx, dir)
	if err != nil {
		return err
	}
	s, err := sandbox.Start(ctx, backend, sandbox.Options{})
	if err != nil {
		return err
	}
	defer func() { _ = s.Destroy(context.WithoutCancel(ctx)) }()
	if err := trees.Put(ctx, s); err != nil {
		return err
	}
	return b.execs(ctx, s, "a static program that does nothing", trees.Path, outside, "container", n)
}

// dockerCopy copies to a container that does not run.
func dockerCopy(ctx context.Context, _ string) (copier, error) {
	run := func(ctx context.Context, args ...string) (string, error) {
		var stderr bytes.Buffer
		cmd := exec.CommandContext(ctx, "docker", args...)
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			err = fmt.Errorf("docker %s: %w: %s", args[0], err, &stderr)
		}
		return strings.TrimSpace(string(out)), err
	}
	id, err := run(ctx, "create", "--network=none", emptyImage, "/program")
	return copier{
		func(dir string) error { _, err := run(ctx, "cp", dir, id+":/tree"); return err },
		func(dir string) error { _, err := run(ctx, "cp", id+":/tree", dir); return err },
		func() error { _, err := run(context.WithoutCancel(ctx), "rm", id); return err },
	}, err
}

// dockerKill kills in containers, and in gVisor what does not end with the sandbox: it has no
// limit of processes.
func (b *bench) dockerKill(ctx context.Context, backend sandbox.Backend, n int) error {
	if err := b.benchKill(ctx, "container", backend, trees.PIDs, trees.All, n, barKill, barKillP99); err != nil {
		return err
	}
	gvisor := docker.New(docker.Config{Program: b.runner.Path, Runtime: "runsc"})
	defer func() { _ = gvisor.Close() }()
	if _, err := gvisor.Probe(ctx); err != nil {
		b.report.note("gVisor left out: %v", err)
		return nil
	}
	return b.benchKill(ctx, "container in gVisor", gvisor, 0, trees.All[:len(trees.All)-1], n, 0, barKillGVisor)
}
