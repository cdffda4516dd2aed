//go:build unix

package worker_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/moby/moby/client"

	"github.com/stepward/stepward/internal/testenv"
	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/sandbox/docker"
	"github.com/stepward/stepward/sandbox/local"
	"github.com/stepward/stepward/sandbox/sandboxtest"
	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

// swarmSize is how many sandboxes TestNoSandboxIsLeft has made; 500 take minutes.
var swarmSize = flag.Int("swarm", 24, "sandboxes that TestNoSandboxIsLeft makes on each backend")

var (
	swarm = workflow.DurableWorkflow[int, int]{Name: "swarm"}

	// placeSwarm leaves a command with daemons behind, for whoever ends the sandbox.
	placeSwarm  = swarms("swarm", false)
	shareSwarm  = swarms("share", true)
	swarmLimits = sandbox.Limits{Memory: 128 << 20, PIDs: 64}

	swarmV1 = workflow.Define(swarm, func(ctx workflow.Context, n int) (int, error) {
		for range 2 {
			shareSwarm.Go(ctx, 0)
		}
		_, err := workflow.Map(ctx, make([]int, n), placeSwarm, workflow.MapOptions{Limit: 16})
		return n, err
	}, workflow.Options{Version: "1", Steps: []workflow.Declared{placeSwarm, shareSwarm}})
)

func swarms(name string, share bool) *workflow.Step[int, int] {
	return workflow.NewToolStep(name, func(ctx context.Context, sb *sandbox.Sandbox, i int) (int, error) {
		c := sb.Command("/bin/sh", "-c", "for i in 1 2 3; do setsid sleep 1000 & done; echo there; exec sleep 1000")
		if sb.Backend() == docker.Name {
			c = sb.Command(docker.ProgramPath, "probe:daemons", "3", "stay")
		}
		said := make(chan struct{})
		c.Stdout = closes{said}
		if err := c.Start(ctx); err != nil {
			return 0, err
		}
		select {
		case <-said:
			return i, nil
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}, workflow.StepOptions{Mode: workflow.Sandboxed, Sandbox: sandbox.Spec{Limits: swarmLimits, Share: share}})
}

// closes closes a channel at the first write.
type closes struct{ c chan struct{} }

func (c closes) Write(p []byte) (int, error) {
	select {
	case <-c.c:
	default:
		close(c.c)
	}
	return len(p), nil
}

func swarmBackend(name, engine, program string) sandbox.Backend {
	if name == docker.Name {
		return docker.New(docker.Config{Host: engine, Program: program})
	}
	return local.New(local.Config{Program: program})
}

// Workers are killed at random while they make sandboxes, some of them ahead of need.
// Within a minute nothing of these is left on the host: looked for from outside.
func TestNoSandboxIsLeft(t *testing.T) {
	t.Setenv(sandboxtest.EnvProbe, sandboxtest.BuildProbe(t))
	for _, name := range []string{local.Name, docker.Name} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testSwarm(t, name)
		})
	}
}

