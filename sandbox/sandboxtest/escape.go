//go:build linux

package sandboxtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stepward/stepward/internal/layers"
	"github.com/stepward/stepward/sandbox"
)

// TestEscape has programs in a sandbox try to get out of it: to the kernel, to its
// host, to its tool runner, and to other sandboxes. [Cases] says which test holds
// which case. Where a layer alone stops a probe, the probe is shown to get through
// without that layer.
func TestEscape(t *testing.T, b sandbox.Backend, o Options) {
	if _, ok := b.(sandbox.Invoker); ok {
		testInvokerEscape(t, b, o.Spec)
		return
	}
	caps, err := b.Probe(bounded(t))
	if err != nil {
		t.Fatal(err)
	}
	spec := o.Spec
	if caps.PIDs {
		spec.Limits.PIDs = zombies + 1000
	}
	// What the cases share: a sandbox, and one without the filter of system calls.
	all, open := share(t, b, sandbox.Options{Spec: spec}), share(t, b, sandbox.Options{Spec: o.Spec})
	open.without = layers.Seccomp
	all.run("system calls", func(t *testing.T, s *sandbox.Sandbox) { testSystemCalls(t, s, open.s) }, open)
	all.run("proc and sys", testProcAndSys)
	all.run("kernel", testKernel)
	all.run("devices", func(t *testing.T, s *sandbox.Sandbox) {
		var own []string
		if isGVisor(s) {
			own = []string{"fuse", "tun"} // which it has itself, and there is no way from them to the host
		}
		nothing(t, s, "devices", own...)
	})
	all.run("terminal", func(t *testing.T, s *sandbox.Sandbox) { testTyping(t, s, open.s) }, open)
	all.run("descriptors", func(t *testing.T, s *sandbox.Sandbox) { nothing(t, s, "descriptors") })
	all.run("other processes", func(t *testing.T, s *sandbox.Sandbox) { testOthers(t, b, o, s) })
	all.run("disarmed", func(t *testing.T, s *sandbox.Sandbox) { testDisarmed(t, b, o, s, open.s) }, open)
	all.run("settings", func(t *testing.T, s *sandbox.Sandbox) { testSettings(t, s, open.s) }, open) // the last in there: it changes those of the runner
	all.run("core", testCore)
	all.run("sockets", func(t *testing.T, s *sandbox.Sandbox) { testSockets(t, o, s) })
	all.run("unix sockets", func(t *testing.T, s *sandbox.Sandbox) { testUnixSockets(t, b, o, s) })
	all.run("zombies", testZombies)
	all.run("held output", testHeldOutput)
	all.run("environment", testEnvironment)
	all.run("odd commands", testOddCommands)
	all.run("timeout at the end", testTimeoutAtTheEnd)
	if got := run(t, all.get(), "pwd"); got != sandbox.Workspace {
		t.Errorf("after all of it: %s", got)
	}
}

// found runs a probe that looks for several things.
func found(t *testing.T, s *sandbox.Sandbox, verb string, args ...string) map[string]string {
	t.Helper()
	out := map[string]string{}
	if got := run(t, s, verb, args...); json.Unmarshal([]byte(got), &out) != nil {
		t.Fatalf("%s printed %q", verb, got)
	}
	return out
}

// nothing checks that such a probe got through nowhere.
func nothing(t *testing.T, s *sandbox.Sandbox, verb string, args ...string) {
	t.Helper()
	for what, got := range found(t, s, verb, args...) {
		if got == "yes" {
			t.Errorf("%s: %s", verb, what)
		} else {
			t.Logf("%s: %s: %s", verb, what, got)
		}
	}
}

// filtered reports whether a system call was refused before the kernel looked at
// its arguments.
func filtered(result string) bool {
	return slices.Contains([]string{unix.EPERM.Error(), unix.ENOSYS.Error(), "signal: bad system call", "signal: killed"}, result)
}

func testSystemCalls(t *testing.T, s, open *sandbox.Sandbox) {
	for call, got := range found(t, s, "syscalls") {
		other := isGVisor(s) && strings.HasPrefix(call, "32-bit") // whose numbers gVisor takes for those of the one table that it has
		if !filtered(got) && !other {
			t.Errorf("%s: %s", call, got)
		}
	}
	// Without the filter the same calls are looked at: the probe can tell.
	got := found(t, open, "syscalls")
	t.Logf("without the filter: %v", got)
	looked := reached
	if isGVisor(s) {
		looked = []string{"clone", "add_key"}
	}
	for _, call := range looked {
		if filtered(got[call]) {
			t.Errorf("%s, without the filter: %s", call, got[call])
		}
	}
}

