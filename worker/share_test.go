//go:build linux

package worker_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/stepward/stepward/audit"
	"github.com/stepward/stepward/internal/layers"
	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

// leaver makes a step that leaves a file with its input for a name, and returns the
// sandbox's id with the names of all that are there.
func leaver(name string, spec sandbox.Spec) *workflow.Step[string, []string] {
	return workflow.NewToolStep(name, func(ctx context.Context, sb *sandbox.Sandbox, file string) ([]string, error) {
		if err := sb.WriteFile(ctx, file, nil, 0o600); err != nil {
			return nil, err
		}
		out, err := sb.Command("/bin/ls").Output(ctx)
		return append([]string{sb.ID()}, strings.Fields(string(out))...), err
	}, workflow.StepOptions{Mode: workflow.Sandboxed, Sandbox: spec, Retry: workflow.Retry{MaxAttempts: 1}})
}

var (
	sharing   = workflow.DurableWorkflow[string, [][]string]{Name: "sharing"}
	goOn      = workflow.NewSignal[int]("go-on")
	leaveOne  = leaver("one", sandbox.Spec{Share: true})
	leaveTwo  = leaver("two", sandbox.Spec{Share: true})
	leaveEnv  = leaver("env", sandbox.Spec{Share: true, Env: map[string]string{"OTHER": "1"}})
	leaveNet  = leaver("net", sandbox.Spec{Share: true, Network: sandbox.NetworkPolicy{Allow: []string{"allowed.invalid:443"}}})
	leaveOwn  = leaver("own", sandbox.Spec{})
	sharingV1 = workflow.Define(sharing, func(ctx workflow.Context, how string) (outs [][]string, err error) {
		steps := map[string]*workflow.Step[string, []string]{"one": leaveOne, "two": leaveTwo, "env": leaveEnv, "net": leaveNet, "own": leaveOwn}
		for _, name := range strings.Fields(how) {
			if name == "wait" {
				if _, err := goOn.Receive(ctx, 0); err != nil {
					return nil, err
				}
				continue
			}
			if name == "all" {
				all, err := workflow.Map(ctx, []string{"a", "b", "c", "d"}, leaveOne, workflow.MapOptions{})
				if err != nil {
					return nil, err
				}
				outs = append(outs, all...)
				continue
			}
			out, err := steps[name].Run(ctx, name)
			if err != nil {
				return nil, err
			}
			outs = append(outs, out)
		}
		return outs, nil
	}, workflow.Options{Version: "1", Steps: []workflow.Declared{leaveOne, leaveTwo, leaveEnv, leaveNet, leaveOwn}})
)

func (f *fixture) shares(how string) workflow.Run[[][]string] {
	f.t.Helper()
	run, err := sharing.Enqueue(f.t.Context(), f.client, how, workflow.EnqueueOptions{})
	if err != nil {
		f.t.Fatal(err)
	}
	return run
}

// Steps of one run with equal Specs are in one sandbox, one after the other and side by
// side. Those of other runs, with another Spec, or without Share, are not.
func TestShare(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.start(worker.Config{Workflows: []*workflow.Definition{sharingV1}, Backends: backends(t), MaxSandboxes: 2})
	first, second := f.shares("one two env net own all one"), f.shares("two")
	outs, err := outcome(t, f.client, first)
	if err != nil || len(outs) != 10 {
		t.Fatalf("got %v, %v", outs, err)
	}
	id := outs[0][0]
	for i, want := range []string{"one", "one two", "env", "net", "own"} {
		if got := strings.Join(outs[i][1:], " "); got != want || outs[i][0] == id != (i < 2) {
			t.Errorf("step %d: %q, want %q, in %s", i+1, got, want, outs[i][0])
		}
	}
	for _, out := range outs[5:] {
		if out[0] != id || !slices.Contains(out, "two") {
			t.Errorf("side by side: %v", out)
		}
	}
	if last := strings.Join(outs[9][1:], " "); last != "a b c d one two" {
		t.Errorf("the last one finds %q", last)
	}
	other, err := outcome(t, f.client, second)
	if err != nil || other[0][0] == id || strings.Join(other[0][1:], " ") != "two" {
		t.Errorf("the other run: %v, %v", other, err)
	}
	eventually(t, "the sandboxes are gone", func() bool {
		return f.count("SELECT count(*) FROM stepward.sandbox WHERE destroyed_at IS NULL") == 0
	})
	kinds := counts(f.kinds(first.ID))
	if kinds[audit.SandboxCreated] != 4 || kinds[audit.SandboxJoined] != 6 || kinds[audit.SandboxDestroyed] != 4 {
		t.Errorf("events: %v", kinds)
	}
}

// A run that leaves its worker leaves its shared sandbox, too: the next step begins in one
// that is empty.
func TestShareEndsWithTurn(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.start(worker.Config{Workflows: []*workflow.Definition{sharingV1}, Backends: backends(t)})
	run := f.shares("one wait two")
	eventually(t, "the sandbox is gone while the run waits", func() bool {
		return f.state(run.ID).State == workflow.StateWaiting && f.count("SELECT count(*) FROM stepward.sandbox WHERE destroyed_at IS NOT NULL") == 1
	})
	if err := goOn.Send(t.Context(), f.client, run.ID, 1); err != nil {
		t.Fatal(err)
	}
	outs, err := outcome(t, f.client, run)
	if err != nil || outs[0][0] == outs[1][0] || strings.Join(outs[1][1:], " ") != "two" {
		t.Errorf("got %v, %v", outs, err)
	}
}

