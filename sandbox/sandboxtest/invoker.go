package sandboxtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"testing/iotest"
	"time"

	"github.com/stepward/stepward/sandbox"
)

// self is the program that serves the suite where nothing can be written to first.
const self = "/proc/self/exe"

// testInvoker checks what remains of a sandbox without connections, and that the
// rest is refused.
func testInvoker(t *testing.T, b sandbox.Backend, spec sandbox.Spec) {
	spec.Env = map[string]string{"SUITE": "yes"}
	s := start(t, bounded(t), b, sandbox.Options{Spec: spec})
	t.Run("command", func(t *testing.T) { testInvokedCommand(t, s) })
	t.Run("guest", func(t *testing.T) { testInvokedGuest(t, s) })
	t.Run("kill", func(t *testing.T) { testInvokedKill(t, s) })
	t.Run("apart", func(t *testing.T) { testInvokedApart(t, s) })
	t.Run("refused", func(t *testing.T) { testInvokerRefuses(t, b, s, spec) })
}

func testInvokedCommand(t *testing.T, s *sandbox.Sandbox) {
	ctx := bounded(t)
	var out, errs bytes.Buffer
	c := s.Command(self, "probe:out", "3", "to out", "to err")
	c.Stdout, c.Stderr = &out, &errs
	var ee *sandbox.ExitError
	if err := c.Run(ctx); !errors.As(err, &ee) || ee.Code != 3 || out.String() != "to out" || errs.String() != "to err" {
		t.Errorf("exit status 3: %v, stdout %q, stderr %q", err, &out, &errs)
	}
	if _, err := s.Command(self, "probe:out", "1", "", "why").Output(ctx); !errors.As(err, &ee) || string(ee.Stderr) != "why" {
		t.Errorf("Output keeps the standard error: %v", err)
	}
	in := bytes.Repeat([]byte("01234567\x00\xff\x1b]0;x\a\x1b[2J\r\n"), 50_000)
	c = s.Command(self, "probe:cat")
	c.Stdin = bytes.NewReader(in)
	if got, err := c.Output(ctx); err != nil || !bytes.Equal(got, in) {
		t.Errorf("stdin of 1 MB, of all kinds of bytes: %d back, %v", len(got), err)
	}
	if u := c.Usage(); u.Stdin != int64(len(in)) || u.Stdout != int64(len(in)) || u.Memory <= 0 || u.Wall <= 0 {
		t.Errorf("usage %+v", u)
	}
	c = s.Command(self, "probe:cat")
	c.Stdin = bytes.NewReader(nil)
	if got, err := c.Output(ctx); err != nil || len(got) > 0 {
		t.Errorf("empty stdin: %q, %v", got, err)
	}
	half := errors.New("the other half is missing")
	c = s.Command(self, "probe:cat")
	c.Stdin = io.MultiReader(strings.NewReader("half"), iotest.ErrReader(half))
	if got, err := c.Output(ctx); !errors.Is(err, half) || string(got) != "half" {
		t.Errorf("a Stdin that fails: %q, %v", got, err)
	}
	c = s.Command(self, "probe:env")
	c.Env = []string{"OWN=1"}
	env, err := c.Output(ctx)
	lines := strings.Split(string(env), "\n")
	if err != nil || !slices.Contains(lines, "SUITE=yes") || !slices.Contains(lines, "OWN=1") || strings.Contains(string(env), "STEPWARD_") {
		t.Errorf("environment %q, %v", lines, err)
	}
	c = s.Command(self, "probe:pwd")
	c.Dir = "/tmp"
	if got, err := c.Output(ctx); err != nil || string(got) != "/tmp" {
		t.Errorf("Dir /tmp: %s, %v", got, err)
	}
	var ce *sandbox.CommandError
	if err := s.Command("no-such-command").Run(ctx); !errors.As(err, &ce) || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no such command: %v", err)
	}
	c = s.Command(self, "probe:numbers", "200000")
	c.MaxOutput = 10_000
	if got, err := c.Output(ctx); err != nil || !bytes.HasSuffix(got, []byte("\n200000\n")) || c.Usage().Truncated == 0 {
		t.Errorf("MaxOutput: %d bytes, %v, usage %+v", len(got), err, c.Usage())
	}
	var wg sync.WaitGroup
	for i := range 3 {
		wg.Go(func() {
			want := fmt.Sprint("number ", i)
			if out, err := s.Command(self, "probe:out", "0", want, "").Output(ctx); err != nil || string(out) != want {
				t.Errorf("concurrent command: %q, %v", out, err)
			}
		})
	}
	wg.Wait()
}

