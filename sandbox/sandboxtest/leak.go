//go:build linux

package sandboxtest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stepward/stepward/sandbox"
)

// TestLeak looks in sandboxes for what belongs to another one, or to the worker.
func TestLeak(t *testing.T, b sandbox.Backend, o Options) {
	if _, ok := b.(sandbox.Invoker); ok {
		t.Setenv("SUITE_LEAK", workerSecret())
		t.Run("worker", func(t *testing.T) { testWorkerEnvironment(t, start(t, bounded(t), b, sandbox.Options{Spec: o.Spec})) })
		return
	}
	t.Setenv("SUITE_LEAK", workerSecret()) // before there is a sandbox
	first := sandbox.Options{Spec: o.Spec, ID: fmt.Sprintf("successor-%d", os.Getpid())}
	first.Spec.Network.Allow = []string{"ok.test"}
	a := share(t, b, first)
	a.run("neighbours", func(t *testing.T, a *sandbox.Sandbox) { testNeighbours(t, b, o, a) })
	a.run("worker", testWorkerEnvironment)
	a.run("successor", func(t *testing.T, a *sandbox.Sandbox) { testSuccessor(t, b, o, a) }) // the last: it destroys a
}

func workerSecret() string { return fmt.Sprintf("worker-secret-%d", os.Getpid()) }

// sharedKey is the key of a piece of shared memory.
const sharedKey = "19771205"

// testNeighbours has one sandbox look for what another has made, while both run.
func testNeighbours(t *testing.T, b sandbox.Backend, o Options, a *sandbox.Sandbox) {
	canary := fmt.Sprintf("tenant-%d", os.Getpid())
	c := a.Command(program, verbPrefix+"hang", canary)
	c.Env = []string{"KEY=" + canary}
	defer hanging(t, a, c)()
	l := a.Command(program, verbPrefix+"listen", "@"+canary, "127.0.0.1:7007")
	defer hanging(t, a, l)()
	for _, name := range []string{"/workspace/" + canary, "/tmp/" + canary} {
		if err := a.WriteFile(bounded(t), name, []byte(canary), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	proxy := ""
	for line := range strings.Lines(run(t, a, "env")) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "https_proxy=http://"); ok {
			proxy = v
		}
	}
	probes := [][]string{
		{"process", canary}, {"environ", canary}, {"stat", "/workspace/" + canary}, {"stat", "/tmp/" + canary},
		{"connect", "127.0.0.1:7007"}, {"connect", proxy}, {"socket", "@" + canary}, {"memory", sharedKey},
	}
	if got := found(t, a, "shared", sharedKey)[sharedKey]; got != "yes" {
		t.Logf("no memory can be shared: %s", got)
		probes = probes[:len(probes)-1]
	}
	other := start(t, bounded(t), b, sandbox.Options{Spec: o.Spec}) // after what it must not get
	for _, p := range probes {
		// The probe can tell, except of what commands of one sandbox hide from each other.
		if got := run(t, a, p[0], p[1:]...); got != "yes" && p[0] != "environ" && p[0] != "socket" {
			t.Errorf("%v, where it is: %s", p, got)
		}
		got := run(t, other, p[0], p[1:]...)
		t.Logf("%v: %s", p, got)
		if got == "yes" {
			t.Errorf("another sandbox has %v", p)
		}
	}
}

// testSuccessor looks in a sandbox for what the one before it has left, under the
// same name too.
func testSuccessor(t *testing.T, b sandbox.Backend, o Options, first *sandbox.Sandbox) {
	id := first.ID()
	left := []string{"/workspace/.envrc", "/workspace/.git/hooks/pre-commit", "/workspace/.git/config", "/tmp/.npmrc", "/tmp/.git-credentials"}
	for _, name := range left {
		if err := first.WriteFile(bounded(t), name, []byte("planted"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	listed := strings.Fields(run(t, first, "list", sandbox.Workspace, "/tmp")) // the control
	for _, name := range left {
		top := strings.Join(strings.Split(name, "/")[:3], "/")
		if got, err := first.ReadFile(bounded(t), name); err != nil || string(got) != "planted" || !slices.Contains(listed, top) {
			t.Errorf("%s, where it is: %q, %v, among %q", name, got, err, listed)
		}
	}
	if err := first.Destroy(bounded(t)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{id, ""} {
		next := start(t, bounded(t), b, sandbox.Options{Spec: o.Spec, ID: name})
		for _, file := range left {
			if _, err := next.ReadFile(bounded(t), file); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s is there: %v", file, err)
			}
		}
		files := strings.Fields(run(t, next, "list", sandbox.Workspace, "/tmp"))
		own := func(name string) bool { return name == program || strings.HasPrefix(name, sandbox.Workspace+"/.init-") }
		if files = slices.DeleteFunc(files, own); len(files) > 0 {
			t.Errorf("a new sandbox has %q", files)
		}
	}
}

// testWorkerEnvironment looks for the worker's variables wherever a program in the
// sandbox could have them from, and in all processes that this user may look at.
func testWorkerEnvironment(t *testing.T, s *sandbox.Sandbox) {
	secret := workerSecret()
	if got := run(t, s, "environ", secret); got == "yes" {
		t.Error("a process has the worker's environment")
	}
	environments, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range environments {
		if raw, err := os.ReadFile(name); err == nil && strings.Contains(string(raw), secret) {
			t.Errorf("%s has the worker's environment", name)
		}
	}
	guest, err := s.Guest(bounded(t), sandbox.GuestStep{Step: "environ"})
	if err != nil {
		t.Fatal(err)
	}
	for what, env := range map[string]string{"a command": run(t, s, "env"), "a guest step": string(guest)} {
		if strings.Contains(env, secret) || strings.Contains(env, "TOKEN") {
			t.Errorf("%s has %s", what, env)
		}
	}
}
