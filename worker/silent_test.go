//go:build linux

package worker_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/stepward/stepward/internal/testenv"
	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/sandbox/docker"
	"github.com/stepward/stepward/sandbox/sandboxtest"
	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

// engineAt is the backend of an engine, which is closed with the test.
func engineAt(t *testing.T, host string) *docker.Backend {
	b := docker.New(docker.Config{Host: host, Program: sandboxtest.BuildProbe(t)})
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

// An engine that takes connections and answers nothing holds up no start: the worker has its next backend.
func TestSilentEngineHoldsUpNoStart(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	host, _, _ := testenv.Silent(t, "unix", testenv.Docker(t), "")
	boxed := workflow.NewToolStep("boxed", func(_ context.Context, _ *sandbox.Sandbox, n int) (int, error) { return n + 1, nil }, workflow.StepOptions{Mode: workflow.Sandboxed})
	f.start(worker.Config{Workflows: []*workflow.Definition{defines(boxed.Run, boxed)}, Backends: append([]sandbox.Backend{engineAt(t, host)}, backends(t)...)})
	ends(t, f.client, f.enqueue(1), 2)
}

// An engine that falls silent keeps no attempt beyond its time, nor a run that is canceled: not one that has begun, nor
// one whose sandbox is to be made.
func TestEngineFallsSilent(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	host, _, fall := testenv.Silent(t, "tcp", testenv.Docker(t), "what nobody says") // by TCP, all goes by the engine
	began := make(chan struct{})
	boxed := func(name string, timeout time.Duration) *workflow.Step[int, int] {
		return workflow.NewToolStep(name, func(ctx context.Context, sb *sandbox.Sandbox, n int) (int, error) {
			c := sb.Command(docker.ProgramPath, "probe:hang")
			c.Stdout = closes{began}
			return n, c.Run(ctx)
		}, workflow.StepOptions{Mode: workflow.Sandboxed, Timeout: timeout, Retry: workflow.Retry{MaxAttempts: 1}})
	}
	timed, patient := boxed("timed", time.Second), boxed("patient", time.Hour)
	body := func(ctx workflow.Context, n int) (int, error) {
		if n == 0 {
			return timed.Run(ctx, n)
		}
		return patient.Run(ctx, n)
	}
	f.start(worker.Config{
		Workflows: []*workflow.Definition{defines(body, timed, patient)}, Backends: []sandbox.Backend{engineAt(t, host)}, Logger: slog.New(slog.DiscardHandler),
	})
	begun := f.enqueue(1)
	arrives(t, began)
	fall()
	over, making := f.enqueue(0), f.enqueue(1)
	eventually(t, "two more have their sandboxes made", func() bool { return f.count("SELECT count(*) FROM stepward.sandbox") == 3 })
	for _, run := range []workflow.Run[int]{begun, making} {
		if err := f.client.Cancel(t.Context(), run.ID); err != nil {
			t.Fatal(err)
		}
	}
	for run, want := range map[workflow.Run[int]]error{begun: workflow.ErrCanceled, making: workflow.ErrCanceled, over: workflow.ErrTimeout} {
		if _, err := outcome(t, f.client, run); !errors.Is(err, want) {
			t.Errorf("%v, want %v", err, want)
		}
	}
}