func testProcAndSys(t *testing.T, s *sandbox.Sandbox) {
	for _, dir := range []string{"/proc", "/sys"} {
		nothing(t, s, "writable", dir)
	}
	if got := found(t, s, "writable", "/tmp"); got["/tmp"] != "yes" { // the probe can tell
		t.Errorf("of /tmp: %v", got)
	}
}

func testKernel(t *testing.T, s *sandbox.Sandbox) {
	nothing(t, s, "kernel", "/proc/kcore", "/proc/kallsyms", "/proc/kmsg", "/proc/keys", "/proc/timer_list", "/proc/sched_debug", "/proc/latency_stats",
		"/proc/sysrq-trigger", "/proc/vmallocinfo", "/proc/slabinfo", "/proc/iomem", "/proc/kpagecount", "/proc/kpageflags", "/dev/kmsg", "/dev/mem", "/dev/kmem", "/dev/port",
		"/sys/kernel/debug/sched/debug", "/sys/kernel/tracing/trace", "/sys/kernel/security/lockdown", "/sys/firmware/dmi/tables/DMI", "/sys/kernel/vmcoreinfo", "/sys/kernel/notes",
		"/boot/System.map", "/etc/shadow", "/etc/ssh/ssh_host_ed25519_key")
	if got := found(t, s, "kernel", "/proc/version"); got["/proc/version"] != "yes" {
		t.Errorf("what may be read: %v", got)
	}
}

// testTyping has a program type into its own terminal, which would be the shell's
// of whoever started it, and into the one of another command.
func testTyping(t *testing.T, s, open *sandbox.Sandbox) {
	size := &sandbox.Terminal{Rows: 24, Cols: 80}
	other := s.Command(program, verbPrefix+"terminal")
	other.Terminal = size
	if isGVisor(s) {
		if err := other.Run(bounded(t)); !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("a terminal: %v", err)
		}
		t.Log(Refused + "Terminal")
		return
	}
	defer hanging(t, s, other)()
	try := func(s *sandbox.Sandbox) map[string]string {
		c := s.Command(program, verbPrefix+"tiocsti")
		c.Terminal = size
		out, err := c.Output(bounded(t))
		got := map[string]string{}
		if i := strings.IndexByte(string(out), '{'); err != nil || i < 0 || json.Unmarshal(out[i:], &got) != nil {
			t.Fatalf("%q, %v", out, err)
		}
		return got
	}
	got := try(s)
	if got["own"] != unix.EPERM.Error() || len(got) < 3 {
		t.Errorf("the terminals that are there: %v", got)
	}
	for name, result := range got {
		if result == "yes" {
			t.Errorf("it types into %s", name)
		}
	}
	if got := try(open); got["own"] != "yes" && got["own"] != unix.EIO.Error() { // a kernel that has it switched off
		t.Errorf("without the filter: %v", got)
	}
}

// testOthers reads what /proc has of the runner, its shims and another command.
func testOthers(t *testing.T, b sandbox.Backend, o Options, s *sandbox.Sandbox) {
	c := s.Command(program, verbPrefix+"hang", "another")
	c.Env = []string{"KEY=of-another-command"}
	defer hanging(t, s, c)()
	got := found(t, s, "others")
	pids := map[string]bool{}
	for what, result := range got {
		pids[strings.Split(what, "/")[2]] = true
		if result == "yes" && isGVisor(s) {
			demanding := o.Spec
			demanding.Require.Landlock = true
			refuses(t, b, demanding, "Require.Landlock")
			return
		}
		if result == "yes" && (s.Enforcement().Landlock > 0 || strings.HasPrefix(what, "/proc/1/")) {
			t.Errorf("%s can be read", what)
		}
	}
	if len(pids) < 2 || got["/proc/1/environ"] == "" {
		t.Errorf("it saw the processes %v only", pids)
	}
}

// testSettings has a command change the limits and priorities of the runner and of its
// shim, which would not be able to end it then, and its own, which it may. Its own is less
// than theirs, for the same reason.
func testSettings(t *testing.T, s, open *sandbox.Sandbox) {
	nothing(t, s, "settings")
	for call, got := range found(t, s, "settings", "own") {
		if got != "yes" && (!isGVisor(s) || call == "own: prlimit64") { // of which not all do something in a gVisor
			t.Errorf("%s: %s", call, got)
		}
	}
	if isGVisor(s) { // where nice values do nothing
		return
	}
	nothing(t, s, "turns")
	if got := found(t, open, "settings"); got["shim: prlimit64"] != "yes" || got["all: setpriority"] != "yes" {
		t.Errorf("without the filter: %v", got)
	}
}

