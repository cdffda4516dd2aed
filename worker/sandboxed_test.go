//go:build linux

package worker_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stepward/stepward/internal/image/imagetest"
	"github.com/stepward/stepward/internal/testenv"
	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/sandbox/docker"
	"github.com/stepward/stepward/sandbox/local"
	"github.com/stepward/stepward/sandbox/sandboxtest"
	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

// Without a backend that works, runs with sandboxed steps park, and say why. A
// worker that has one takes them up.
func TestNoBackendParks(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	r := f.travel("a", "box")
	stop := f.start(worker.Config{Workflows: []*workflow.Definition{journeyNew}, Backends: []sandbox.Backend{}})
	f.parksAs(r.run.ID, "no_backend")
	if s := f.state(r.run.ID); s.RetryAt.Sub(s.Since).Round(time.Second) != 10*time.Second { // one that can may have looked just before
		t.Errorf("parked at %v, tried again at %v", s.Since, s.RetryAt)
	}
	f.start(worker.Config{Name: "able", Workflows: []*workflow.Definition{journeyNew}, Backends: backends(t)})
	r.arrives(t.Context(), nil, 0)
	// As long as it lives, the other one leaves such runs to it.
	next := f.travel("b", "box")
	next.arrives(t.Context(), nil, 0)
	stop()
}

// A worker that was started before its engine has it once that answers, and takes up what was parked.
func TestBackendComesLater(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	path, there := strings.CutPrefix(testenv.Docker(t), "unix://")
	if !there {
		path = "/var/run/docker.sock"
	}
	later := filepath.Join(t.TempDir(), "s")
	engine := docker.New(docker.Config{Host: "unix://" + later, Program: sandboxtest.BuildProbe(t)})
	t.Cleanup(func() {
		if err := engine.Close(); err != nil {
			t.Error(err)
		}
	})
	boxed := workflow.NewToolStep("boxed", func(_ context.Context, _ *sandbox.Sandbox, n int) (int, error) { return n + 1, nil }, workflow.StepOptions{Mode: workflow.Sandboxed})
	f.start(worker.Config{Workflows: []*workflow.Definition{defines(boxed.Run, boxed)}, Backends: []sandbox.Backend{engine}})
	run := f.enqueue(1)
	f.parksAs(run.ID, "no_backend")
	if err := os.Symlink(path, later); err != nil {
		t.Fatal(err)
	}
	ends(t, f.client, run, 2)
}

// late is a backend that works from some time on.
type late struct {
	sandbox.Backend
	works atomic.Bool
}

func (l *late) Probe(ctx context.Context) (sandbox.Capabilities, error) {
	if !l.works.Load() {
		return sandbox.Capabilities{}, errors.New("not yet")
	}
	return l.Backend.Probe(ctx)
}

// Postgres may be away while a worker starts anew with a backend: StartTimeout is of a worker that has not worked yet.
func TestBackendComesInOutage(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	l, pool := newLine(t, false)
	b := &late{Backend: backends(t)[0]}
	var health worker.Health
	var log logged
	f.start(worker.Config{
		Pool: pool, StartTimeout: 1, LeaseTTL: time.Hour, Health: &health, Logger: slog.New(slog.NewTextHandler(&log, nil)),
		Workflows: []*workflow.Definition{journeyNew}, Backends: []sandbox.Backend{b},
	})
	r := f.travel("a", "box")
	f.parksAs(r.run.ID, "no_backend")
	l.cut()
	b.works.Store(true)
	eventually(t, "it waits for Postgres", func() bool {
		_, runs := health.Report()
		return !runs && log.count("waiting for postgres") > 0
	})
	l.mend()
	r.arrives(t.Context(), nil, 0)
}