func testSwarm(t *testing.T, name string) {
	f := newFixture(t)
	cfg := victimConfig{Swarm: name, LeaseTTL: time.Second, Warm: worker.Warm{Min: 1, Max: 2}}
	if name == docker.Name {
		cfg.Engine = testenv.Docker(t)
	}
	var runs []workflow.Run[int]
	for range 3 {
		run, err := swarm.Enqueue(t.Context(), f.client, *swarmSize, workflow.EnqueueOptions{})
		if err != nil {
			t.Fatal(err)
		}
		runs = append(runs, run)
	}
	started := 0
	begin := func() *process {
		started++
		c := cfg
		c.Name = fmt.Sprint("victim-", started)
		return f.startVictim(c, "")
	}
	victims := []*process{begin(), begin(), begin()}
	made := func() int { return f.count("SELECT count(*) FROM stepward.sandbox") }
	ids := map[string]bool{}
	for n := 0; n < *swarmSize; {
		next := n + 1 + rand.IntN(max(*swarmSize/8, 1))
		eventually(t, fmt.Sprintf("%d sandboxes are on record", next), func() bool { n = made(); return n >= next })
		f.noteSandboxes(ids)
		i := rand.IntN(len(victims))
		victims[i].signal(syscall.SIGKILL)
		victims[i].diedOf(syscall.SIGKILL)
		victims[i] = begin()
	}
	eventually(t, "the search finds sandboxes that are there", func() bool {
		f.noteSandboxes(ids)
		return len(f.remains(name, cfg.Engine, ids)) > 1
	})
	for _, p := range victims {
		p.signal(syscall.SIGKILL)
		p.diedOf(syscall.SIGKILL)
	}
	f.noteSandboxes(ids)
	for _, run := range runs {
		var over *workflow.StateError
		if err := f.client.Terminate(t.Context(), run.ID); err != nil && !errors.As(err, &over) {
			t.Fatal(err)
		}
	}
	backend := swarmBackend(name, cfg.Engine, os.Getenv(sandboxtest.EnvProbe))
	if b, ok := backend.(*docker.Backend); ok {
		t.Cleanup(func() {
			if err := b.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	f.start(worker.Config{Name: "healthy", Workflows: []*workflow.Definition{swarmV1}, Backends: []sandbox.Backend{backend}})
	bound := time.Now().Add(time.Minute)
	var left []string
	for {
		if left = f.remains(name, cfg.Engine, ids); len(left) == 0 || time.Now().After(bound) {
			break
		}
		select {
		case <-t.Context().Done():
			return
		case <-time.After(100 * time.Millisecond): // looking costs a walk through /proc
		}
	}
	for _, what := range left {
		t.Errorf("left after a minute: %s", what)
	}
	t.Logf("%d sandboxes, %d workers killed", len(ids), started)
}

// noteSandboxes remembers the ids that are on record: those that nobody has used leave it.
func (f *fixture) noteSandboxes(ids map[string]bool) {
	f.t.Helper()
	rows, err := f.pool.Query(f.t.Context(), f.sql("SELECT id FROM stepward.sandbox"))
	if err != nil {
		f.t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			f.t.Fatal(err)
		}
		ids[id] = true
	}
	if err := rows.Err(); err != nil {
		f.t.Fatal(err)
	}
}

// remains looks for what sandboxes have left: rows, cgroups, mounts, folders, containers,
// volumes, and processes that are in a cgroup or a container of one.
func (f *fixture) remains(backend, engine string, ids map[string]bool) (left []string) {
	f.t.Helper()
	if n := f.count("SELECT count(*) FROM stepward.sandbox WHERE destroyed_at IS NULL"); n > 0 {
		left = append(left, fmt.Sprintf("%d rows", n))
	}
	names := func(path string) bool {
		_, after, _ := strings.Cut(path, "stepward-")
		for id := range ids {
			if strings.Contains(after, id) {
				return true
			}
		}
		return false
	}
	for _, root := range []string{"/sys/fs/cgroup", os.TempDir()} {
		_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error { // what is being removed by others is no matter
			if err != nil {
				return nil //nolint:nilerr // it is gone
			}
			if names(path) {
				left = append(left, path)
				return fs.SkipDir
			}
			if root != "/sys/fs/cgroup" && strings.Count(strings.TrimPrefix(path, root), "/") > 2 && d.IsDir() {
				return fs.SkipDir
			}
			return nil
		})
	}
	for _, file := range []string{"/proc/self/mountinfo", "/proc/[0-9]*/cgroup"} {
		all, err := filepath.Glob(file)
		if err != nil {
			f.t.Fatal(err)
		}
		for _, path := range all {
			if text, err := os.ReadFile(path); err == nil && names(string(text)) {
				left = append(left, path)
			}
		}
	}
	if backend != docker.Name {
		return left
	}
	api, err := client.New(client.WithHost(engine))
	if err != nil {
		f.t.Fatal(err)
	}
	defer api.Close()
	all, err := api.ContainerList(f.t.Context(), client.ContainerListOptions{All: true})
	if err != nil {
		f.t.Fatal(err)
	}
	for _, c := range all.Items {
		for _, n := range c.Names {
			for id := range ids {
				if strings.Contains(n, id) {
					left = append(left, "container "+n)
				}
			}
		}
	}
	return left
}