// A step that ends the sandbox ends what is in it, which says so; what comes next has a new
// one.
func TestShareOfLost(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	b := backends(t)[0]
	there := make(chan struct{})
	o := workflow.StepOptions{Mode: workflow.Sandboxed, Sandbox: sandbox.Spec{Share: true}, Retry: workflow.Retry{MaxAttempts: 1}}
	stays := workflow.NewToolStep("stays", func(ctx context.Context, sb *sandbox.Sandbox, _ int) (string, error) {
		c := sb.Command("/bin/sh", "-c", "echo there; exec sleep 1000")
		c.Stdout = closes{there}
		return "", c.Run(ctx)
	}, o)
	ends := workflow.NewToolStep("ends", func(ctx context.Context, sb *sandbox.Sandbox, _ int) (string, error) {
		<-there
		return sb.ID(), b.Destroy(ctx, sb.ID()) // as the kernel may
	}, o)
	next := workflow.NewToolStep("next", func(ctx context.Context, sb *sandbox.Sandbox, _ int) (string, error) {
		return sb.ID(), sb.Command("/bin/true").Run(ctx)
	}, o)
	breaking := workflow.DurableWorkflow[int, []string]{Name: "breaking"}
	v1 := workflow.Define(breaking, func(ctx workflow.Context, _ int) ([]string, error) {
		neighbour := stays.Go(ctx, 0)
		gone, err := ends.Run(ctx, 0)
		if err != nil {
			return nil, err
		}
		_, err = neighbour.Get(ctx)
		var lost *workflow.RecordedError
		if !errors.As(err, &lost) || lost.Kind != "sandbox" {
			return nil, fmt.Errorf("the neighbour ended with %w", err)
		}
		id, err := next.Run(ctx, 0)
		return []string{gone, id}, err
	}, workflow.Options{Version: "1", Steps: []workflow.Declared{stays, ends, next}})
	f.start(worker.Config{Workflows: []*workflow.Definition{v1}, Backends: []sandbox.Backend{b}})
	run, err := breaking.Enqueue(t.Context(), f.client, 0, workflow.EnqueueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ids, err := outcome(t, f.client, run)
	if err != nil || ids[0] == ids[1] {
		t.Errorf("got %v, %v", ids, err)
	}
}

// An unguarded backend makes sandboxes without Landlock: a command can stop its shim.
type unguarded struct{ sandbox.Backend }

func (b unguarded) Create(ctx context.Context, c sandbox.Creation) (sandbox.Enforcement, error) {
	return b.Backend.Create(layers.Without(ctx, layers.Landlock), c)
}

// A step that keeps its shim from ending its command leaves nothing of it beside the next
// step of the run.
func TestShareAfterHostile(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	there := make(chan struct{})
	o := workflow.StepOptions{Mode: workflow.Sandboxed, Sandbox: sandbox.Spec{Share: true}, Retry: workflow.Retry{MaxAttempts: 1}}
	list := func(ctx context.Context, sb *sandbox.Sandbox) (bool, error) {
		out, err := sb.Command("/bin/sh", "-c", "cat /proc/[0-9]*/cmdline; true").Output(ctx)
		return strings.Contains(string(out), "hostile"), err
	}
	hostile := workflow.NewToolStep("hostile", func(ctx context.Context, sb *sandbox.Sandbox, _ int) (bool, error) {
		c := sb.Command("/bin/sh", "-c", "echo there; read go; kill -STOP $PPID; while :; do sleep 1; done", "hostile")
		input, act := io.Pipe()
		c.Stdin, c.Stdout = input, closes{there}
		if err := c.Start(ctx); err != nil {
			return false, err
		}
		select {
		case <-there:
		case <-ctx.Done():
			return false, ctx.Err()
		}
		seen, err := list(ctx, sb)
		act.Close()
		if werr := c.Wait(); !errors.Is(werr, sandbox.ErrLost) {
			return seen, fmt.Errorf("it ended with %w, want it lost", werr)
		}
		return seen, err
	}, o)
	next := workflow.NewToolStep("next", func(ctx context.Context, sb *sandbox.Sandbox, _ int) (bool, error) {
		return list(ctx, sb)
	}, o)
	after := workflow.DurableWorkflow[int, []bool]{Name: "after-hostile"}
	v1 := workflow.Define(after, func(ctx workflow.Context, _ int) ([]bool, error) {
		during, err := hostile.Run(ctx, 0)
		if err != nil {
			return nil, err
		}
		later, err := next.Run(ctx, 0)
		return []bool{during, later}, err
	}, workflow.Options{Version: "1", Steps: []workflow.Declared{hostile, next}})
	f.start(worker.Config{Workflows: []*workflow.Definition{v1}, Backends: []sandbox.Backend{unguarded{backends(t)[0]}}})
	run, err := after.Enqueue(t.Context(), f.client, 0, workflow.EnqueueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if seen, err := outcome(t, f.client, run); err != nil || !slices.Equal(seen, []bool{true, false}) {
		t.Errorf("seen while it runs, and by the next step: %v, %v", seen, err)
	}
}

// An attempt in a shared sandbox that died with its worker is on record as lost, whether it had
// the sandbox made or joined.
func TestShareLostWithWorker(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	r := f.travel("den", "lair")
	f.startVictim(victimConfig{}, "AttemptDispatch:after:2").dies()
	f.start(worker.Config{Workflows: []*workflow.Definition{journeyNew}, Backends: backends(t)})
	r.arrives(t.Context(), nil, 0)
	steps, err := f.client.Steps(t.Context(), r.run.ID, 0)
	if err != nil || len(steps) != 3 || steps[1].Step != "lair" || steps[1].Err == nil || steps[1].Err.Kind != "sandbox" || !steps[2].Recorded {
		t.Errorf("steps: %+v, %v", steps, err)
	}
	if got := f.count("SELECT count(DISTINCT sandbox_id) FROM stepward.attempt"); got != 2 {
		t.Errorf("%d sandboxes", got)
	}
}
