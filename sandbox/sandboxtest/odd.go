//go:build linux

package sandboxtest

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stepward/stepward/sandbox"
)

// zombies is how many there are, where the sandbox's limit of processes can be set.
const zombies = 10_000

// testZombies has a program leave its dead children uncollected, until it is killed,
// and leave them behind when it ends.
func testZombies(t *testing.T, s *sandbox.Sandbox) {
	most := zombies
	if isGVisor(s) { // which needs 18 ms for each
		most = 200
	}
	c := s.Command(program, verbPrefix+"zombies", fmt.Sprint(most), "stay")
	out := newLines()
	c.Stdout = out.w
	if err := c.Start(bounded(t)); err != nil {
		t.Fatal(err)
	}
	if !out.Scan() || out.Text() == "0" {
		t.Fatalf("it made %q zombies", out.Text())
	}
	t.Logf("%s zombies", out.Text())
	if got := run(t, s, "pwd"); got != sandbox.Workspace {
		t.Errorf("beside zombies: %s", got)
	}
	if err := c.Signal(bounded(t), "SIGKILL"); err != nil {
		t.Error(err)
	}
	var ee *sandbox.ExitError
	if err := c.Wait(); !errors.As(err, &ee) || ee.Signal != "SIGKILL" {
		t.Errorf("Wait: %v", err)
	}
	run(t, s, "zombies", fmt.Sprint(most))
	if got := run(t, s, "dead"); got != "0" {
		t.Errorf("%s zombies are left", got)
	}
}

// testHeldOutput has a program end while a child of another session has its output.
func testHeldOutput(t *testing.T, s *sandbox.Sandbox) {
	if got := run(t, s, "hold"); !strings.Contains(got, "yes") {
		t.Errorf("it printed %q", got)
	}
	if n := run(t, s, "count", "probe:hang"); n != "0" {
		t.Errorf("%s processes are left", n)
	}
}

// testEnvironment gives a command variables that would change what runs it, were
// they meant for that.
func testEnvironment(t *testing.T, s *sandbox.Sandbox) {
	ctx := bounded(t)
	if err := s.WriteFile(ctx, "bin/decoy", []byte("#!"+program+" "+verbPrefix+"pwd\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := s.WriteFile(ctx, "evil.so", []byte("not a library"), 0o755); err != nil {
		t.Fatal(err)
	}
	hostile := []string{
		"PATH=/workspace/bin", "LD_PRELOAD=/workspace/evil.so", "LD_LIBRARY_PATH=/workspace", "LD_AUDIT=/workspace/evil.so",
		"BASH_ENV=/workspace/evil.so", "ENV=/workspace/evil.so", "IFS=/", "NODE_OPTIONS=--require /workspace/evil.so", "PYTHONSTARTUP=/workspace/evil.so",
		"GIT_SSH_COMMAND=/workspace/evil.so", "GODEBUG=gctrace=1", "GOTRACEBACK=crash", "GOMEMLIMIT=1", "GOMAXPROCS=0",
		"STEPWARD_SANDBOX=serve", "STEPWARD_SANDBOX=shim", "STEPWARD_TOKEN_HASH=00", "STEPWARD_WITHOUT=landlock,seccomp", "STEPWARD_GUEST=/workspace/bin/decoy",
	}
	c := s.Command("decoy") // found by the command's own PATH
	c.Env = hostile
	if got, err := c.Output(ctx); err != nil || string(got) != sandbox.Workspace {
		t.Errorf("a program of PATH: %q, %v", got, err)
	}
	c = s.Command(program, verbPrefix+"env")
	c.Env = hostile
	got, err := c.Output(ctx)
	if err != nil {
		t.Fatal(err)
	}
	env := strings.Split(string(got), "\n")
	if !slices.Contains(env, "LD_PRELOAD=/workspace/evil.so") || strings.Contains(string(got), "STEPWARD_") {
		t.Errorf("the command's environment is %q", env)
	}
	c = s.Command(program, verbPrefix+"keyring") // no variable takes a layer off
	c.Env = hostile
	if got, err := c.Output(ctx); err != nil || string(got) == "yes" {
		t.Errorf("with the variables of a runner without layers: %q, %v", got, err)
	}
	// All of it was that command's alone.
	var ce *sandbox.CommandError
	if err := s.Command("decoy").Run(ctx); !errors.As(err, &ce) || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a program of another command's PATH: %v", err)
	}
	if env := run(t, s, "env"); strings.Contains(env, "evil") || strings.Contains(env, "GOMEMLIMIT") {
		t.Errorf("the next command's environment is %q", env)
	}
	if out, err := s.Guest(ctx, sandbox.GuestStep{Step: "environ"}); err != nil || strings.Contains(string(out), "evil") {
		t.Errorf("a guest's environment is %q, %v", out, err)
	}
}

