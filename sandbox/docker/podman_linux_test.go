package docker

import (
	"testing"

	"github.com/stepward/stepward/internal/testenv"
	"github.com/stepward/stepward/sandbox/sandboxtest"
)

// podman is a backend whose engine is Podman.
func podman(t *testing.T) *Backend {
	t.Helper()
	return informed(t, Config{Host: testenv.Podman(t), Program: sandboxtest.BuildProbe(t), NoPull: true})
}

func TestPodmanBackend(t *testing.T) {
	b := podman(t)
	sandboxtest.TestBackend(t, b, sandboxtest.Options{Show: b.shows})
}

func TestPodmanEgress(t *testing.T) {
	sandboxtest.TestEgress(t, podman(t), sandboxtest.Options{})
}

func TestPodmanLayers(t *testing.T) {
	sandboxtest.TestLayers(t, podman(t), sandboxtest.Options{})
}

func TestPodmanEscape(t *testing.T) {
	sandboxtest.TestEscape(t, podman(t), sandboxtest.Options{})
}

func TestPodmanLeak(t *testing.T) {
	sandboxtest.TestLeak(t, podman(t), sandboxtest.Options{})
}

func TestPodmanByExec(t *testing.T) {
	b := podman(t)
	b.noBind = true
	testImageVolumes(t, b)
}

func TestPodmanMovedTag(t *testing.T) { testMovedTag(t, podman(t)) }

func TestPodmanCommandOutlivesWorker(t *testing.T) { testCommandOutlivesWorker(t, podman(t)) }

func TestPodmanInspectShowsNothing(t *testing.T) { testInspectShowsNothing(t, podman(t)) }

func TestPodmanHelperOfDeadProcess(t *testing.T) { testHelperOfDeadProcess(t, podman) }