// An engine that comes, and does not work, is told of: what was wrong at the start is not any more.
func TestBackendComesBroken(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	later := filepath.Join(t.TempDir(), "s")
	engine := docker.New(docker.Config{Host: "unix://" + later, Program: sandboxtest.BuildProbe(t)})
	t.Cleanup(func() {
		if err := engine.Close(); err != nil {
			t.Error(err)
		}
	})
	boxed := workflow.NewToolStep("boxed", func(_ context.Context, _ *sandbox.Sandbox, n int) (int, error) { return n + 1, nil }, workflow.StepOptions{Mode: workflow.Sandboxed})
	var log logged
	f.start(worker.Config{Workflows: []*workflow.Definition{defines(boxed.Run, boxed)}, Backends: []sandbox.Backend{engine}, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	f.parksAs(f.enqueue(1).ID, "no_backend")
	ln, err := net.Listen("unix", later)
	if err != nil {
		t.Fatal(err)
	}
	broken := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, `{"message":"out of order"}`, http.StatusInternalServerError)
	})}
	go func() { _ = broken.Serve(ln) }()
	defer broken.Close()
	eventually(t, "the log says what is wrong now", func() bool { return log.count("out of order") > 0 })
}

// What may be back by itself is tried again by any worker, later each time, but not while the run is paused. The step's
// attempts are not used up by it.
func TestParkedIsTriedAgain(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	dir := t.TempDir()
	t.Cleanup(func() { // only root may remove what an image has made
		_ = filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error { return errors.Join(err, os.Chmod(name, 0o700)) })
	})
	file := filepath.Join(dir, "image.tar")
	pictured := workflow.NewToolStep("pictured", func(_ context.Context, _ *sandbox.Sandbox, n int) (int, error) { return n + 1, nil },
		workflow.StepOptions{Mode: workflow.Sandboxed, Sandbox: sandbox.Spec{Image: file}, Retry: workflow.Retry{MaxAttempts: 1}})
	f.start(worker.Config{
		Workflows: []*workflow.Definition{defines(pictured.Run, pictured)},
		Backends:  []sandbox.Backend{local.New(local.Config{Program: sandboxtest.BuildProbe(t), Images: filepath.Join(dir, "images")})},
	})
	run := f.enqueue(1)
	due := func() {
		t.Helper()
		f.exec("UPDATE stepward.parked SET retry_at = clock_timestamp() WHERE retry_at IS NOT NULL")
	}
	for n := range 9 {
		if n > 0 {
			due()
		}
		eventually(t, fmt.Sprintf("it is parked %d times", n+1), func() bool {
			return f.count("SELECT count(*) FROM stepward.event e JOIN stepward.parked p USING (run_id) WHERE e.kind = 'run.parked'") == n+1
		})
		s := f.state(run.ID)
		if pause := s.RetryAt.Sub(s.Since).Round(time.Second); s.Reason != "image" || pause != 10*time.Second<<min(n, 6) {
			t.Errorf("%d: parked as %s, for %v", n, s.Reason, pause)
		}
		f.because(run.ID, "parked", "a worker tries it again at")
	}
	if err := f.client.Pause(t.Context(), run.ID); err != nil {
		t.Fatal(err)
	}
	due()
	if s := f.state(run.ID); !s.RetryAt.IsZero() || s.State != workflow.StateParked {
		t.Errorf("paused, it is %s, and tried again at %v", s.State, s.RetryAt)
	}
	if err := f.client.Resume(t.Context(), run.ID); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is parked again", func() bool { return f.state(run.ID).Reason == "image" })
	imagetest.Save(t, file, imagetest.Image{Layers: [][]byte{imagetest.Layer(t, imagetest.Dir("etc", 0o755))}})
	due()
	ends(t, f.client, run, 2)
}

