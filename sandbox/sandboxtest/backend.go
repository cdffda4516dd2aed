package sandboxtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/stepward/stepward/sandbox"
)

// Options adapt the suite to a backend.
type Options struct {
	Spec sandbox.Spec // of all sandboxes that the suite makes

	// Host is the address of this machine that a sandbox would reach if it had a
	// network. Defaults to 127.0.0.1, for sandboxes of this machine.
	Host string

	// Show returns all that the backend's engine tells of a sandbox, by its id, and would keep of it
	// in an image. Nil: there is no engine.
	Show func(t *testing.T, id string) []byte
}

const program = "/workspace/probe"

// limit bounds each call of the suite: what takes longer hangs.
const limit = 2 * time.Minute

// start makes a sandbox with the probe in it: an Invoker's is the probe.
func start(t *testing.T, ctx context.Context, b sandbox.Backend, o sandbox.Options) *sandbox.Sandbox {
	t.Helper()
	s, err := sandbox.Start(ctx, b, o)
	if err != nil {
		t.Fatalf("Start: %v", err)
	}
	t.Cleanup(func() {
		if err := s.Destroy(context.Background()); err != nil {
			t.Errorf("Destroy: %v", err)
		}
	})
	if _, ok := b.(sandbox.Invoker); ok {
		return s
	}
	data, err := os.ReadFile(BuildProbe(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.WriteFile(ctx, program, data, 0o755); err != nil {
		t.Fatalf("WriteFile of the probe: %v", err)
	}
	return s
}

// isGVisor reports whether a sandbox has gVisor for its kernel, which has no limit of
// processes.
func isGVisor(s *sandbox.Sandbox) bool { return s.Enforcement().Isolation == "gvisor" }

func bounded(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	return ctx
}

// next is what comes from a channel.
func next[T any](t *testing.T, from <-chan T) (got T) {
	t.Helper()
	select {
	case got = <-from:
	case <-time.After(limit):
		t.Fatal("it has not come")
	}
	return got
}

// probeIn is where the probe is found in a sandbox: that of an Invoker has it alone.
func probeIn(s *sandbox.Sandbox) string {
	if s.Enforcement().Isolation == "microvm" {
		return self
	}
	return program
}

func run(t *testing.T, s *sandbox.Sandbox, verb string, args ...string) string {
	t.Helper()
	out, err := s.Command(probeIn(s), append([]string{verbPrefix + verb}, args...)...).Output(bounded(t))
	if err != nil {
		var ee *sandbox.ExitError
		if errors.As(err, &ee) {
			t.Fatalf("%s: %v: %s", verb, err, ee.Stderr)
		}
		t.Fatalf("%s: %v", verb, err)
	}
	return string(out)
}

// TestBackend checks what package sandbox promises of any backend.
func TestBackend(t *testing.T, b sandbox.Backend, o Options) {
	caps, err := b.Probe(bounded(t))
	if err != nil {
		t.Fatalf("Probe: %v", err)
	}
	if _, invoker := b.(sandbox.Invoker); invoker == caps.Live {
		t.Fatalf("it is an Invoker: %v, and Live: %v", invoker, caps.Live)
	}
	if !caps.Live {
		testInvoker(t, b, o.Spec)
		return
	}
	spec := o.Spec
	spec.Env = map[string]string{"SUITE": "yes"}
	labels := sandbox.Labels{Schema: fmt.Sprintf("suite%d", time.Now().UnixNano()), Database: "17-5", Run: 7, Step: "s", Attempt: 1, Epoch: 1}
	all := share(t, b, sandbox.Options{Spec: spec, Labels: labels})
	all.run("command", testCommand)
	all.run("handle", testHandle)
	all.run("kill", testKill)
	all.run("files", testFiles)
	all.run("tree", testTree)
	all.run("guest", testGuest)
	t.Run("processes", func(t *testing.T) { testProcesses(t, b, caps, o.Spec) })
	limits := limited(o.Spec, caps)
	timed := limits
	timed.Limits.Time = 300 * time.Millisecond
	brief := share(t, b, sandbox.Options{Spec: timed})
	brief.run("limits", func(t *testing.T, s *sandbox.Sandbox) { testLimits(t, b, caps, limits, s) })
	brief.run("connections", func(t *testing.T, s *sandbox.Sandbox) { testConnections(t, b, s) }) // the last: s is lost to others
	t.Run("secrets", func(t *testing.T) { testSecrets(t, b, o) })
	t.Run("claim", func(t *testing.T) { testClaim(t, b, o.Spec) })
	all.run("life", func(t *testing.T, s *sandbox.Sandbox) { testLife(t, b, o.Spec, s, labels) })
	all.run("closed", func(t *testing.T, s *sandbox.Sandbox) { testClosed(t, b, s, labels.Schema) }) // the last: it destroys s
}
