//go:build unix

package worker_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stepward/stepward/audit"
	"github.com/stepward/stepward/internal/testenv"
	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/sandbox/docker"
	"github.com/stepward/stepward/sandbox/sandboxtest"
	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

// A counting is the input of workflow census. Its step is executed by the probe in the
// sandbox: see sandboxtest.
type counting struct {
	N, Size int
	Once    bool // the step must not begin twice
}

var (
	census  = workflow.DurableWorkflow[counting, string]{Name: "census"}
	numbers = workflow.Stream[string]{Name: "numbers"}

	uncalled = func(context.Context, [2]int) (string, error) {
		return "", errors.New("the function of a guest step was called on a worker")
	}
	countStep = workflow.NewStep("count", uncalled, workflow.StepOptions{Mode: workflow.Sandboxed, Retry: workflow.Retry{MaxAttempts: 1}})
	countOnce = workflow.NewStep("count-once", uncalled, workflow.StepOptions{Mode: workflow.Sandboxed, OnSandboxLost: workflow.Permanent})

	censusV1 = workflow.Define(census, func(ctx workflow.Context, in counting) (string, error) {
		step := countStep
		if in.Once {
			step = countOnce
		}
		return step.Run(ctx, [2]int{in.N, in.Size})
	}, workflow.Options{Version: "1", Steps: []workflow.Declared{countStep, countOnce}})
)

func (f *fixture) enqueueCount(in counting) workflow.Run[string] {
	f.t.Helper()
	run, err := census.Enqueue(f.t.Context(), f.client, in, workflow.EnqueueOptions{})
	if err != nil {
		f.t.Fatal(err)
	}
	return run
}

// dies waits for the end of a victim, and for nobody to believe it alive.
func (p *process) dies() {
	p.t.Helper()
	p.diedOf(syscall.SIGKILL)
	p.silent()
}

// silent has a victim taken for dead that cannot renew its lease.
func (p *process) silent() {
	p.t.Helper()
	p.exec("UPDATE stepward.worker SET lease_until = clock_timestamp() - interval '1 second' WHERE state = 'live'")
}

// containers returns the address of a docker engine, and its sandboxes.
func containers(t *testing.T) (host string, b sandbox.Backend) {
	host = testenv.Docker(t)
	e := docker.New(docker.Config{Host: host, Program: sandboxtest.BuildProbe(t)})
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return host, e
}

// A guest step goes on when its worker dies, and when the next one does: it runs once,
// all that it shows is there once, and its result is recorded once, as of the
// attempt that it began as.
func TestGuestSurvivesWorker(t *testing.T) {
	host, b := containers(t)
	const n = 30
	for name, c := range map[string]struct {
		size    int
		crashes []string // of one worker after the other
	}{
		"it has not begun":         {0, []string{"SandboxCreated:after:1"}},
		"in the middle":            {0, []string{"Commit:after:20"}},
		"before an entry":          {0, []string{"Commit:before:20"}},
		"more than is kept":        {60 << 10, []string{"Commit:after:28"}},
		"its result is not stored": {0, []string{"Commit:before:31"}},
		"its result is stored":     {0, []string{"Commit:after:31"}},
		"the next one, too":        {0, []string{"Commit:after:10", "AttemptTake:before:1", "AttemptTake:after:1", "Commit:after:10"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			run := f.enqueueCount(counting{N: n, Size: c.size})
			for i, at := range c.crashes {
				f.startVictim(victimConfig{Name: fmt.Sprint("victim-", i), Engine: host}, at).dies()
			}
			f.start(worker.Config{Name: "healthy", Workflows: []*workflow.Definition{censusV1}, Backends: []sandbox.Backend{b}})
			if out, err := outcome(t, f.client, run); err != nil || out != "begun 1, attempt 1" {
				t.Fatalf("got %q, %v", out, err)
			}
			f.countedOnce(run.ID, n)
		})
	}
}

// countedOnce checks what is on record of a guest that ran once.
func (f *fixture) countedOnce(id workflow.RunID, n int) {
	f.t.Helper()
	entries, _, err := numbers.Read(f.t.Context(), f.client, id, 0, 0)
	if err != nil || len(entries) != n {
		f.t.Errorf("%d entries, %v", len(entries), err)
	}
	for i, e := range entries {
		if strings.TrimSpace(e.Value) != fmt.Sprint(i+1) || e.Attempt != 1 {
			f.t.Fatalf("entry %d of attempt %d is %.20q", i, e.Attempt, e.Value)
		}
	}
	steps, err := f.client.Steps(f.t.Context(), id, 0)
	if err != nil || len(steps) != 1 || !steps[0].Recorded || steps[0].Attempt != 1 {
		f.t.Errorf("steps: %+v, %v", steps, err)
	}
	eventually(f.t, "its sandbox is gone", func() bool {
		return f.count("SELECT count(*) FROM stepward.sandbox WHERE destroyed_at IS NULL") == 0
	})
	kinds := f.kinds(id)
	for _, kind := range []string{audit.SandboxCreated, audit.SandboxDestroyed} {
		if i := slices.Index(kinds, kind); i < 0 || slices.Contains(kinds[i+1:], kind) {
			f.t.Errorf("not one %s in %q", kind, kinds)
		}
	}
}

