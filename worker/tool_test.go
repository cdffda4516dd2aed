//go:build unix

package worker_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stepward/stepward/audit"
	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/sandbox/docker"
	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

// A tallying is the input of workflow halving.
type tallying struct {
	N     int
	Alone bool // the first call ends what it waits for
}

var (
	halving = workflow.DurableWorkflow[tallying, string]{Name: "halving"}
	halves  = workflow.Stream[int]{Name: "halves"}

	// halveStep follows a command that prints N lines, waits, and prints as many again. It
	// returns how often the function was called in the sandbox, how often its commands
	// began there, and what was printed.
	halveStep = workflow.NewToolStep("tally", func(ctx context.Context, sb *sandbox.Sandbox, in tallying) (string, error) {
		calls, _ := sb.ReadFile(ctx, "calls") // not there at first
		calls = append(calls, 'x')
		if err := sb.WriteFile(ctx, "calls", calls, 0o600); err != nil {
			return "", err
		}
		// It needs a network at first. Who goes on finds what is in force.
		if open := len(sb.Handle().Spec.Network.Allow) > 0; open != (len(calls) == 1) {
			return "", fmt.Errorf("call %d begins with the network open: %v", len(calls), open)
		}
		if err := sb.SetNetwork(ctx, sandbox.NetworkPolicy{}); err != nil {
			return "", err
		}
		half, told := fmt.Sprintf("\n%d\n", in.N), make(chan struct{})
		var out bytes.Buffer
		c := sb.Command(docker.ProgramPath, "probe:tally", fmt.Sprint(in.N), "gate", "begun")
		c.Stdout = writerFunc(func(p []byte) (int, error) {
			before := bytes.Contains(out.Bytes(), []byte(half))
			out.Write(p)
			if !before && bytes.Contains(out.Bytes(), []byte(half)) {
				close(told)
			}
			return len(p), nil
		})
		if err := c.Start(ctx); err != nil {
			return "", err
		}
		select {
		case <-told:
		case <-ctx.Done():
			return "", errors.Join(context.Cause(ctx), c.Wait())
		}
		if err := halves.AppendInStep(ctx, in.N); err != nil {
			return "", errors.Join(err, c.Wait())
		}
		if in.Alone || len(calls) > 1 {
			if err := sb.Command(docker.ProgramPath, "probe:pass", "gate").Run(ctx); err != nil {
				return "", err
			}
		}
		if err := c.Wait(); err != nil {
			// What a function does at its end must not harm who goes on.
			_ = sb.Command(docker.ProgramPath, "probe:remove", "begun").Run(context.WithoutCancel(ctx))
			return "", err
		}
		begun, err := sb.ReadFile(ctx, "begun")
		return fmt.Sprintf("calls %d, begun %d\n%s", len(calls), bytes.Count(begun, []byte("begun\n")), out.Bytes()), err
	}, workflow.StepOptions{
		Mode: workflow.Sandboxed, Sandbox: sandbox.Spec{Network: sandbox.NetworkPolicy{Allow: []string{"example.com"}}},
		Continue: true, Retry: workflow.Retry{MaxAttempts: 1},
	})

	halveV1 = workflow.Define(halving, func(ctx workflow.Context, in tallying) (string, error) { return halveStep.Run(ctx, in) },
		workflow.Options{Version: "1", Steps: []workflow.Declared{halveStep}})
)

type writerFunc func([]byte) (int, error)

func (w writerFunc) Write(p []byte) (int, error) { return w(p) }

func (f *fixture) tallies(in tallying) workflow.Run[string] {
	f.t.Helper()
	run, err := halving.Enqueue(f.t.Context(), f.client, in, workflow.EnqueueOptions{})
	if err != nil {
		f.t.Fatal(err)
	}
	return run
}

