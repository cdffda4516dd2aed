//go:build linux

package sandboxtest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stepward/stepward/sandbox"
)

// testInvokerEscape has programs of an Invoker try what TestEscape has them try: of it
// what the tool runner stops, and not what the machine does.
func testInvokerEscape(t *testing.T, b sandbox.Backend, spec sandbox.Spec) {
	s := start(t, bounded(t), b, sandbox.Options{Spec: spec})
	home := run(t, s, "pwd")
	t.Run("system calls", func(t *testing.T) {
		for call, got := range found(t, s, "syscalls") {
			if !filtered(got) {
				t.Errorf("%s: %s", call, got)
			}
		}
	})
	t.Run("sockets", func(t *testing.T) { nothing(t, s, "sockets") })
	t.Run("descriptors", func(t *testing.T) { nothing(t, s, "descriptors") })
	t.Run("settings", func(t *testing.T) { nothing(t, s, "settings") })
	t.Run("other processes", func(t *testing.T) {
		got := found(t, s, "others")
		for what, result := range got {
			if result == "yes" && (s.Enforcement().Landlock > 0 || strings.HasPrefix(what, "/proc/1/")) {
				t.Errorf("%s can be read", what)
			}
		}
		if got["/proc/1/environ"] == "" {
			t.Errorf("it saw %v only", got)
		}
	})
	t.Run("core", func(t *testing.T) {
		if got := run(t, s, "core"); got != "0 0 0 0" {
			t.Errorf("limits of core files, of a command and of the runner: %s", got)
		}
	})
	t.Run("directories", func(t *testing.T) {
		for fd := range 20 { // descriptors of the runner
			c := s.Command(self, verbPrefix+"pwd")
			c.Dir = fmt.Sprintf("/proc/self/fd/%d", fd)
			if got, err := c.Output(bounded(t)); err == nil && string(got) != home && !strings.HasPrefix(string(got), "/tmp") {
				t.Errorf("a command in %s is in %s", c.Dir, got)
			}
		}
	})
	t.Run("zombies", func(t *testing.T) {
		const most = "900" // of the 1024 processes that AWS allows
		if got := strings.Fields(run(t, s, "zombies", most)); len(got) == 0 || got[0] == "0" {
			t.Errorf("it made %q zombies", got)
		}
		if got := run(t, s, "dead"); got != "0" {
			t.Errorf("%s zombies are left", got)
		}
		c := s.Command(self, verbPrefix+"zombies", most, "stay")
		c.Timeout = 3 * time.Second
		var ee *sandbox.ExitError
		if err := c.Run(bounded(t)); !errors.As(err, &ee) || !ee.TimedOut {
			t.Errorf("with zombies, to the end of its time: %v", err)
		}
		if got := run(t, s, "dead"); got != "0" {
			t.Errorf("%s zombies are left", got)
		}
	})
	t.Run("held output", func(t *testing.T) { testHeldOutput(t, s) })
	t.Run("environment", func(t *testing.T) {
		hostile := []string{
			"LD_PRELOAD=/tmp/evil.so", "BASH_ENV=/tmp/evil.so", "PATH=/tmp", "GODEBUG=gctrace=1", "GOTRACEBACK=crash", "GOMEMLIMIT=1", "GOMAXPROCS=0",
			"STEPWARD_SANDBOX=serve", "STEPWARD_WITHOUT=landlock,seccomp", "STEPWARD_GUEST=/tmp/decoy", "AWS_LAMBDA_RUNTIME_API=127.0.0.1:1",
		}
		out := func(verb string) string {
			c := s.Command(self, verbPrefix+verb)
			c.Env = hostile
			got, err := c.Output(bounded(t))
			if err != nil {
				t.Errorf("%s: %v", verb, err)
			}
			return string(got)
		}
		if env := out("env"); !slices.Contains(strings.Split(env, "\n"), "LD_PRELOAD=/tmp/evil.so") || strings.Contains(env, "STEPWARD_") {
			t.Errorf("the command's environment is %q", env)
		}
		if got := out("keyring"); got == "yes" {
			t.Error("a variable takes a layer off")
		}
		if env := run(t, s, "env"); strings.Contains(env, "evil") || strings.Contains(env, "GOMEMLIMIT") {
			t.Errorf("the next command's environment is %q", env)
		}
		if out, err := s.Guest(bounded(t), sandbox.GuestStep{Step: "environ"}); err != nil || strings.Contains(string(out), "evil") {
			t.Errorf("a guest's environment is %q, %v", out, err)
		}
	})
	t.Run("odd commands", func(t *testing.T) {
		for what, args := range map[string][]string{"an empty argument": {"", ""}, "100 KiB": {strings.Repeat("x", 100<<10)}, "1,000 arguments": make([]string, 1000)} {
			if got := run(t, s, "pwd", args...); got != home {
				t.Errorf("%s: %q", what, got)
			}
		}
		variable, dir := s.Command(self, verbPrefix+"pwd"), s.Command(self, verbPrefix+"pwd")
		variable.Env, dir.Dir = []string{"A=b\x00LD_PRELOAD=/tmp/evil.so"}, "/tmp\x00space"
		for what, c := range map[string]*sandbox.Cmd{
			"2 MiB": s.Command(self, verbPrefix+"pwd", strings.Repeat("x", 2<<20)), "NUL in the name": s.Command("probe\x00"),
			"NUL in an argument": s.Command(self, "a\x00b"), "NUL in a variable": variable, "NUL in the folder": dir,
		} {
			var ce *sandbox.CommandError
			if err := c.Run(bounded(t)); !errors.As(err, &ce) || len(err.Error()) > 1000 {
				t.Errorf("%s: %.200v, want a CommandError", what, err)
			}
		}
	})
	t.Run("timeout at the end", func(t *testing.T) { testTimeoutAtTheEnd(t, s) })
	if got := run(t, s, "pwd"); got != home {
		t.Errorf("after all of it: %s", got)
	}
}