// What executes beside a step that cannot begin goes on to its end before the run is parked, and does not begin anew with
// each try. A run that is canceled does not wait for it.
func TestParkedLeavesOthersToTheirEnd(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	var began, broken atomic.Int64
	release := make(chan struct{})
	slow := workflow.NewStep("slow", func(ctx context.Context, n int) (int, error) {
		began.Add(1)
		ends := release
		if n == 2 {
			ends = nil
		}
		select {
		case <-ends:
			return n, nil
		case <-ctx.Done():
			broken.Add(1)
			return 0, context.Cause(ctx)
		}
	}, workflow.StepOptions{})
	pictured := workflow.NewToolStep("pictured", func(_ context.Context, _ *sandbox.Sandbox, n int) (int, error) { return n + 1, nil },
		workflow.StepOptions{Mode: workflow.Sandboxed, Sandbox: sandbox.Spec{Image: filepath.Join(t.TempDir(), "none.tar")}})
	body := func(ctx workflow.Context, n int) (int, error) {
		beside := slow.Go(ctx, n)
		m, err := pictured.Run(ctx, n)
		k, serr := beside.Get(ctx)
		return m + k, errors.Join(err, serr)
	}
	alone := workflow.DurableWorkflow[int, int]{Name: "alone"}
	f.start(worker.Config{
		Workflows: []*workflow.Definition{defines(body, slow, pictured), workflow.Define(alone, pictured.Run, workflow.Options{Steps: []workflow.Declared{pictured}})},
		Backends:  []sandbox.Backend{local.New(local.Config{Program: sandboxtest.BuildProbe(t)})},
	})
	both := f.enqueue(1)
	eventually(t, "the other step executes", func() bool { return began.Load() == 1 })
	parks := func() { // a run with the one step alone; as long as that takes, the other would have been parked, too
		t.Helper()
		run, err := alone.Enqueue(t.Context(), f.client, 1, workflow.EnqueueOptions{})
		if err != nil {
			t.Fatal(err)
		}
		f.parksAs(run.ID, "image")
	}
	parks()
	if s := f.state(both.ID); s.State != workflow.StateRunning || broken.Load() > 0 {
		t.Errorf("the run is %s, and its other step was interrupted %d times", s.State, broken.Load())
	}
	close(release)
	f.parksAs(both.ID, "image")
	if n := f.count("SELECT count(*) FROM stepward.step WHERE run_id = $1", both.ID); n != 1 {
		t.Errorf("%d steps are on record", n)
	}
	f.exec("UPDATE stepward.parked SET retry_at = clock_timestamp() WHERE run_id = $1", both.ID)
	eventually(t, "it is parked again", func() bool {
		return f.count("SELECT count(*) FROM stepward.event e JOIN stepward.parked p USING (run_id) WHERE run_id = $1 AND e.kind = 'run.parked'", both.ID) == 2
	})
	if n := began.Load(); n != 1 {
		t.Errorf("the other step began %d times", n)
	}
	canceled := f.enqueue(2)
	eventually(t, "the other step executes", func() bool { return began.Load() == 2 })
	parks()
	if err := f.client.Cancel(t.Context(), canceled.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := canceled.Result(t.Context()); !errors.Is(err, workflow.ErrCanceled) {
		t.Errorf("got %v", err)
	}
}

// An image that is not there parks the run, and names it.
func TestMissingImageParks(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	engine := docker.New(docker.Config{Host: testenv.Docker(t), Program: sandboxtest.BuildProbe(t), NoPull: true})
	t.Cleanup(func() {
		if err := engine.Close(); err != nil {
			t.Error(err)
		}
	})
	pictured := workflow.NewStep("pictured", keepIt, workflow.StepOptions{Mode: workflow.Sandboxed, Sandbox: sandbox.Spec{Image: "stepward.invalid/none:1"}})
	f.start(worker.Config{Workflows: []*workflow.Definition{defines(passes(double, pictured), double, pictured)}, Backends: []sandbox.Backend{engine}})
	run, err := changing.Enqueue(t.Context(), f.client, 21, workflow.EnqueueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if s := f.parksAs(run.ID, "image"); !strings.Contains(s.Err.Message, "stepward.invalid/none:1") {
		t.Errorf("got %q", s.Err.Message)
	}
	if n := f.count("SELECT count(*) FROM stepward.step"); n != 1 {
		t.Errorf("%d steps are on record", n)
	}
	eventually(t, "its sandbox is not on record as there", func() bool {
		return f.count("SELECT count(*) FROM stepward.sandbox WHERE destroyed_at IS NULL") == 0
	})
}
