package lambda

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stepward/stepward/internal/testenv"
	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/sandbox/sandboxtest"
)

func TestMain(m *testing.M) {
	if program := os.Getenv(launchMode); program != "" {
		fmt.Fprintln(os.Stderr, launch(program))
		os.Exit(1)
	}
	code := m.Run()
	_ = os.RemoveAll(built.dir)
	os.Exit(code)
}

const self = "/proc/self/exe" // the function's program, as a command in it

func start(t *testing.T, b *Backend, spec sandbox.Spec) *sandbox.Sandbox {
	t.Helper()
	s, err := sandbox.Start(t.Context(), b, sandbox.Options{Spec: spec})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestBackend(t *testing.T) {
	c := newCloud(t)
	sandboxtest.TestBackend(t, c.backend(), sandboxtest.Options{})
	if len(c.seen) > 0 {
		t.Errorf("AWS refused: %q", c.seen)
	}
}

func TestEscape(t *testing.T) {
	c := newCloud(t)
	sandboxtest.TestEscape(t, patiently{c.backend(), c}, sandboxtest.Options{})
}

func TestLeak(t *testing.T) {
	c := newCloud(t)
	sandboxtest.TestLeak(t, patiently{c.backend(), c}, sandboxtest.Options{})
}

// patiently is a backend whose commands have the environment of the one before: the
// end of a response can be read before AWS would hand it on.
type patiently struct {
	*Backend
	c *cloud
}

func (p patiently) Invoke(ctx context.Context, id string, request []byte) (io.ReadCloser, error) {
	if e := p.c.ran(); e != nil && e.tenant == id && ctx.Err() == nil {
		e.await()
	}
	return p.Backend.Invoke(ctx, id, request)
}

// TestPayloadLimits meets those of AWS, in both directions.
func TestPayloadLimits(t *testing.T) {
	c := newCloud(t)
	s := start(t, c.backend(), sandbox.Spec{})
	cat := func(n int) error {
		cmd := s.Command(self, "probe:cat")
		cmd.Stdin, cmd.Stdout = bytes.NewReader(make([]byte, n)), io.Discard
		return cmd.Run(t.Context())
	}
	const fits = 3*(MaxRequest/4) - 300 // as base64, with what is around it
	if err := cat(fits); err != nil {
		t.Errorf("an input of %d bytes: %v", fits, err)
	}
	var le *LimitError
	err := cat(fits + 600)
	if !errors.As(err, &le) || le.Limit != "request payload" || le.Size <= MaxRequest || errors.Is(err, sandbox.ErrLost) {
		t.Errorf("an input that is too large: %v", err)
	}
	if _, err := s.Guest(t.Context(), sandbox.GuestStep{Step: "echo", Input: make([]byte, fits+600)}); !errors.As(err, &le) || !strings.Contains(err.Error(), "6291456 bytes") {
		t.Errorf("a guest step's input that is too large: %v", err)
	}
	if len(c.seen) > 0 {
		t.Errorf("AWS was asked all the same: %q", c.seen)
	}
	c.set(func(a *behavior) { a.maxRequest = 1 << 20 }) // as if the limit were lower than this backend knows
	if err := cat(2 << 20); !errors.As(err, &le) || !slices.Contains(c.seen, "RequestTooLargeException") || errors.Is(err, sandbox.ErrLost) {
		t.Errorf("an input that AWS refuses: %v", err)
	}
	c.set(func(a *behavior) { a.maxResponse = 1 << 20 })
	cmd := s.Command(self, "probe:print", fmt.Sprint(4<<20))
	cmd.Stdout = io.Discard
	if err := cmd.Run(t.Context()); !errors.As(err, &le) || le.Limit != "response payload" || !errors.Is(err, sandbox.ErrLost) {
		t.Errorf("an output that is too large: %v", err)
	}
}

// TestBuffered has responses come as a whole, which are less then.
func TestBuffered(t *testing.T) {
	c := newCloud(t)
	b := c.backend()
	b.config.Buffered = true
	s := start(t, b, sandbox.Spec{})
	cat := s.Command(self, "probe:cat")
	cat.Stdin = strings.NewReader("in and out")
	if out, err := cat.Output(t.Context()); err != nil || string(out) != "in and out" {
		t.Errorf("cat: %q, %v", out, err)
	}
	var ee *sandbox.ExitError
	if _, err := s.Command(self, "probe:out", "3", "", "why").Output(t.Context()); !errors.As(err, &ee) || ee.Code != 3 || string(ee.Stderr) != "why" {
		t.Errorf("exit status 3: %v", err)
	}
	if out, err := s.Guest(t.Context(), sandbox.GuestStep{Step: "echo", Input: []byte("in")}); err != nil || !bytes.HasSuffix(out, []byte(":in")) {
		t.Errorf("a guest step: %q, %v", out, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if err := s.Command(self, "probe:hang").Run(ctx); !errors.As(err, &ee) || !ee.TimedOut {
		t.Errorf("the deadline of a context: %v", err)
	}
	c.set(func(a *behavior) { a.careless = true })
	var ue *sandbox.UnavailableError
	if err := start(t, b, sandbox.Spec{}).Command(self, "probe:pwd").Run(t.Context()); !errors.As(err, &ue) || !strings.Contains(err.Error(), "that of another sandbox") {
		t.Errorf("in an environment of another sandbox: %v", err)
	}
	c.set(func(a *behavior) { a.careless = false })
	printed := func(n int) error {
		cmd := s.Command(self, "probe:print", fmt.Sprint(n))
		cmd.Stdout = io.Discard
		return cmd.Run(t.Context())
	}
	if err := printed(5 << 20); err != nil {
		t.Errorf("an output of 5 MiB: %v", err)
	}
	var le *LimitError
	if err := printed(6 << 20); !errors.As(err, &le) || le.Limit != "response payload" || le.Max != "6291456 bytes" || !errors.Is(err, sandbox.ErrLost) {
		t.Errorf("an output that is too large: %v", err)
	}
}

// TestTimeLimit meets the limit that the runner keeps, and AWS's own, which ends
// the runner.
func TestTimeLimit(t *testing.T) {
	c := newCloud(t)
	c.set(func(a *behavior) { a.timeout = 4 * time.Second })
	s := start(t, c.backend(), sandbox.Spec{})
	if got := s.Enforcement().Limits.Time; got != 2*time.Second {
		t.Errorf("Limits.Time is %v", got)
	}
	var ee *sandbox.ExitError
	err := s.Command(self, "probe:hang").Run(t.Context())
	if !errors.As(err, &ee) || !ee.TimedOut || ee.Limit != "Time" || !strings.Contains(err.Error(), "its limit of 2s of time, Limits.Time") {
		t.Errorf("a command that hangs: %v", err)
	}
	var le *LimitError
	err = c.whileItHangs(t, s, func(e *environment) { _ = e.cmd.Process.Signal(syscall.SIGSTOP) })
	if !errors.As(err, &le) || le.Limit != "duration" || le.Max != "4s" || !errors.Is(err, sandbox.ErrLost) {
		t.Errorf("a function that hangs: %v", err)
	}
}

// whileItHangs does something to the environment of a command, and returns the
// command's error.
func (c *cloud) whileItHangs(t *testing.T, s *sandbox.Sandbox, do func(*environment)) error {
	t.Helper()
	r, w := io.Pipe()
	cmd := s.Command(self, "probe:hang")
	cmd.Stdout = w
	if err := cmd.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(r, make([]byte, len("hanging\n"))); err != nil {
		t.Fatal(err)
	}
	do(c.ran())
	return cmd.Wait()
}

// ran returns the environment that something was run in last.
func (c *cloud) ran() *environment {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last
}

func TestEnvironmentDies(t *testing.T) {
	c := newCloud(t)
	s := start(t, c.backend(), sandbox.Spec{})
	err := c.whileItHangs(t, s, func(e *environment) { _ = e.cmd.Process.Kill() })
	if !errors.Is(err, sandbox.ErrLost) || !strings.Contains(err.Error(), "Runtime.ExitError") {
		t.Errorf("the function's process is killed: %v", err)
	}
	if out, err := s.Command(self, "probe:out", "0", "on", "").Output(t.Context()); err != nil || string(out) != "on" {
		t.Errorf("the next command: %q, %v", out, err)
	}
}

// TestNotTwice has AWS fail where it may have run something, and where it has not.
func TestNotTwice(t *testing.T) {
	c := newCloud(t)
	s := start(t, c.backend(), sandbox.Spec{})
	c.set(func(a *behavior) { a.fail = []string{"ServiceException"} })
	if err := s.Command(self, "probe:pwd").Run(t.Context()); !errors.Is(err, sandbox.ErrLost) {
		t.Errorf("an error of the service: %v, want ErrLost", err)
	}
	if len(c.seen) != 1 {
		t.Errorf("it was tried again: %q", c.seen)
	}
	c.set(func(a *behavior) { a.fail = []string{"TooManyRequestsException"} })
	if err := s.Command(self, "probe:pwd").Run(t.Context()); err != nil {
		t.Errorf("throttled, and tried again: %v", err)
	}
	c.set(func(a *behavior) { a.fail = slices.Repeat([]string{"TooManyRequestsException"}, 10) })
	if err := s.Command(self, "probe:pwd").Run(t.Context()); err == nil || errors.Is(err, sandbox.ErrLost) || !strings.Contains(err.Error(), "as many invocations as it may") {
		t.Errorf("throttled for long: %v", err)
	}
}

func TestUnavailable(t *testing.T) {
	c := newCloud(t)
	probe := func(b *Backend, say string) {
		t.Helper()
		var ue *sandbox.UnavailableError
		if _, err := b.Probe(t.Context()); !errors.As(err, &ue) || !strings.Contains(err.Error(), say) {
			t.Errorf("Probe: %v, want that it says %q", err, say)
		}
	}
	probe(New(Config{}), "Config needs")
	other := c.backend()
	other.config.Function = "other"
	probe(other, "Function not found")
	c.set(func(a *behavior) { a.isolation = false })
	probe(c.backend(), "TenancyConfig PER_TENANT")
	c.set(func(a *behavior) { a.isolation, a.timeout = true, 2*time.Second })
	probe(c.backend(), "make it longer")
	c.set(func(a *behavior) { a.timeout, c.program = MaxTime, "/bin/false" })
	probe(c.backend(), "Runtime.ExitError")
}

// TestOneSandboxOneEnvironment has AWS break its promise of tenant isolation.
func TestOneSandboxOneEnvironment(t *testing.T) {
	c := newCloud(t)
	b := c.backend()
	one, other := start(t, b, sandbox.Spec{}), start(t, b, sandbox.Spec{})
	c.ran().await() // the probe's
	ran := func(s *sandbox.Sandbox) *environment {
		t.Helper()
		if err := s.Command(self, "probe:pwd").Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		e := c.ran()
		e.await()
		return e
	}
	first := ran(one)
	if ran(one) != first {
		t.Error("the environment was not used again: this test shows nothing")
	}
	if ran(other) == first {
		t.Error("two sandboxes share an environment")
	}
	c.set(func(a *behavior) { a.careless = true })
	third := start(t, b, sandbox.Spec{})
	var ue *sandbox.UnavailableError
	if err := third.Command(self, "probe:pwd").Run(t.Context()); !errors.As(err, &ue) || !strings.Contains(err.Error(), "that of another sandbox") {
		t.Errorf("in an environment of another sandbox: %v", err)
	}
	testenv.Receive(t, c.ran().dead) // the function's process has ended itself
}

// TestInside looks at what a command could take from the function: its credentials,
// the runtime API, by which it could answer for others.
func TestInside(t *testing.T) {
	c := newCloud(t)
	s := start(t, c.backend(), sandbox.Spec{})
	run := func(args ...string) string {
		t.Helper()
		out, err := s.Command(self, args...).Output(t.Context())
		if err != nil {
			t.Fatal(args, err)
		}
		return string(out)
	}
	if env := run("probe:env"); strings.Contains(env, "AWS") || strings.Contains(env, "canary") {
		t.Errorf("the environment of a command: %q", env)
	}
	e := c.ran()
	if env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", e.cmd.Process.Pid)); err == nil && !bytes.Contains(env, []byte("canary-key")) {
		t.Errorf("the function's process has no credentials that could be taken: %q", env)
	}
	for _, secret := range []string{"canary-key", "canary-token"} {
		if got := run("probe:environ", secret); got == "yes" {
			t.Error("a command reads the function's credentials")
		}
	}
	api := e.api.Listener.Addr().String()
	control, err := net.Dial("tcp", api)
	if err != nil {
		t.Fatal(err)
	}
	control.Close()
	if got := run("probe:connect", api); !strings.Contains(got, "operation not permitted") {
		t.Errorf("a command that connects to the runtime API: %s", got)
	}
	if !s.Enforcement().ReadOnlyRoot || s.Enforcement().Network != "none" || s.Enforcement().Isolation != "microvm" {
		t.Errorf("enforcement %+v", s.Enforcement())
	}
}

// TestStreams reads output while the command runs, and holds it up.
func TestStreams(t *testing.T) {
	c := newCloud(t)
	s := start(t, c.backend(), sandbox.Spec{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r, w := io.Pipe()
	cmd := s.Command(self, "probe:flood")
	cmd.Stdout, cmd.Timeout = w, time.Minute
	if err := cmd.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(r, make([]byte, 8<<20)); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = io.Copy(io.Discard, r) })
	cancel()
	if err := cmd.Wait(); !errors.Is(err, sandbox.ErrLost) || !errors.Is(err, context.Canceled) {
		t.Errorf("Wait: %v", err)
	}
	w.Close()
	wg.Wait()
}