// A worker that froze and wakes up when another has gone on in its sandbox can do nothing
// to it, by a connection or otherwise, although it believes that it has its lease.
func TestZombieLeavesSandboxAlone(t *testing.T) {
	t.Parallel()
	host, b := containers(t)
	f := newFixture(t)
	const n = 300
	run := f.enqueueCount(counting{N: n})
	p := f.startVictim(victimConfig{Engine: host, LeaseTTL: time.Minute}, "Commit:freeze:20")
	eventually(t, "the victim freezes", p.frozen)
	p.silent()
	f.start(worker.Config{Name: "healthy", Workflows: []*workflow.Definition{censusV1}, Backends: []sandbox.Backend{b}})
	eventually(t, "another worker goes on", func() bool { return slices.Contains(f.kinds(run.ID), audit.SandboxTaken) })
	p.signal(syscall.SIGCONT)
	if out, err := outcome(t, f.client, run); err != nil || out != "begun 1, attempt 1" {
		t.Fatalf("got %q, %v", out, err)
	}
	f.countedOnce(run.ID, n)
	p.signal(syscall.SIGTERM)
	p.diedOf(0)
	f.countedOnce(run.ID, n)
}

// A deploy does not cost what a guest has done.
func TestGuestSurvivesDeploy(t *testing.T) {
	t.Parallel()
	host, b := containers(t)
	f := newFixture(t)
	const n = 300
	run := f.enqueueCount(counting{N: n})
	p := f.startVictim(victimConfig{Engine: host, DrainTimeout: time.Millisecond}, "")
	eventually(t, "the guest counts", func() bool { return f.count("SELECT count(*) FROM stepward.entry") > 10 })
	p.signal(syscall.SIGTERM)
	p.diedOf(0)
	f.start(worker.Config{Name: "healthy", Workflows: []*workflow.Definition{censusV1}, Backends: []sandbox.Backend{b}})
	if out, err := outcome(t, f.client, run); err != nil || out != "begun 1, attempt 1" {
		t.Fatalf("got %q, %v", out, err)
	}
	f.countedOnce(run.ID, n)
	if !slices.Contains(f.kinds(run.ID), audit.SandboxTaken) {
		t.Error("it was over before the worker was gone")
	}
}

// A step that a deploy has put in the place of one that is under way in a sandbox begins in one of its own.
func TestAnotherStepLeavesGuestAlone(t *testing.T) {
	t.Parallel()
	host, b := containers(t)
	f := newFixture(t)
	const n = 300
	run := f.enqueueCount(counting{N: n})
	p := f.startVictim(victimConfig{Engine: host, DrainTimeout: time.Millisecond}, "")
	eventually(t, "the guest counts", func() bool { return f.count("SELECT count(*) FROM stepward.entry") > 10 })
	p.signal(syscall.SIGTERM)
	p.diedOf(0)
	other := workflow.Define(census, func(ctx workflow.Context, in counting) (string, error) {
		return countOnce.Run(ctx, [2]int{in.N, in.Size})
	}, workflow.Options{Version: "1", Steps: []workflow.Declared{countStep, countOnce}})
	cfg := worker.Config{Name: "other", Workflows: []*workflow.Definition{other}, Backends: []sandbox.Backend{b}}
	stop := f.start(cfg)
	if out, err := outcome(t, f.client, run); err != nil || out != "begun 1, attempt 2" {
		t.Fatalf("got %q, %v", out, err)
	}
	steps, err := f.client.Steps(t.Context(), run.ID, 0)
	if err != nil || len(steps) != 2 || steps[0].Step != "count" || steps[0].Recorded || steps[1].Step != "count-once" || !steps[1].Recorded {
		t.Errorf("steps: %+v, %v", steps, err)
	}
	stop()
	f.start(cfg) // which sweeps first of all
	eventually(t, "the sandbox that nobody goes on with is gone", func() bool {
		listed, err := b.List(t.Context(), f.schema)
		if err != nil {
			t.Fatal(err)
		}
		return len(listed) == 0
	})
}