// testOddCommands starts what can hardly be started: it works, or is an error that
// says what could not be.
func testOddCommands(t *testing.T, s *sandbox.Sandbox) {
	ctx := bounded(t)
	for what, c := range map[string]*sandbox.Cmd{
		"an empty argument": s.Command(program, verbPrefix+"pwd", "", ""),
		"100 KiB":           s.Command(program, verbPrefix+"pwd", strings.Repeat("x", 100<<10)),
		"1,000 arguments":   s.Command(program, append([]string{verbPrefix + "pwd"}, make([]string, 1000)...)...),
		"a value with =":    {},
		"no value":          {},
		"one name twice":    {},
	} {
		if c.Name == "" {
			env := map[string][]string{"a value with =": {"A=b=c"}, "no value": {"A="}, "one name twice": {"A=1", "A=2"}}
			c = s.Command(program, verbPrefix+"pwd")
			c.Env = env[what]
		}
		if got, err := c.Output(ctx); err != nil || string(got) != sandbox.Workspace {
			t.Errorf("%s: %q, %v", what, got, err)
		}
	}
	for what, c := range map[string]*sandbox.Cmd{
		"2 MiB":              s.Command(program, verbPrefix+"pwd", strings.Repeat("x", 2<<20)),
		"200,000 arguments":  s.Command(program, append([]string{verbPrefix + "pwd"}, strings.Split(strings.Repeat("0123456789,", 400_000), ",")...)...),
		"NUL in the name":    s.Command("probe\x00"),
		"NUL in an argument": s.Command(program, "a\x00b"),
		"NUL in a variable":  {},
		"NUL in the folder":  {},
	} {
		if c.Name == "" {
			c = s.Command(program, verbPrefix+"pwd")
			if what == "NUL in a variable" {
				c.Env = []string{"A=b\x00LD_PRELOAD=/workspace/evil.so"}
			} else {
				c.Dir = "/work\x00space"
			}
		}
		var ce *sandbox.CommandError
		if err := c.Run(ctx); !errors.As(err, &ce) {
			t.Errorf("%s: %.200v, want a CommandError", what, err)
		} else if len(err.Error()) > 1000 {
			t.Errorf("%s: an error of %d bytes", what, len(err.Error()))
		}
	}
	if got := run(t, s, "pwd"); got != sandbox.Workspace {
		t.Errorf("afterwards: %s", got)
	}
}

// testTimeoutAtTheEnd has commands take about as long as they may: each ends in one
// of two ways, and says in which.
func testTimeoutAtTheEnd(t *testing.T, s *sandbox.Sandbox) {
	ctx := bounded(t)
	begin := time.Now()
	run(t, s, "out", "0", "", "")
	about := time.Since(begin)
	ended, timedOut := 0, 0
	for range 40 {
		c := s.Command(probeIn(s), verbPrefix+"out", "0", "whole", "")
		c.Timeout = max(about, time.Microsecond)
		out, err := c.Output(ctx)
		var ee *sandbox.ExitError
		switch {
		case err == nil && string(out) == "whole":
			ended++
			about = about * 9 / 10
		case errors.As(err, &ee) && ee.TimedOut && ee.Signal == "SIGKILL":
			timedOut++
			about = about * 11 / 10
		default:
			t.Errorf("%q, %v: neither ended nor killed by its timeout", out, err)
		}
	}
	t.Logf("%d ended, %d timed out", ended, timedOut)
	if n := run(t, s, "count", "probe:out"); n != "0" {
		t.Errorf("%s processes are left", n)
	}
}

// TestInodes makes files without content, which take no room that is counted in
// bytes: a backend that makes its own file systems limits their number as well.
func TestInodes(t *testing.T, b sandbox.Backend, o Options) {
	spec := o.Spec
	spec.Limits.Disk = 32 << 20
	s := start(t, bounded(t), b, sandbox.Options{Spec: spec})
	for _, dir := range []string{sandbox.Workspace, "/tmp"} {
		_, err := s.Command(program, verbPrefix+"files", dir, "100000").Output(bounded(t))
		var ee *sandbox.ExitError
		if !errors.As(err, &ee) || ee.Limit != "Disk" || !strings.Contains(string(ee.Stderr), "no space left") {
			t.Errorf("100,000 files in 32 MiB of %s: %v", dir, err)
		}
	}
}
