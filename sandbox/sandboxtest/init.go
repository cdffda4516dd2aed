package sandboxtest

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stepward/stepward/internal/runner"
	_ "github.com/stepward/stepward/internal/runner/early" // serves before main
)

// EnvProbe names a probe that was built already, for a test that runs as a user
// who cannot build it.
const EnvProbe = "STEPWARD_TEST_PROBE"

// verbPrefix begins the first argument of a command of the suite.
const verbPrefix = "probe:"

// Init serves as the tool runner, a guest or a command of the suite if this
// process was started as one, and does not return then.
func Init() {
	runner.Main(guest)
	if len(os.Args) > 1 && len(os.Args[1]) > len(verbPrefix) && os.Args[1][:len(verbPrefix)] == verbPrefix {
		os.Exit(command(os.Args[1][len(verbPrefix):], os.Args[2:]))
	}
}

var probe struct {
	sync.Mutex
	data []byte
}

// BuildProbe builds the static program of the suite and returns its path. It is
// built once per test process, and removed with the test that asked.
func BuildProbe(t testing.TB) string {
	t.Helper()
	probe.Lock()
	defer probe.Unlock()
	path := filepath.Join(t.TempDir(), "probe")
	if built := os.Getenv(EnvProbe); built != "" {
		return built
	}
	if probe.data == nil {
		cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", path,
			"github.com/stepward/stepward/sandbox/sandboxtest/probe")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("build the probe: %v\n%s", err, out)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		probe.data = data
	}
	// Not by this process: another goroutine may fork one that keeps the file busy.
	cmd := exec.Command("install", "-m", "755", "/dev/stdin", path)
	cmd.Stdin = bytes.NewReader(probe.data)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("copy the probe: %v\n%s", err, out)
	}
	return path
}
