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
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
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
	look := f.search(name, cfg.Engine)
	started := 0
	begin := func() *process {
		started++
		c := cfg
		c.Name = fmt.Sprint("victim-", started)
		return f.startVictim(c, "")
	}
	victims := []*process{begin(), begin(), begin()}
	made := func() int { return f.count("SELECT count(*) FROM stepward.sandbox") }
	for n := 0; n < *swarmSize; {
		next := n + 1 + rand.IntN(max(*swarmSize/8, 1))
		eventually(t, fmt.Sprintf("%d sandboxes are on record", next), func() bool { n = made(); return n >= next })
		look.note()
		i := rand.IntN(len(victims))
		victims[i].signal(syscall.SIGKILL)
		victims[i].diedOf(syscall.SIGKILL)
		victims[i] = begin()
	}
	there := []string{"row", "cgroup", "process"}
	if name == docker.Name {
		there = append(there, "folder", "container")
	}
	eventually(t, fmt.Sprintf("the search finds of sandboxes that are there each %s", there), func() bool {
		look.note()
		return finds(look.remains(), there...)
	})
	if name == docker.Name {
		look.findsPlanted()
	}
	for _, p := range victims {
		p.signal(syscall.SIGKILL)
		p.diedOf(syscall.SIGKILL)
	}
	look.note()
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
		if left = look.remains(); len(left) == 0 || time.Now().After(bound) {
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
	t.Logf("%d sandboxes, %d workers killed", look.sandboxes, started)
}

// A search looks for what the sandboxes of a fixture have left on the host.
type search struct {
	f         *fixture
	api       *client.Client // nil without an engine
	sandboxes int

	mu    sync.Mutex
	known map[string]bool // ids of sandboxes, and what the engine calls their containers
	used  map[string]bool // volumes and networks of such containers
	ended error           // why nothing more is heard of the engine
}

// search begins to listen to the engine: a container that is gone is in no list any more.
func (f *fixture) search(backend, engine string) *search {
	f.t.Helper()
	s := &search{f: f, known: map[string]bool{}, used: map[string]bool{}}
	if backend != docker.Name {
		return s
	}
	api, err := client.New(client.WithHost(engine))
	if err != nil {
		f.t.Fatal(err)
	}
	s.api = api
	ctx, cancel := context.WithCancel(f.t.Context())
	heard := api.Events(ctx, client.EventsListOptions{})
	var listening sync.WaitGroup
	listening.Go(func() { s.listen(heard) })
	f.t.Cleanup(func() {
		cancel()
		listening.Wait()
		api.Close()
	})
	return s
}

func (s *search) listen(heard client.EventsResult) {
	for {
		select {
		case e := <-heard.Messages:
			s.mu.Lock()
			switch about := e.Actor.Attributes; {
			case e.Type == events.ContainerEventType && e.Action == events.ActionCreate && about["stepward.schema"] == s.f.schema:
				s.known[e.Actor.ID] = true
			case e.Type == events.VolumeEventType && e.Action == events.ActionMount && s.known[about["container"]],
				e.Type == events.NetworkEventType && e.Action == events.ActionConnect && s.known[about["container"]]:
				s.used[e.Actor.ID] = true
			}
			s.mu.Unlock()
		case err := <-heard.Err:
			s.mu.Lock()
			s.ended = err
			s.mu.Unlock()
			return
		}
	}
}