func testInvokedGuest(t *testing.T, s *sandbox.Sandbox) {
	ctx := bounded(t)
	call := func(step string) ([]byte, error) {
		return s.Guest(ctx, sandbox.GuestStep{
			Workflow: "w", Version: "1", Step: step, RunID: "9", Attempt: 2, IdempotencyKey: "k", Input: []byte("in"),
		})
	}
	if out, err := call("echo"); err != nil || string(out) != "w/1/9/2/k:in" {
		t.Errorf("echo: %q, %v", out, err)
	}
	var ge *sandbox.GuestError
	if _, err := call("panic"); !errors.As(err, &ge) || !ge.Panic || ge.Message != "boom" {
		t.Errorf("panic: %#v", err)
	}
	guestEnds(t, call)
	tail := &sandbox.Tail{Limit: 64 << 10}
	out, err := s.Guest(ctx, sandbox.GuestStep{Step: "print", Input: []byte("1024"), Stdout: tail})
	if err != nil || string(out) != "printed" || len(tail.Bytes()) != 64<<10 {
		t.Errorf("a step that prints 1 GiB: %q, %v, %d bytes kept", out, err, len(tail.Bytes()))
	}
	var seen []string
	out, err = s.Guest(ctx, sandbox.GuestStep{
		Step: "shows", Beat: func(d []byte) { seen = append(seen, "beat "+string(d)) },
		Append:   func(_ int64, stream string, _ []byte) error { seen = append(seen, "entry of "+stream); return nil },
		Progress: func(name string, value []byte) { seen = append(seen, name+"="+string(value)) },
	})
	if err != nil || !strings.Contains(string(out), "takes no entries") {
		t.Errorf("an entry of a stream, which cannot be answered: %q, %v", out, err)
	}
	slices.Sort(seen)
	if want := []string{"beat 1", "done=2"}; !slices.Equal(seen, want) {
		t.Errorf("a step shows %q, want %q", seen, want)
	}
}

func testInvokedKill(t *testing.T, s *sandbox.Sandbox) {
	var ee *sandbox.ExitError
	c := s.Command(self, "probe:daemons", "20", "stay")
	c.Timeout = 500 * time.Millisecond
	if err := c.Run(bounded(t)); !errors.As(err, &ee) || !ee.TimedOut || ee.Signal != "SIGKILL" {
		t.Errorf("Timeout: %v", err)
	}
	ctx, cancel := context.WithTimeout(bounded(t), 500*time.Millisecond)
	defer cancel()
	if _, err := s.Guest(ctx, sandbox.GuestStep{Step: "stubborn"}); !errors.As(err, &ee) || !ee.TimedOut {
		t.Errorf("the deadline of a context: %v", err)
	}
	for _, arg := range []string{"probe:hang", "probe:daemon"} {
		if out, err := s.Command(self, "probe:count", arg).Output(bounded(t)); err != nil || string(out) != "0" {
			t.Errorf("%s %s are left, %v", out, arg, err)
		}
	}
	gone, leave := context.WithCancel(bounded(t))
	c = s.Command(self, "probe:hang")
	c.Timeout = time.Minute // or it would go on longer than the suite
	w := newWaiter()
	c.Stdout = w
	if err := c.Start(gone); err != nil {
		t.Fatal(err)
	}
	w.wait(t)
	leave()
	if err := c.Wait(); !errors.Is(err, sandbox.ErrLost) || !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelation, which reaches nobody: %v, want ErrLost that is Canceled", err)
	}
}

// testInvokedApart checks that a command finds nothing of an earlier one.
func testInvokedApart(t *testing.T, s *sandbox.Sandbox) {
	run := func(verb string, args ...string) string {
		t.Helper()
		out, err := s.Command(self, append([]string{verbPrefix + verb}, args...)...).Output(bounded(t))
		if err != nil {
			t.Fatalf("%s: %v", verb, err)
		}
		return string(out)
	}
	if got := run("litter", "/tmp/left/deep"); got != "yes" {
		t.Fatal(got)
	}
	if got := run("stat", "/tmp/left"); got == "yes" {
		t.Error("a file of an earlier command is there")
	}
	for _, c := range []struct{ verb, arg string }{
		{"connect", "127.0.0.1:1"}, {"environ", "AWS_SECRET_ACCESS_KEY"}, {"vmread", ""}, {"keyring", ""}, {"userns", ""},
	} {
		if got := run(c.verb, c.arg); got == "yes" || c.verb == "connect" && !strings.Contains(got, "operation not permitted") {
			t.Errorf("probe %s %s: %s", c.verb, c.arg, got)
		}
	}
}