// A step that a deploy gives another input while it is under way in a sandbox is tried again with that, in
// another one.
func TestAnotherInputLeavesGuestAlone(t *testing.T) {
	t.Parallel()
	host, b := containers(t)
	f := newFixture(t)
	const n = 300
	run := f.enqueueCount(counting{N: n})
	p := f.startVictim(victimConfig{Engine: host, DrainTimeout: time.Millisecond}, "")
	eventually(t, "the guest counts", func() bool { return f.count("SELECT count(*) FROM stepward.entry") > 10 })
	p.signal(syscall.SIGTERM)
	p.diedOf(0)
	other := workflow.Define(census, func(ctx workflow.Context, in counting) (string, error) {
		return countStep.Run(ctx, [2]int{20, in.Size})
	}, workflow.Options{Version: "1", Steps: []workflow.Declared{countStep, countOnce}})
	f.start(worker.Config{Name: "other", Workflows: []*workflow.Definition{other}, Backends: []sandbox.Backend{b}})
	if out, err := outcome(t, f.client, run); err != nil || out != "begun 1, attempt 2" {
		t.Fatalf("got %q, %v", out, err)
	}
	if got := f.count("SELECT count(*) FROM stepward.entry WHERE attempt = 2"); got != 20 {
		t.Errorf("it counted to %d, not 20", got)
	}
	if got := f.count("SELECT count(*) FROM stepward.sandbox WHERE destroyed_at IS NULL"); got > 1 { // that of the result may still be there
		t.Errorf("%d sandboxes are there", got)
	}
}

// So it is with a sandbox that was ready before the step was.
func TestWarmGuestSurvivesDeploy(t *testing.T) {
	t.Parallel()
	_, b := containers(t)
	f := newFixture(t)
	const n = 300
	health := new(worker.Health)
	cfg := worker.Config{Name: "first", Workflows: []*workflow.Definition{censusV1}, Backends: []sandbox.Backend{b}, DrainTimeout: time.Millisecond, Health: health, Warm: worker.Warm{Min: 1, Max: 1}}
	stop := f.start(cfg)
	eventually(t, "a sandbox is ready", func() bool { r, _ := health.Report(); return r.Warm == 1 })
	run := f.enqueueCount(counting{N: n})
	eventually(t, "the guest counts", func() bool { return f.count("SELECT count(*) FROM stepward.entry") > 10 })
	stop()
	cfg.Name, cfg.Health, cfg.Warm = "second", nil, worker.Warm{}
	f.start(cfg)
	if out, err := outcome(t, f.client, run); err != nil || out != "begun 1, attempt 1" {
		t.Fatalf("got %q, %v", out, err)
	}
	f.countedOnce(run.ID, n)
	if f.count("SELECT count(*) FROM stepward.event WHERE kind = 'sandbox.taken'") != 1 || f.count("SELECT count(*) FROM stepward.attempt WHERE sandbox_id LIKE 'warm-%'") != 1 {
		t.Error("it was not ready, or it was over before the worker was gone")
	}
}

// A sandbox that others may go on with ends with its run all the same.
func TestSandboxEndsWithRun(t *testing.T) {
	t.Parallel()
	_, b := containers(t)
	f := newFixture(t)
	f.start(worker.Config{Workflows: []*workflow.Definition{censusV1}, Backends: []sandbox.Backend{b}})
	for name, end := range map[string]func(context.Context, workflow.RunID) error{"cancel": f.client.Cancel, "terminate": f.client.Terminate} {
		run := f.enqueueCount(counting{N: 1 << 20})
		eventually(t, "the guest counts", func() bool { return f.count("SELECT count(*) FROM stepward.entry WHERE run_id = $1", run.ID) > 10 })
		if err := end(t.Context(), run.ID); err != nil {
			t.Fatal(err)
		}
		if _, err := outcome(t, f.client, run); !errors.Is(err, workflow.ErrCanceled) {
			t.Errorf("%s: got %v", name, err)
		}
		eventually(t, name+" removes the sandbox", func() bool {
			listed, err := b.List(t.Context(), f.schema)
			if err != nil {
				t.Fatal(err)
			}
			return len(listed) == 0 && f.count("SELECT count(*) FROM stepward.sandbox WHERE destroyed_at IS NULL OR handle IS NOT NULL") == 0
		})
	}
}

