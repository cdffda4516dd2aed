package docker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/moby/moby/client"

	"github.com/stepward/stepward/internal/testenv"
	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/sandbox/sandboxtest"
)

func TestMain(m *testing.M) {
	sandboxtest.Init()
	os.Exit(m.Run())
}

// backend is one whose tool runner is the suite's static program: this test
// program is not static under -race.
func backend(t *testing.T) *Backend {
	t.Helper()
	return informed(t, Config{Host: testenv.Docker(t), Program: sandboxtest.BuildProbe(t), NoPull: true})
}

// findings are what was found out about engines, by address and runtime.
var findings sync.Map

// informed returns a backend that knows what another test found out about its engine. It
// would make a sandbox to find that out; [Backend.Probe] does so all the same.
func informed(t *testing.T, c Config) *Backend {
	b, key := New(c), [2]string{c.Host, c.Runtime}
	if f, ok := findings.Load(key); ok {
		b.found = f.(*found)
	}
	t.Cleanup(func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.found != nil {
			findings.Store(key, b.found)
		}
	})
	return b
}

func TestBackend(t *testing.T) {
	b := backend(t)
	sandboxtest.TestBackend(t, b, sandboxtest.Options{Show: b.shows})
}

// shows returns what an engine tells of a container, and the files that an image of it would have.
func (b *Backend) shows(t *testing.T, id string) []byte {
	t.Helper()
	name := containerName(id)
	about, err := b.api.ContainerInspect(t.Context(), name, client.ContainerInspectOptions{Size: true})
	if err != nil {
		t.Fatal(err)
	}
	columns := []string{"-eo", "pid,args"}
	if b.engine.podman { // which would look for ps in the image
		columns = columns[1:]
	}
	processes, err := b.api.ContainerTop(t.Context(), name, client.ContainerTopOptions{Arguments: columns})
	if err != nil {
		t.Fatal(err)
	}
	changes, err := b.api.ContainerDiff(t.Context(), name, client.ContainerDiffOptions{})
	if err != nil {
		t.Fatal(err)
	}
	shown, err := json.Marshal([]any{about, processes, changes})
	if err != nil {
		t.Fatal(err)
	}
	image, err := b.api.ContainerExport(t.Context(), name, client.ContainerExportOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer image.Close()
	files, err := io.ReadAll(image)
	if err != nil || !bytes.Contains(files, []byte("ustar")) {
		t.Fatalf("%d bytes of files, %v", len(files), err)
	}
	return append(shown, files...)
}

// The suite again, over docker exec, as with a remote engine.
func TestBackendByExec(t *testing.T) {
	b := backend(t)
	b.noBind = true
	sandboxtest.TestBackend(t, b, sandboxtest.Options{})
}

func TestEgress(t *testing.T) {
	sandboxtest.TestEgress(t, backend(t), sandboxtest.Options{})
}

func TestEgressByExec(t *testing.T) {
	b := backend(t)
	b.noBind = true
	sandboxtest.TestEgress(t, b, sandboxtest.Options{})
}

// Without userns-remap the id of a sandbox is the host's 10001: what keeps it
// from others' files is that it is not 0, so that is what is switched off.
func TestLayers(t *testing.T) {
	sandboxtest.TestLayers(t, backend(t), sandboxtest.Options{})
}

func TestEscape(t *testing.T) {
	sandboxtest.TestEscape(t, backend(t), sandboxtest.Options{})
}

func TestInodes(t *testing.T) {
	sandboxtest.TestInodes(t, backend(t), sandboxtest.Options{})
}

func TestLeak(t *testing.T) {
	sandboxtest.TestLeak(t, backend(t), sandboxtest.Options{})
}

// gvisor is a backend with gVisor for the kernel of its sandboxes.
func gvisor(t *testing.T) *Backend {
	t.Helper()
	return informed(t, Config{Host: testenv.GVisor(t), Program: sandboxtest.BuildProbe(t), Runtime: testenv.GVisorRuntime, NoPull: true})
}

// What the engine does not know is named, with what it does.
func TestUnknownRuntime(t *testing.T) {
	b := backend(t)
	b.config.Runtime = "none-such"
	var ue *sandbox.UnavailableError
	if _, err := b.Probe(t.Context()); !errors.As(err, &ue) || !strings.Contains(ue.Reason, `"none-such"`) || !strings.Contains(ue.Reason, "daemon.json") {
		t.Errorf("a runtime that the engine does not have: %v", err)
	}
}

// A sandbox says that it is in gVisor, and is; one that is not cannot be had for it.
func TestGVisorIsolation(t *testing.T) {
	b := gvisor(t)
	caps, err := b.Probe(t.Context())
	if err != nil || caps.Isolation != "gvisor" || caps.PIDs || caps.Memory || caps.Landlock != 0 || !caps.Seccomp {
		t.Errorf("%+v, %v", caps, err)
	}
	s, err := sandbox.Start(t.Context(), b, sandbox.Options{Spec: sandbox.Spec{Require: sandbox.Require{Isolation: "gvisor", Seccomp: true}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Destroy(context.Background()) })
	if version, err := s.ReadFile(t.Context(), "/proc/version"); err != nil || !strings.Contains(string(version), "4.4.0") { // as gVisor says
		t.Errorf("%s, %v", version, err)
	}
	var ue *sandbox.UnsupportedError
	if _, err := sandbox.Start(t.Context(), backend(t), sandbox.Options{Spec: sandbox.Spec{Require: sandbox.Require{Isolation: "gvisor"}}}); !errors.As(err, &ue) || ue.Field != "Require.Isolation" {
		t.Errorf("gVisor was demanded of another runtime: %v", err)
	}
}

func TestGVisorBackend(t *testing.T) {
	b := gvisor(t)
	sandboxtest.TestBackend(t, b, sandboxtest.Options{Show: b.shows})
}

func TestGVisorEgress(t *testing.T) {
	sandboxtest.TestEgress(t, gvisor(t), sandboxtest.Options{})
}

func TestGVisorLayers(t *testing.T) {
	sandboxtest.TestLayers(t, gvisor(t), sandboxtest.Options{})
}

func TestGVisorEscape(t *testing.T) {
	sandboxtest.TestEscape(t, gvisor(t), sandboxtest.Options{})
}

func TestGVisorLeak(t *testing.T) {
	sandboxtest.TestLeak(t, gvisor(t), sandboxtest.Options{})
}