// tallied checks that the commands of the step ran once, and that no byte of the output is
// missing or there twice.
func (f *fixture) tallied(run workflow.Run[string], n, calls int) {
	f.t.Helper()
	var want strings.Builder
	for i := range 2 * n {
		fmt.Fprintln(&want, i+1)
	}
	out, err := outcome(f.t, f.client, run)
	head, printed, _ := strings.Cut(out, "\n")
	if err != nil || head != fmt.Sprintf("calls %d, begun 1", calls) || printed != want.String() {
		f.t.Fatalf("got %q and %d bytes of output, not %d, %v", head, len(printed), want.Len(), err)
	}
	steps, err := f.client.Steps(f.t.Context(), run.ID, 0)
	if err != nil || len(steps) != 1 || !steps[0].Recorded || steps[0].Attempt != 1 {
		f.t.Errorf("steps: %+v, %v", steps, err)
	}
	eventually(f.t, "its sandbox is gone", func() bool {
		return f.count("SELECT count(*) FROM stepward.sandbox WHERE destroyed_at IS NULL OR handle IS NOT NULL") == 0
	})
	kinds := f.kinds(run.ID)
	for _, kind := range []string{audit.SandboxCreated, audit.SandboxDestroyed} {
		if i := slices.Index(kinds, kind); i < 0 || slices.Contains(kinds[i+1:], kind) {
			f.t.Errorf("not one %s in %q", kind, kinds)
		}
	}
}

// A tool step with Continue goes on in its sandbox when its worker dies in the middle of a
// command, and when the next one does: the command runs once, and all of its output is there.
func TestToolStepSurvivesWorker(t *testing.T) {
	host, b := containers(t)
	const n = 5000
	for name, c := range map[string]struct {
		alone   bool
		crashes []string // of one worker after the other
		calls   int
	}{
		"it has not begun":         {true, []string{"SandboxCreated:after:1"}, 1},
		"in the middle":            {false, []string{"Commit:after:1"}, 2},
		"its network is narrower":  {true, []string{"SandboxCreated:after:2"}, 2},
		"its result is not stored": {true, []string{"Commit:before:2"}, 2},
		"its result is stored":     {true, []string{"Commit:after:2"}, 1},
		"the next one, too":        {false, []string{"Commit:after:1", "AttemptTake:before:1", "AttemptTake:after:1", "Commit:before:2"}, 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			run := f.tallies(tallying{n, c.alone})
			for i, at := range c.crashes {
				f.startVictim(victimConfig{Name: fmt.Sprint("victim-", i), Engine: host}, at).dies()
			}
			f.start(worker.Config{Name: "healthy", Workflows: []*workflow.Definition{halveV1}, Backends: []sandbox.Backend{b}})
			f.tallied(run, n, c.calls)
		})
	}
}

// So it does when its worker is deployed. What the function does once it was told to stop
// reaches the sandbox no more.
func TestToolStepSurvivesDeploy(t *testing.T) {
	t.Parallel()
	host, b := containers(t)
	f := newFixture(t)
	run := f.tallies(tallying{N: 100})
	p := f.startVictim(victimConfig{Engine: host, DrainTimeout: time.Millisecond}, "")
	eventually(t, "the step is in the middle", func() bool { return f.count("SELECT count(*) FROM stepward.entry") == 1 })
	p.signal(syscall.SIGTERM)
	p.diedOf(0)
	f.start(worker.Config{Name: "healthy", Workflows: []*workflow.Definition{halveV1}, Backends: []sandbox.Backend{b}})
	f.tallied(run, 100, 2)
	if !slices.Contains(f.kinds(run.ID), audit.SandboxTaken) {
		t.Error("nobody took the sandbox over")
	}
}

// A step whose sandbox is lost says so, also if its function does not.
func TestToolStepLosesSandbox(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	b := backends(t)[0]
	ends := workflow.NewToolStep("ends", func(ctx context.Context, sb *sandbox.Sandbox, in int) (int, error) {
		if err := b.Destroy(ctx, sb.ID()); err != nil {
			return 0, err
		}
		if err := sb.Command("/bin/true").Run(ctx); err != nil {
			return 0, fmt.Errorf("the function: %w", err)
		}
		return 0, nil
	}, workflow.StepOptions{Mode: workflow.Sandboxed, OnSandboxLost: workflow.Permanent})
	ending := workflow.DurableWorkflow[int, int]{Name: "ending"}
	f.start(worker.Config{Backends: []sandbox.Backend{b}, Workflows: []*workflow.Definition{workflow.Define(ending, func(ctx workflow.Context, in int) (int, error) {
		return ends.Run(ctx, in)
	}, workflow.Options{Version: "1", Steps: []workflow.Declared{ends}})}})
	run, err := ending.Enqueue(t.Context(), f.client, 1, workflow.EnqueueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = outcome(t, f.client, run)
	var lost *workflow.RecordedError
	if !errors.As(err, &lost) || lost.Kind != "sandbox" || lost.Attempt != 1 || !strings.Contains(lost.Message, "the function: sandbox: lost") {
		t.Errorf("got %+v, %v", lost, err)
	}
}