// testDisarmed has a command keep its shim from ending it, by what a layer stops. Without
// that the tool runner ends it, and the command is lost.
func testDisarmed(t *testing.T, b sandbox.Backend, o Options, s, unfiltered *sandbox.Sandbox) {
	for _, how := range []string{"limit", "stop"} {
		in := []*sandbox.Sandbox{s}
		switch {
		case isGVisor(s): // where the shim needs no list of what it ends
		case how == "limit":
			in = append(in, unfiltered)
		default:
			in = append(in, start(t, layers.Without(bounded(t), layers.Landlock), b, sandbox.Options{Spec: o.Spec}))
		}
		for i, s := range in {
			for _, args := range [][]string{{how}, {how, "stay"}} {
				c := s.Command(program, append([]string{verbPrefix + "disarm"}, args...)...)
				var out bytes.Buffer
				c.Stdout = &out
				if len(args) > 1 {
					c.Timeout = time.Second
				}
				err := c.Run(bounded(t))
				t.Logf("%v, without %d layers: %s, %v", args, i, &out, err)
				did, lost := out.String() == "yes", errors.Is(err, sandbox.ErrLost)
				if i == 0 && did && (how == "limit" || s.Enforcement().Landlock >= 6) || i == 1 && !did && (!lost || out.Len() > 0) {
					t.Errorf("%v, without %d layers: %s", args, i, &out)
				}
				if lost != (did || i == 1) { // with it may be lost what it printed
					t.Errorf("%v, without %d layers: %v", args, i, err)
				}
				if n := run(t, s, "count", verbPrefix+"hang"); n != "0" {
					t.Errorf("%v, without %d layers: %s daemons are left", args, i, n)
				}
			}
		}
	}
}

// testCore checks that neither the runner nor a command leaves a core file.
func testCore(t *testing.T, s *sandbox.Sandbox) {
	want := "0 0 0 0"
	if isGVisor(s) {
		want = "0 0 " // it does not show another process's
	}
	if got := run(t, s, "core"); got != want {
		t.Errorf("limits of core files, of a command and of the runner: %s", got)
	}
	c := s.Command(program, verbPrefix+"crash")
	c.Env = []string{"GOTRACEBACK=crash"}
	var ee *sandbox.ExitError
	if err := c.Run(bounded(t)); !errors.As(err, &ee) || ee.Signal != "SIGABRT" {
		t.Errorf("a crash: %v", err)
	}
	for _, dir := range []string{"workspace", "tmp"} {
		if l, err := fs.Glob(s.FS(), dir+"/*core*"); err != nil || len(l) > 0 {
			t.Errorf("%v, %v", l, err)
		}
	}
}

// testSockets opens sockets that lead elsewhere than the proxy, and sends what does
// not need a connection.
func testSockets(t *testing.T, o Options, s *sandbox.Sandbox) {
	nothing(t, s, "sockets")
	conn, err := net.ListenPacket("udp", net.JoinHostPort(hostAddress(o), "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	at := conn.LocalAddr().String()
	t.Log(found(t, s, "udp", at, "192.0.2.1:53", "127.0.0.11:53", "224.0.0.251:5353", "255.255.255.255:67", "[2001:db8::1]:443"))
	mine, err := net.Dial("udp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer mine.Close()
	if _, err := mine.Write([]byte("mine")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 100)
	if n, _, err := conn.ReadFrom(buf); err != nil || string(buf[:n]) != "mine" {
		t.Errorf("the host got %q, %v", buf[:n], err)
	}
}

// testUnixSockets connects to sockets of the host, by name and by path.
func testUnixSockets(t *testing.T, b sandbox.Backend, o Options, s *sandbox.Sandbox) {
	h := newHost(t, o)
	abstract, path := fmt.Sprint("@stepward-suite-", h.canary), h.dir+"/socket"
	for _, at := range []string{abstract, path} {
		l, err := net.Listen("unix", at)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
	}
	if err := unix.Chmod(path, 0o777); err != nil {
		t.Fatal(err)
	}
	nothing(t, s, "unix", abstract, path, "/var/run/docker.sock", "/run/docker.sock", "/run/containerd/containerd.sock", "/run/podman/podman.sock",
		"/run/crio/crio.sock", "/run/dbus/system_bus_socket", "/run/systemd/private", "/var/run/postgresql/.s.PGSQL.5432", "/tmp/.s.PGSQL.5432")
	if isGVisor(s) {
		return // which opens no socket of the host's for anybody
	}
	ctx := layers.WithBind(layers.Without(bounded(t), layers.Network|layers.Landlock), h.dir)
	open := start(t, ctx, b, sandbox.Options{Spec: o.Spec})
	got := found(t, open, "unix", abstract, path)
	if got[path] != "yes" {
		t.Errorf("with the directory: %v", got)
	}
	if got[abstract] != "yes" && o.Host == "" { // else the network that it gets need not be this one
		t.Errorf("with the host's network: %v", got)
	}
}