func testInvokerRefuses(t *testing.T, b sandbox.Backend, s *sandbox.Sandbox, spec sandbox.Spec) {
	ctx := bounded(t)
	terminal := s.Command(self)
	terminal.Terminal = &sandbox.Terminal{Rows: 24, Cols: 80}
	named := s.Command(self)
	named.ID = "name"
	_, read := s.ReadFile(ctx, "file")
	_, stat := fs.Stat(s.FS(), "tmp")
	_, dial := b.Dial(ctx, s.ID())
	unused, err := sandbox.Start(ctx, b, sandbox.Options{Spec: spec})
	if err != nil {
		t.Fatal(err)
	}
	_, open := sandbox.Open(ctx, b, s.Handle(), sandbox.Options{})
	for what, err := range map[string]error{
		"Terminal": terminal.Start(ctx), "ID": named.Start(ctx), "Attach": s.Attach("name", 0, 0).Start(ctx),
		"Claim":    unused.Claim(ctx, sandbox.Options{Spec: spec}),
		"ReadFile": read, "WriteFile": s.WriteFile(ctx, "file", nil, 0o600), "FS": stat, "Dial": dial, "Open": open,
		"Upload": s.Upload(ctx, fstest.MapFS{"a": {}}, "up"), "Download": s.Download(ctx, "down", t.TempDir(), sandbox.DownloadOptions{}),
		"SetNetwork": s.SetNetwork(ctx, sandbox.NetworkPolicy{Allow: []string{"example.com"}}),
	} {
		t.Run(what, func(t *testing.T) {
			if !errors.Is(err, errors.ErrUnsupported) || errors.Is(err, sandbox.ErrLost) {
				t.Errorf("%v, want ErrUnsupported", err)
			}
			t.Log(Refused + what)
		})
	}
	caps, err := b.Probe(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for field, c := range map[string]struct {
		can bool
		set func(*sandbox.Spec)
	}{
		"Image":                {caps.Images, func(s *sandbox.Spec) { s.Image = "debian" }},
		"Network.Allow":        {caps.Egress, func(s *sandbox.Spec) { s.Network.Allow = []string{"example.com"} }},
		"Limits.Memory":        {caps.Memory, func(s *sandbox.Spec) { s.Limits.Memory = 1 << 30 }},
		"Limits.CPU":           {caps.CPU, func(s *sandbox.Spec) { s.Limits.CPU = 1 }},
		"Limits.PIDs":          {caps.PIDs, func(s *sandbox.Spec) { s.Limits.PIDs = 100 }},
		"Limits.Disk":          {caps.Disk, func(s *sandbox.Spec) { s.Limits.Disk = 1 << 20 }},
		"Limits.OpenFiles":     {caps.OpenFiles, func(s *sandbox.Spec) { s.Limits.OpenFiles = 100 }},
		"Share":                {false, func(s *sandbox.Spec) { s.Share = true }},
		"Limits.Time":          {false, func(s *sandbox.Spec) { s.Limits.Time = 1000 * time.Hour }},
		"Require.UserNS":       {caps.UserNS, func(s *sandbox.Spec) { s.Require.UserNS = true }},
		"Require.Landlock":     {caps.Landlock > 0, func(s *sandbox.Spec) { s.Require.Landlock = true }},
		"Require.Seccomp":      {caps.Seccomp, func(s *sandbox.Spec) { s.Require.Seccomp = true }},
		"Require.Isolation":    {false, func(s *sandbox.Spec) { s.Require.Isolation = "another" }},
		"Require.ReadOnlyRoot": {s.Enforcement().ReadOnlyRoot, func(s *sandbox.Spec) { s.Require.ReadOnlyRoot = true }},
	} {
		t.Run(field, func(t *testing.T) {
			spec := spec
			c.set(&spec)
			_, err := sandbox.Start(ctx, b, sandbox.Options{Spec: spec})
			var ue *sandbox.UnsupportedError
			if refused := errors.As(err, &ue) && ue.Field == field; refused == c.can || c.can && err != nil {
				t.Errorf("it can enforce that: %v, got %v", c.can, err)
			}
			if !c.can {
				t.Log(Refused + field)
			}
		})
	}
}
