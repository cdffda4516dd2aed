package docker

import (
	"os"
	"testing"

	"github.com/stepward/stepward/internal/testenv"
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
	return New(Config{Host: testenv.Docker(t), Program: sandboxtest.BuildProbe(t)})
}

func TestBackend(t *testing.T) {
	sandboxtest.TestBackend(t, backend(t), sandboxtest.Options{})
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
