package local_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stepward/stepward/sandbox/local"
	"github.com/stepward/stepward/sandbox/sandboxtest"
)

func TestMain(m *testing.M) {
	sandboxtest.Init()
	os.Exit(m.Run())
}

// backend uses the static program: with the race detector, this one takes 20
// times as long to start, and it is started for each command.
func backend(t *testing.T) *local.Backend {
	return local.New(local.Config{Program: sandboxtest.BuildProbe(t)})
}

func TestBackend(t *testing.T) {
	sandboxtest.TestBackend(t, backend(t), sandboxtest.Options{})
}

func TestLayers(t *testing.T) {
	sandboxtest.TestLayers(t, backend(t), sandboxtest.Options{})
}

// The suite again, as a user who may do nothing special.
func TestOrdinaryUser(t *testing.T) {
	if os.Getuid() != 0 {
		return // then the other tests were run by one
	}
	const nobody = 65534
	probe := sandboxtest.BuildProbe(t)
	for dir := filepath.Dir(probe); dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	c := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^(TestBackend|TestLayers|TestDefaults)$", "-test.v")
	c.Dir = "/"
	c.Env = append(os.Environ(), sandboxtest.EnvProbe+"="+probe, "HOME=/nonexistent")
	c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	out, err := c.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatal(err)
	}
}