// The sweeper leaves a sandbox alone that somebody may still go on with, and removes one that
// nobody will.
func TestSweepWaitsForTaker(t *testing.T) {
	t.Parallel()
	host, b := containers(t)
	f := newFixture(t)
	taken := f.enqueueCount(counting{N: 30})
	f.startVictim(victimConfig{Name: "first", Engine: host}, "Commit:after:10").dies()
	ended := f.enqueueCount(counting{N: 30})
	if err := f.client.Pause(t.Context(), taken.ID); err != nil {
		t.Fatal(err)
	}
	f.startVictim(victimConfig{Name: "second", Engine: host}, "Commit:after:10").dies()
	late := f.enqueueCount(counting{N: 30})
	if err := f.client.Pause(t.Context(), ended.ID); err != nil {
		t.Fatal(err)
	}
	f.startVictim(victimConfig{Name: "third", Engine: host}, "Commit:after:10").dies()
	if err := f.client.Pause(t.Context(), late.ID); err != nil {
		t.Fatal(err)
	}
	if err := f.client.Terminate(t.Context(), ended.ID); err != nil {
		t.Fatal(err)
	}
	f.exec("UPDATE stepward.worker SET state = 'dead', lease_until = clock_timestamp()")
	f.expire("third") // which nobody followed in time
	// Which can execute none of them, and sweeps first of all.
	other := workflow.Define(workflow.DurableWorkflow[counting, string]{Name: "other"}, func(workflow.Context, counting) (string, error) { return "", nil },
		workflow.Options{Steps: []workflow.Declared{countStep}})
	f.start(worker.Config{Name: "other", Workflows: []*workflow.Definition{other}, Backends: []sandbox.Backend{b}})
	eventually(t, "the sandbox of the run that has ended is swept", func() bool { return slices.Contains(f.kinds(ended.ID), audit.SandboxDestroyed) })
	eventually(t, "the sandbox that nobody took is swept", func() bool { return slices.Contains(f.kinds(late.ID), audit.SandboxDestroyed) })
	for _, id := range []workflow.RunID{taken.ID, late.ID} {
		eventually(t, "the run is parked", func() bool { return f.state(id).State == workflow.StateParked })
		if err := f.client.Resume(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	f.start(worker.Config{Name: "healthy", Workflows: []*workflow.Definition{censusV1}, Backends: []sandbox.Backend{b}})
	if out, err := outcome(t, f.client, taken); err != nil || out != "begun 1, attempt 1" {
		t.Fatalf("got %q, %v", out, err)
	}
	f.countedOnce(taken.ID, 30)
	if out, err := outcome(t, f.client, late); err != nil || out != "begun 1, attempt 2" {
		t.Fatalf("got %q, %v", out, err)
	}
}

// What cannot go on is lost, and says so. It is tried again, which uses up no attempt
// as the function is not to blame; or the step fails, as its options say.
func TestSandboxLostWithWorker(t *testing.T) {
	t.Parallel()
	t.Run("retry", func(t *testing.T) {
		t.Parallel()
		f := newFixture(t)
		run := f.enqueueCount(counting{N: 3})
		f.startVictim(victimConfig{}, "Commit:after:2").dies()
		f.start(worker.Config{Workflows: []*workflow.Definition{censusV1}, Backends: backends(t)})
		if out, err := outcome(t, f.client, run); err != nil || out != "begun 1, attempt 2" {
			t.Fatalf("got %q, %v", out, err)
		}
		steps, err := f.client.Steps(t.Context(), run.ID, 0)
		if err != nil || len(steps) != 2 || steps[0].Recorded || steps[0].Err == nil || steps[0].Err.Kind != "sandbox" || !strings.Contains(steps[0].Err.Message, "left by its worker") {
			t.Errorf("steps: %+v, %v", steps, err)
		}
	})
	t.Run("fail", func(t *testing.T) {
		t.Parallel()
		f := newFixture(t)
		run := f.enqueueCount(counting{N: 3, Once: true})
		f.startVictim(victimConfig{}, "Commit:after:2").dies()
		f.start(worker.Config{Workflows: []*workflow.Definition{censusV1}, Backends: backends(t)})
		_, err := outcome(t, f.client, run)
		var lost *workflow.RecordedError
		if !errors.As(err, &lost) || lost.Kind != "sandbox" || !lost.Permanent || lost.Step != "count-once" || lost.Attempt != 1 {
			t.Fatalf("got %+v, %v", lost, err)
		}
		if n := f.count("SELECT count(*) FROM stepward.attempt"); n != 1 {
			t.Errorf("%d attempts", n)
		}
	})
	// One that was dispatched and has not begun can do so.
	t.Run("not begun", func(t *testing.T) {
		t.Parallel()
		f := newFixture(t)
		run := f.enqueueCount(counting{N: 3, Once: true})
		f.startVictim(victimConfig{}, "SandboxCreated:before:1").dies()
		f.start(worker.Config{Workflows: []*workflow.Definition{censusV1}, Backends: backends(t)})
		if out, err := outcome(t, f.client, run); err != nil || out != "begun 1, attempt 2" {
			t.Fatalf("got %q, %v", out, err)
		}
	})
}
