package local_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stepward/stepward/internal/testenv"
	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/sandbox/local"
	"github.com/stepward/stepward/sandbox/sandboxtest"
)

// reportPercentiles reports p50 and the smallest, which a busy machine blurs less.
func reportPercentiles(b *testing.B, d []time.Duration) {
	slices.Sort(d)
	b.ReportMetric(float64(d[len(d)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(d[0].Microseconds())/1000, "min-ms")
	b.ReportMetric(0, "ns/op")
}

func BenchmarkExec(b *testing.B) {
	s, err := sandbox.Start(b.Context(), local.New(local.Config{Program: sandboxtest.BuildProbe(b)}), sandbox.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Destroy(b.Context())
	var took []time.Duration
	for b.Loop() {
		begin := time.Now()
		if err := s.Command("true").Run(b.Context()); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(begin))
	}
	reportPercentiles(b, took)
}

// BenchmarkCold is from nothing to the first output of a command.
func BenchmarkCold(b *testing.B) {
	back := local.New(local.Config{Program: sandboxtest.BuildProbe(b)})
	var took []time.Duration
	for b.Loop() {
		begin := time.Now()
		s, err := sandbox.Start(b.Context(), back, sandbox.Options{})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := s.Command("echo", "hello").Output(b.Context()); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(begin))
		s.Destroy(b.Context())
	}
	reportPercentiles(b, took)
}

// BenchmarkReady is from nothing to the answer to the first call.
func BenchmarkReady(b *testing.B) {
	back := local.New(local.Config{Program: sandboxtest.BuildProbe(b)})
	var took []time.Duration
	for b.Loop() {
		begin := time.Now()
		s, err := sandbox.Start(b.Context(), back, sandbox.Options{})
		if err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(begin))
		s.Destroy(b.Context())
	}
	reportPercentiles(b, took)
}

// BenchmarkBubblewrap starts the same program by bwrap, to its first output.
func BenchmarkBubblewrap(b *testing.B) {
	bwrap := testenv.Bubblewrap(b)
	program := sandboxtest.BuildProbe(b)
	args := []string{"--unshare-all", "--ro-bind", "/usr", "/usr", "--symlink", "usr/bin", "/bin", "--symlink", "usr/lib", "/lib",
		"--symlink", "usr/lib64", "/lib64", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--tmpfs", "/workspace",
		"--ro-bind", program, "/runner", "/runner", "probe:out", "0", "hello", ""}
	var took []time.Duration
	for b.Loop() {
		begin := time.Now()
		if out, err := exec.Command(bwrap, args...).Output(); err != nil || string(out) != "hello" {
			b.Fatalf("%q, %v", out, err)
		}
		took = append(took, time.Since(begin))
	}
	reportPercentiles(b, took)
}

// TestRunnerMemory bounds what an idle tool runner keeps for itself.
func TestRunnerMemory(t *testing.T) {
	if testing.CoverMode() != "" {
		t.Log("coverage counts, too")
	}
	back := local.New(local.Config{Program: sandboxtest.BuildProbe(t)})
	s, err := sandbox.Start(t.Context(), back, sandbox.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Destroy(t.Context())
	for range 20 {
		if err := s.Command("true").Run(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	files, _ := filepath.Glob("/proc/[0-9]*/status")
	name := regexp.MustCompile(`(?m)^PPid:\s+` + strconv.Itoa(os.Getpid()) + `$`)
	anon := regexp.MustCompile(`(?m)^RssAnon:\s+(\d+) kB$`)
	found := false
	for _, f := range files {
		raw, _ := os.ReadFile(f)
		if m := anon.FindSubmatch(raw); m != nil && name.Match(raw) {
			found = true
			kB, _ := strconv.Atoi(string(m[1]))
			t.Logf("anonymous memory of the runner: %d kB", kB)
			if kB > 8<<10 {
				t.Errorf("the idle runner keeps %d kB, more than 8 MiB", kB)
			}
		}
	}
	if !found {
		t.Error("no runner was found")
	}
}