// note remembers the ids that are on record: those that nobody has used leave it.
func (s *search) note() {
	s.f.t.Helper()
	rows, err := s.f.pool.Query(s.f.t.Context(), s.f.sql("SELECT id FROM stepward.sandbox"))
	if err != nil {
		s.f.t.Fatal(err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		s.f.t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range ids {
		if !s.known[id] {
			s.known[id] = true
			s.sandboxes++
		}
	}
}

// names reports whether a text has the name of a sandbox, or of its container.
func (s *search) names(text string) bool {
	for id := range s.known {
		if strings.Contains(text, id) {
			return true
		}
	}
	return false
}

// remains looks for rows, cgroups, mounts, folders, processes in a cgroup, containers,
// volumes and networks. Each is told with its kind first.
func (s *search) remains() (left []string) {
	t := s.f.t
	t.Helper()
	if n := s.f.count("SELECT count(*) FROM stepward.sandbox WHERE destroyed_at IS NULL"); n > 0 {
		left = append(left, fmt.Sprintf("row: %d", n))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for root, kind := range map[string]string{"/sys/fs/cgroup": "cgroup", os.TempDir(): "folder"} {
		_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error { // what is being removed by others is no matter
			if err != nil {
				return nil //nolint:nilerr // it is gone
			}
			if s.names(path) {
				left = append(left, kind+": "+path)
				return fs.SkipDir
			}
			if kind == "folder" && strings.Count(strings.TrimPrefix(path, root), "/") > 2 && d.IsDir() {
				return fs.SkipDir
			}
			return nil
		})
	}
	for pattern, kind := range map[string]string{"/proc/self/mountinfo": "mount", "/proc/[0-9]*/cgroup": "process"} {
		all, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range all {
			if text, err := os.ReadFile(path); err == nil && s.names(string(text)) {
				left = append(left, kind+": "+path)
			}
		}
	}
	if s.api == nil {
		return left
	}
	if s.ended != nil {
		t.Fatalf("the engine is not heard any more: %v", s.ended)
	}
	containers, err := s.api.ContainerList(t.Context(), client.ContainerListOptions{All: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range containers.Items {
		if s.known[c.ID] || s.names(fmt.Sprint(c.Names, c.Labels)) {
			left = append(left, fmt.Sprint("container: ", c.Names))
		}
	}
	volumes, err := s.api.VolumeList(t.Context(), client.VolumeListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range volumes.Items {
		if v.Labels["stepward.runner"] == "" && (s.used[v.Name] || s.names(fmt.Sprint(v.Name, v.Labels))) { // that of the tool runner is all sandboxes'
			left = append(left, "volume: "+v.Name)
		}
	}
	networks, err := s.api.NetworkList(t.Context(), client.NetworkListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range networks.Items {
		if !container.NetworkMode(n.Name).IsNone() && (s.used[n.ID] || s.names(fmt.Sprint(n.Name, n.Labels))) { // none is the engine's own
			left = append(left, "network: "+n.Name)
		}
	}
	return left
}

// finds reports whether something of each kind is left.
func finds(left []string, kinds ...string) bool {
	return !slices.ContainsFunc(kinds, func(kind string) bool {
		return !slices.ContainsFunc(left, func(what string) bool { return strings.HasPrefix(what, kind+": ") })
	})
}

// findsPlanted is the control for what no sandbox has while all is well: a container
// that goes and leaves a volume without a label, and a network.
func (s *search) findsPlanted() {
	t := s.f.t
	t.Helper()
	ctx := t.Context()
	if left := s.remains(); finds(left, "volume") || finds(left, "network") {
		t.Errorf("a sandbox has a volume or a network: %q", left)
	}
	var running client.ContainerListResult
	eventually(t, "a sandbox runs", func() bool {
		var err error
		running, err = s.api.ContainerList(ctx, client.ContainerListOptions{Filters: client.Filters{}.Add("label", "stepward.schema="+s.f.schema)})
		return err == nil && len(running.Items) > 0
	})
	name := "planted-" + s.f.schema
	link, err := s.api.NetworkCreate(ctx, name, client.NetworkCreateOptions{Driver: "bridge", Internal: true})
	if err != nil {
		t.Fatal(err)
	}
	made, err := s.api.ContainerCreate(ctx, client.ContainerCreateOptions{Name: name, Config: &container.Config{
		Image: running.Items[0].ImageID, Entrypoint: []string{"/none"},
		Labels: map[string]string{"stepward.schema": s.f.schema}, Volumes: map[string]struct{}{"/planted": {}},
	}, HostConfig: &container.HostConfig{NetworkMode: container.NetworkMode(name)}})
	if err != nil {
		t.Fatal(err)
	}
	about, err := s.api.ContainerInspect(ctx, made.ID, client.ContainerInspectOptions{})
	if err != nil || len(about.Container.Mounts) != 1 {
		t.Fatalf("%+v, %v", about.Container.Mounts, err)
	}
	volume := about.Container.Mounts[0].Name
	if _, err := s.api.ContainerStart(ctx, made.ID, client.ContainerStartOptions{}); err == nil {
		t.Error("a program that is not there was started")
	}
	if _, err := s.api.ContainerRemove(ctx, made.ID, client.ContainerRemoveOptions{Force: true}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the search finds a volume and a network that were left", func() bool {
		left := s.remains()
		return slices.Contains(left, "volume: "+volume) && slices.Contains(left, "network: "+name)
	})
	if _, err := s.api.VolumeRemove(ctx, volume, client.VolumeRemoveOptions{}); err != nil {
		t.Error(err)
	}
	if _, err := s.api.NetworkRemove(ctx, link.ID, client.NetworkRemoveOptions{}); err != nil {
		t.Error(err)
	}
}
