//go:build linux

package sandboxtest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stepward/stepward/internal/layers"
	"github.com/stepward/stepward/sandbox"
)

// A host is what probes look for outside of their sandbox.
type host struct {
	listening string // address
	canary    string // an argument of a process
	dir       string // holds world-readable "open" and, of mode 0600, "closed"
	env       string // value of a variable of this process
}

// hostAddress is where a sandbox would reach this machine.
func hostAddress(o Options) string { return cmp.Or(o.Host, "127.0.0.1") }

func newHost(t *testing.T, o Options) host {
	t.Helper()
	h := host{canary: fmt.Sprintf("canary-%d", os.Getpid()), env: fmt.Sprintf("worker-secret-%d", os.Getpid())}
	t.Setenv("SUITE_CANARY", h.env)

	ln, err := net.Listen("tcp", net.JoinHostPort(hostAddress(o), "0"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	h.listening = ln.Addr().String()

	c := exec.Command(BuildProbe(t), verbPrefix+"hang", h.canary)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Process.Kill(); c.Wait() })

	// Not below /tmp: a sandbox has its own.
	if h.dir, err = os.MkdirTemp("/var/tmp", "stepward-suite-"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(h.dir) })
	for name, mode := range map[string]os.FileMode{"open": 0o644, "closed": 0o600} {
		if err := os.WriteFile(filepath.Join(h.dir, name), []byte("host"), mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(h.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return h
}

// TestLayers checks that a sandbox keeps in what it must, and for each layer that
// a probe which fails with all layers succeeds without that one. The id map of a
// worker that is not root hides nothing, since it can only map its own id. It is for
// the backends of Stepward: no other can be told to leave a layer out.
func TestLayers(t *testing.T, b sandbox.Backend, o Options) {
	h := newHost(t, o)
	which := slices.Clone(layers.All)
	if os.Getuid() != 0 {
		which = slices.DeleteFunc(which, func(l layers.Set) bool { return l == layers.IDMap })
	}
	caps, err := b.Probe(bounded(t))
	if err != nil {
		t.Fatal(err)
	}
	probes := map[layers.Set]func(*testing.T, *sandbox.Sandbox) string{
		layers.Network: func(t *testing.T, s *sandbox.Sandbox) string { return run(t, s, "connect", h.listening) },
		layers.PID:     func(t *testing.T, s *sandbox.Sandbox) string { return run(t, s, "process", h.canary) },
		layers.Mount:   func(t *testing.T, s *sandbox.Sandbox) string { return run(t, s, "stat", h.dir+"/open") },
		layers.IDMap:   func(t *testing.T, s *sandbox.Sandbox) string { return run(t, s, "read", h.dir+"/closed") },
		layers.Seccomp: func(t *testing.T, s *sandbox.Sandbox) string { return run(t, s, "vmread") },
		layers.Landlock: func(t *testing.T, s *sandbox.Sandbox) string {
			ctx, cancel := context.WithCancel(bounded(t))
			defer cancel()
			other := s.Command(program, "probe:hang") // another exec of this sandbox
			other.Env = []string{"KEY=of-another-exec"}
			w := newWaiter()
			other.Stdout = w
			if err := other.Start(ctx); err != nil {
				t.Fatal(err)
			}
			defer other.Wait()
			defer cancel()
			w.wait(t)
			return run(t, s, "environ", "of-another-exec")
		},
	}
	whole := share(t, b, sandbox.Options{Spec: o.Spec}) // with all layers
	for _, l := range which {
		whole.run(l.String(), func(t *testing.T, s *sandbox.Sandbox) {
			for _, off := range []bool{false, true} {
				if off && caps.Isolation == "gvisor" && l != layers.Mount && l != layers.IDMap {
					break // it is gVisor's own kernel that keeps this from the probe, if anything does
				}
				ctx := bounded(t)
				if l == layers.IDMap {
					ctx = layers.WithBind(ctx, h.dir)
				}
				if off {
					ctx = layers.Without(ctx, l)
				}
				if off || l == layers.IDMap {
					s = start(t, ctx, b, sandbox.Options{Spec: o.Spec})
				}
				got := probes[l](t, s)
				t.Logf("without %s: %v: %s", l, off, got)
				if off && got != "yes" {
					t.Errorf("without the layer the probe must succeed, or it shows nothing: %s", got)
				}
				if l == layers.Landlock && got == "yes" && caps.Landlock == 0 {
					demanding := o.Spec
					demanding.Require.Landlock = true
					refuses(t, b, demanding, "Require.Landlock")
				} else if !off && got == "yes" {
					t.Errorf("the probe got what the layer must keep from it")
				}
			}
		})
	}
	whole.run("escape", func(t *testing.T, s *sandbox.Sandbox) { testEscape(t, s, h) }) // the last: it destroys the sandbox
}

// testEscape has what must fail whichever layer stops it.
func testEscape(t *testing.T, s *sandbox.Sandbox, h host) {
	home, _ := os.UserHomeDir()
	capabilities := []string{"capabilities"}
	if isGVisor(s) {
		capabilities = append(capabilities, "Bnd") // of the command's user namespace, where no file gives any
	}
	for _, p := range [][]string{
		{"read", "/etc/shadow"},
		{"stat", filepath.Join(home, ".")},
		{"environ", h.env},
		{"read", "/proc/1/environ"}, {"read", "/proc/1/mem"}, {"read", "/proc/1/maps"},
		{"read", h.dir + "/open"},
		{"write", "/x"}, {"write", "/etc/x"}, {"write", "/usr/x"}, {"write", "/dev/x"}, {"write", "/proc/sys/kernel/hostname"},
		{"write", "/var/tmp/x"}, {"write", "/run/x"}, {"write", home + "/x"}, {"write", "/sys/x"},
		{"connect", h.listening}, {"connect", "192.0.2.1:80"},
		{"process", h.canary},
		{"vsock"}, {"keyring"}, {"userns"}, {"mount"}, {"setuid"}, capabilities,
	} {
		if p[0] == "stat" && home == "/" || isGVisor(s) && strings.HasPrefix(p[len(p)-1], "/proc/1/") { // see testOthers
			continue
		}
		got := run(t, s, p[0], p[1:]...)
		t.Logf("%v: %s", p, got)
		if got == "yes" {
			t.Errorf("%v succeeded", p)
		}
	}
	for _, name := range []string{"/workspace/x", "/tmp/x"} {
		if got := run(t, s, "write", name); got != "yes" {
			t.Errorf("write %s: %s", name, got)
		}
	}
	// A working directory that is a descriptor of the runner, or a link to it.
	for fd := range 20 {
		at := fmt.Sprintf("/proc/self/fd/%d", fd)
		run(t, s, "tree", "link", "/workspace/cwd", at)
		for _, dir := range []string{at, "/workspace/cwd"} {
			c := s.Command(program, "probe:read", "../../../../../../.."+h.dir+"/open")
			c.Dir = dir
			if got, err := c.Output(bounded(t)); err == nil && string(got) == "yes" {
				t.Errorf("a command in %s reads the host's files", dir)
			}
		}
	}
	// To the runner, which goes on. In gVisor it is the command's own shim.
	if _, err := s.Command(program, verbPrefix+"signal").Output(bounded(t)); err != nil && (!isGVisor(s) || !errors.Is(err, sandbox.ErrLost)) {
		t.Errorf("signal: %v", err)
	}
	if got := run(t, s, "pwd"); got != sandbox.Workspace {
		t.Errorf("after signals to the runner: %s", got)
	}

	// Nothing outlives the sandbox.
	inside := h.canary + "-inside"
	c := s.Command(program, "probe:hang", inside)
	w := newWaiter()
	c.Stdout = w
	if err := c.Start(bounded(t)); err != nil {
		t.Fatal(err)
	}
	w.wait(t)
	if len(processesWith(inside)) == 0 {
		t.Log("this host does not show the sandbox's processes")
	}
	if err := s.Destroy(bounded(t)); err != nil {
		t.Error(err)
	}
	c.Wait()
	if left := processesWith(inside); len(left) > 0 {
		t.Errorf("processes %v outlived their sandbox", left)
	}
}
