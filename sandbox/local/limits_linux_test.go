package local_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stepward/stepward/internal/testenv"
	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/sandbox/local"
)

func TestDefaults(t *testing.T) {
	b := local.New(local.Config{})
	caps, err := b.Probe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !caps.Images || caps.Persistent || !caps.PIDs || !caps.Disk {
		t.Errorf("capabilities: %+v", caps)
	}
	for _, c := range []struct {
		field string
		able  bool
		spec  sandbox.Spec
	}{
		{"Limits.Memory", caps.Memory, sandbox.Spec{Limits: sandbox.Limits{Memory: 256 << 20}}},
		{"Limits.CPU", caps.CPU, sandbox.Spec{Limits: sandbox.Limits{CPU: 1}}},
		{"Limits.Disk", true, sandbox.Spec{Limits: sandbox.Limits{Disk: 1 << 20}}},
	} {
		s, err := sandbox.Start(t.Context(), b, sandbox.Options{Spec: c.spec})
		if c.able {
			if err != nil {
				t.Errorf("%s: %v", c.field, err)
				continue
			}
			if err := s.Destroy(t.Context()); err != nil {
				t.Errorf("%s: %v", c.field, err)
			}
			continue
		}
		var ue *sandbox.UnsupportedError
		if !errors.As(err, &ue) || ue.Field != c.field {
			t.Errorf("%s: %v, want it refused", c.field, err)
		}
	}
}

func TestLimits(t *testing.T) {
	b := backend(t)
	caps, err := b.Probe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	limits := sandbox.Limits{Disk: 1 << 20, PIDs: 64}
	if caps.Memory {
		limits.Memory = 64 << 20
	}
	s, err := sandbox.Start(t.Context(), b, sandbox.Options{Spec: sandbox.Spec{Limits: limits}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Destroy(context.Background())
	for _, dir := range []string{"/workspace", "/tmp"} {
		if err := s.Command("head", "-c", "2M", "/dev/zero").Run(t.Context()); err != nil {
			t.Error(err)
		}
		if err := s.Command("sh", "-c", "head -c 2M /dev/zero > "+dir+"/big").Run(t.Context()); err == nil {
			t.Errorf("2 MiB fit into 1 MiB of %s", dir)
		}
		if err := s.Command("rm", dir+"/big").Run(t.Context()); err != nil {
			t.Error(err)
		}
	}
	for _, bomb := range []string{"for i in $(seq 100); do sleep 60 & done", "bomb() { bomb 2>/dev/null & bomb; }; bomb"} {
		err := s.Command("sh", "-c", bomb).Run(t.Context())
		if ee, ok := errors.AsType[*sandbox.ExitError](err); !ok || ee.Limit != "PIDs" || !strings.Contains(err.Error(), "64 processes, Limits.PIDs") {
			t.Errorf("more than 64 processes: %v, want the limit named", err)
		}
	}
	err = s.Command("sh", "-c", "sleep 60 & sleep 0 & wait $!; exit 3").Run(t.Context())
	if ee, ok := errors.AsType[*sandbox.ExitError](err); !ok || ee.Code != 3 || ee.Limit != "" {
		t.Errorf("few processes: %v, want no limit named", err)
	}
	err = s.Command("sh", "-c", "for i in $(seq 10); do sleep 60 & done; exit 3").Run(t.Context())
	if ee, ok := errors.AsType[*sandbox.ExitError](err); !ok || ee.Code != 3 || ee.Limit != "" {
		t.Errorf("a few more: %v, want no limit named", err)
	}
	if caps.Memory {
		if err := s.Command("sh", "-c", "x=$(head -c 100M /dev/zero | tr '\\0' x); echo ${#x}").Run(t.Context()); err == nil {
			t.Error("100 MB fit into 64 MiB of memory")
		}
	}
	if err := s.Command("true").Run(t.Context()); err != nil {
		t.Errorf("after the limits were met: %v", err)
	}
}

// A worker that is killed leaves no sandbox and no cgroup.
func TestKilledWorker(t *testing.T) {
	const limit = time.Minute // of a machine that is busy: it takes milliseconds
	if canary := os.Getenv("SUITE_WORKER"); canary != "" {
		s, err := sandbox.Start(t.Context(), local.New(local.Config{}), sandbox.Options{})
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		c := s.Command("sh", "-c", "setsid sleep "+canary+" & echo ready; wait")
		c.Stdout = os.Stdout
		c.Run(context.Background())
		return
	}
	c := exec.Command("/proc/self/exe", "-test.run=^TestKilledWorker$")
	canary := fmt.Sprintf("31536000.%d", os.Getpid())
	c.Env = append(os.Environ(), "SUITE_WORKER="+canary)
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	line, _ := bufio.NewReader(out).ReadString('\n')
	if line != "ready\n" {
		t.Fatalf("the worker said %q, and runs %v", line, processes(canary))
	}
	testenv.Eventually(t, "the command runs", func() bool { return len(processes(canary)) > 0 }) // the shell may be ahead of what it started
	begin := time.Now()
	c.Process.Kill()
	c.Wait()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for len(processes(canary)) > 0 {
		if time.Since(begin) > limit {
			t.Fatalf("processes %v outlived the worker", processes(canary))
		}
		<-tick.C
	}
	t.Logf("all gone after %v", time.Since(begin))
	for { // the namespace ends a moment after its processes
		if _, err := local.New(local.Config{}).List(t.Context(), ""); err != nil {
			t.Error(err)
		}
		var left []string
		for _, pattern := range []string{"/sys/fs/cgroup/", "/sys/fs/cgroup/*/", "/sys/fs/cgroup/*/*/*/"} {
			l, _ := filepath.Glob(pattern + fmt.Sprintf("stepward-%d.*", c.Process.Pid))
			left = append(left, l...)
		}
		if len(left) == 0 {
			return
		}
		if time.Since(begin) > limit {
			t.Fatalf("cgroups %v are left", left)
		}
		<-tick.C
	}
}

func processes(arg string) (out []string) {
	all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range all {
		raw, _ := os.ReadFile(f)
		if args := strings.Split(string(raw), "\x00"); len(args) > 1 && args[0] == "sleep" && args[1] == arg {
			out = append(out, f)
		}
	}
	return out
}
