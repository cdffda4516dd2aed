package sandboxtest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"connectrpc.com/connect"

	"github.com/stepward/stepward/internal/rpc"
	"github.com/stepward/stepward/internal/rpc/rpcconnect"
	"github.com/stepward/stepward/sandbox"
)

// Options adapt the suite to a backend.
type Options struct {
	Spec sandbox.Spec // of all sandboxes that the suite makes

	// Host is the address of this machine that a sandbox would reach if it had a
	// network. Defaults to 127.0.0.1, for sandboxes of this machine.
	Host string
}

const program = "/workspace/probe"

// limit bounds each call of the suite: what takes longer hangs.
const limit = 2 * time.Minute

// start makes a sandbox with the probe in it.
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
	data, err := os.ReadFile(BuildProbe(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.WriteFile(ctx, program, data, 0o755); err != nil {
		t.Fatalf("WriteFile of the probe: %v", err)
	}
	return s
}

func bounded(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	return ctx
}

func run(t *testing.T, s *sandbox.Sandbox, verb string, args ...string) string {
	t.Helper()
	out, err := s.Command(program, append([]string{verbPrefix + verb}, args...)...).Output(bounded(t))
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
	s := start(t, bounded(t), b, sandbox.Options{Spec: spec})

	t.Run("command", func(t *testing.T) { testCommand(t, s) })
	t.Run("handle", func(t *testing.T) { testHandle(t, s) })
	t.Run("kill", func(t *testing.T) { testKill(t, s) })
	t.Run("files", func(t *testing.T) { testFiles(t, s) })
	t.Run("tree", func(t *testing.T) { testTree(t, s) })
	t.Run("guest", func(t *testing.T) { testGuest(t, s) })
	t.Run("processes", func(t *testing.T) { testProcesses(t, b, o.Spec) })
	t.Run("limits", func(t *testing.T) { testLimits(t, b, o.Spec) })
	t.Run("connections", func(t *testing.T) { testConnections(t, b, o.Spec) })
	t.Run("claim", func(t *testing.T) { testClaim(t, b, o.Spec) })
	t.Run("life", func(t *testing.T) { testLife(t, b, o.Spec) })
	t.Run("closed", func(t *testing.T) { testClosed(t, s) })
}

func testCommand(t *testing.T, s *sandbox.Sandbox) {
	ctx := bounded(t)
	var out, errs bytes.Buffer
	c := s.Command(program, "probe:out", "3", "to out", "to err")
	c.Stdout, c.Stderr = &out, &errs
	var ee *sandbox.ExitError
	if err := c.Run(ctx); !errors.As(err, &ee) || ee.Code != 3 || ee.Signal != "" {
		t.Errorf("exit status 3: got %v", err)
	}
	if out.String() != "to out" || errs.String() != "to err" {
		t.Errorf("stdout %q, stderr %q", &out, &errs)
	}
	if _, err := s.Command(program, "probe:out", "1", "", "why").Output(ctx); !errors.As(err, &ee) || string(ee.Stderr) != "why" {
		t.Errorf("Output keeps the standard error: got %v", err)
	}
	in := bytes.Repeat([]byte("0123456789"), 100_000)
	c = s.Command(program, "probe:cat")
	c.Stdin = bytes.NewReader(in)
	if got, err := c.Output(ctx); err != nil || !bytes.Equal(got, in) {
		t.Errorf("stdin of 1 MB: %d bytes back, %v", len(got), err)
	}
	c = s.Command(program, "probe:env")
	c.Env = []string{"OWN=1", "HOME=/workspace"}
	env, err := c.Output(ctx)
	if err != nil {
		t.Error(err)
	}
	lines := strings.Split(string(env), "\n")
	for _, want := range []string{"SUITE=yes", "OWN=1", "HOME=/workspace", "TMPDIR=/tmp"} {
		if !slices.Contains(lines, want) {
			t.Errorf("environment has no %s: %q", want, lines)
		}
	}
	if strings.Contains(string(env), "STEPWARD_") {
		t.Errorf("environment has variables of the runner: %q", lines)
	}
	if got := run(t, s, "pwd"); got != sandbox.Workspace {
		t.Errorf("working directory %s", got)
	}
	c = s.Command(program, "probe:pwd")
	c.Dir = "/tmp"
	if got, err := c.Output(ctx); err != nil || string(got) != "/tmp" {
		t.Errorf("Dir /tmp: %s, %v", got, err)
	}
	for _, name := range []string{"no-such-command", "/no/such/command"} {
		var ce *sandbox.CommandError
		if err := s.Command(name).Run(ctx); !errors.As(err, &ce) || !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: got %v, want a CommandError that is ErrNotExist", name, err)
		}
	}
	c = s.Command(program, "probe:pwd")
	c.Dir = "/no/such/dir"
	if err := c.Run(ctx); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing directory: %v", err)
	}
	for what, bad := range map[string]*sandbox.Cmd{
		"the name": {Name: "\xff"}, "argument 2": {Name: program, Args: []string{"a", "\xff"}},
		"variable KEY": {Name: program, Env: []string{"KEY=secret\xff"}}, "invalid argument": {Name: program, Args: []string{"a\x00b"}},
	} {
		c := s.Command(bad.Name, bad.Args...)
		c.Env = bad.Env
		var ce *sandbox.CommandError
		if err := c.Run(ctx); !errors.As(err, &ce) || !strings.Contains(err.Error(), what) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q cannot be sent: %v, want a CommandError that says %s", bad.Args, err, what)
		}
	}
	if err := s.WriteFile(ctx, "plain", []byte("x"), 0o644); err != nil {
		t.Error(err)
	}
	if err := s.Command("/workspace/plain").Run(ctx); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("file that is not executable: %v", err)
	}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			want := fmt.Sprint("number ", i)
			if out, err := s.Command(program, "probe:out", "0", want, "").Output(ctx); err != nil || string(out) != want {
				t.Errorf("concurrent command: %q, %v", out, err)
			}
		})
	}
	wg.Wait()
}

// waiter reads the output of a command until it says that it hangs.
type waiter struct {
	said chan struct{}
	once sync.Once
}

func newWaiter() *waiter { return &waiter{said: make(chan struct{})} }

func (w *waiter) Write(p []byte) (int, error) {
	w.once.Do(func() { close(w.said) })
	return len(p), nil
}

func testKill(t *testing.T, s *sandbox.Sandbox) {
	for _, args := range [][]string{{"hang"}, {"daemons", "20", "stay"}, {"bomb"}} {
		t.Run(args[0], func(t *testing.T) {
			bound := bounded(t)
			ctx, cancel := context.WithCancel(bound)
			defer cancel()
			c := s.Command(program, append([]string{verbPrefix + args[0]}, args[1:]...)...)
			w := newWaiter()
			c.Stdout = w
			if err := c.Start(ctx); err != nil {
				t.Fatal(err)
			}
			select {
			case <-w.said:
			case <-bound.Done():
				t.Fatal("it never said that it runs")
			}
			begin := time.Now()
			cancel()
			err := c.Wait()
			t.Logf("killed in %v", time.Since(begin))
			var ee *sandbox.ExitError
			if !errors.As(err, &ee) || ee.Signal != "SIGKILL" || !errors.Is(err, context.Canceled) {
				t.Errorf("Wait: %v, want an ExitError by SIGKILL that is Canceled", err)
			}
			for _, arg := range []string{"probe:hang", "probe:bomb", "probe:daemon"} {
				if n := run(t, s, "count", arg); n != "0" {
					t.Errorf("%s processes %s are left", n, arg)
				}
			}
		})
	}
	t.Run("timeout", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(bounded(t), 300*time.Millisecond)
		defer cancel()
		var ee *sandbox.ExitError
		err := s.Command(program, "probe:hang").Run(ctx)
		if !errors.As(err, &ee) || !ee.TimedOut || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want an ExitError that timed out", err)
		}
	})
	t.Run("leftovers", func(t *testing.T) {
		if out := run(t, s, "daemons", "5"); !strings.Contains(out, "started") {
			t.Errorf("said %q", out)
		}
		if n := run(t, s, "count", "probe:hang"); n != "0" {
			t.Errorf("%s daemons outlived their command", n)
		}
	})
	t.Run("slow reader", func(t *testing.T) {
		ctx, cancel := context.WithCancel(bounded(t))
		defer cancel()
		blocked := make(chan struct{})
		c := s.Command(program, "probe:flood")
		r, w := io.Pipe() // that nobody reads: the command is held up, others and the kill are not
		c.Stdout = w
		if err := c.Start(ctx); err != nil {
			t.Fatal(err)
		}
		run(t, s, "pwd")
		cancel()
		go func() { defer close(blocked); c.Wait() }()
		r.Close()
		<-blocked
		if n := run(t, s, "count", "probe:flood"); n != "0" {
			t.Errorf("%s processes are left", n)
		}
	})
}

func testFiles(t *testing.T, s *sandbox.Sandbox) {
	ctx := bounded(t)
	big := bytes.Repeat([]byte("stepward"), 1<<17)
	for name, data := range map[string][]byte{"tree/a/empty": nil, "tree/a/b/small": []byte("hello"), "/workspace/tree/big": big} {
		if err := s.WriteFile(ctx, name, data, 0o640); err != nil {
			t.Fatal(err)
		}
		if got, err := s.ReadFile(ctx, name); err != nil || !bytes.Equal(got, data) {
			t.Errorf("ReadFile(%s): %d bytes, %v", name, len(got), err)
		}
	}
	tree, err := fs.Sub(s.FS(), "workspace/tree")
	if err != nil {
		t.Fatal(err)
	}
	if err := fstest.TestFS(tree, "a/empty", "a/b/small", "big"); err != nil {
		t.Error(err)
	}
	if info, err := fs.Stat(tree, "a/b/small"); err != nil || info.Mode() != 0o640 || info.Size() != 5 {
		t.Errorf("Stat: %v, %v", info, err)
	}
	if _, err := s.ReadFile(ctx, "none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("ReadFile of a missing file: %v", err)
	}
	for _, name := range []string{"/etc/stepward", "/stepward", "/usr/stepward", "/proc/self/comm"} {
		if err := s.WriteFile(ctx, name, []byte("x"), 0o644); err == nil {
			t.Errorf("WriteFile(%s) succeeded", name)
		}
	}
	if _, err := s.ReadFile(ctx, "tree"); err == nil {
		t.Error("ReadFile of a directory succeeded")
	}
	if err := s.WriteFile(ctx, "\xff", nil, 0o644); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("WriteFile of a name that is not UTF-8: %v", err)
	}
	if _, err := s.ReadFile(ctx, "\xff"); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("ReadFile of a name that is not UTF-8: %v", err)
	}
}

// guestEnds checks the ways in which a guest step ends, on any kind of backend.
func guestEnds(t *testing.T, call func(step string) ([]byte, error)) {
	t.Helper()
	var ge *sandbox.GuestError
	if _, err := call("permanent"); !errors.As(err, &ge) || !ge.Permanent || ge.RetryAfter != 3*time.Second {
		t.Errorf("permanent: %#v", err)
	}
	var ee *sandbox.ExitError
	if _, err := call("exit"); !errors.As(err, &ee) || ee.Code != 7 || string(ee.Stderr) != "leaving\n" {
		t.Errorf("exit: %v", err)
	}
	if _, err := call("exit0"); !errors.As(err, &ee) || !ee.NoAnswer {
		t.Errorf("exit without an answer: %v", err)
	}
	if out, err := call("environ"); err != nil || strings.Contains(string(out), "STEPWARD_") || !strings.Contains(string(out), "SUITE=yes") {
		t.Errorf("environ: %q, %v", out, err)
	}
	if out, err := call("fork"); err != nil || string(out) != "forked" {
		t.Errorf("fork: %q, %v", out, err)
	}
}

func testGuest(t *testing.T, s *sandbox.Sandbox) {
	ctx := bounded(t)
	call := func(step string) ([]byte, error) {
		return s.Guest(ctx, sandbox.GuestStep{
			Workflow: "w", Version: "1", Step: step, RunID: "9", Attempt: 2, IdempotencyKey: "k", Input: []byte("in"),
		})
	}
	if out, err := call("echo"); err != nil || string(out) != "w/1/9/2/k:in" {
		t.Errorf("echo: %q, %v", out, err)
	}
	if out, err := call("nothing"); err != nil || len(out) != 0 {
		t.Errorf("nothing: %q, %v", out, err)
	}
	large := bytes.Repeat([]byte{0xff, 0}, 4<<20)
	if out, err := s.Guest(ctx, sandbox.GuestStep{Step: "echo", Input: large}); err != nil || !bytes.HasSuffix(out, large) {
		t.Errorf("8 MiB through a step: %d bytes, %v", len(out), err)
	}
	var ge *sandbox.GuestError
	if _, err := call("error"); !errors.As(err, &ge) || ge.Message != "no luck" || ge.Permanent || ge.Panic || ge.Type != "*errors.errorString" {
		t.Errorf("error: %#v", err)
	}
	if _, err := call("panic"); !errors.As(err, &ge) || !ge.Panic || ge.Message != "boom" || !strings.Contains(ge.Stack, "sandboxtest.guest") {
		t.Errorf("panic: %#v", err)
	}
	guestEnds(t, call)
	var ee *sandbox.ExitError
	if n := run(t, s, "count", "probe:hang"); n != "0" {
		t.Errorf("%s processes that a step forked are left", n)
	}
	if out, err := s.Guest(ctx, sandbox.GuestStep{Step: "deadline", Timeout: time.Minute}); err != nil || string(out) != "true" {
		t.Errorf("deadline: %s, %v", out, err)
	}
	named := sandbox.GuestStep{ID: "named", Step: "echo", Input: []byte("in")}
	if out, err := s.Guest(ctx, named); err != nil || !bytes.HasSuffix(out, []byte(":in")) {
		t.Errorf("with an ID: %q, %v", out, err)
	}
	named.Input = []byte("other")
	if out, err := s.Guest(ctx, named); err != nil || !bytes.HasSuffix(out, []byte(":in")) {
		t.Errorf("once more with the same ID: %q, %v; it is the same call", out, err)
	}
	left, leave := context.WithCancelCause(ctx)
	time.AfterFunc(100*time.Millisecond, func() { leave(sandbox.ErrDetached) })
	if _, err := s.Guest(left, sandbox.GuestStep{ID: "left", Step: "stubborn"}); !errors.Is(err, sandbox.ErrDetached) {
		t.Errorf("a step that was left: %v", err)
	}
	again, end := context.WithTimeout(ctx, 100*time.Millisecond)
	defer end()
	if _, err := s.Guest(again, sandbox.GuestStep{ID: "left", Step: "nothing"}); !errors.As(err, &ee) || !ee.TimedOut {
		t.Errorf("a step that was left, and is followed again: %v", err)
	}
	short, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	if _, err := s.Guest(short, sandbox.GuestStep{Step: "stubborn"}); !errors.As(err, &ee) || !ee.TimedOut {
		t.Errorf("a step that ignores SIGTERM: %v", err)
	}
	tail := &sandbox.Tail{Limit: 64 << 10}
	begin := time.Now()
	out, err := s.Guest(ctx, sandbox.GuestStep{Step: "print", Stdout: tail})
	if err != nil || string(out) != "printed" || len(tail.Bytes()) != 64<<10 {
		t.Errorf("a step that prints 1 GiB: %q, %v, %d bytes kept", out, err, len(tail.Bytes()))
	}
	t.Logf("1 GiB printed in %v", time.Since(begin))
}

// testProcesses checks that a fork bomb harms only what started it.
func testProcesses(t *testing.T, b sandbox.Backend, spec sandbox.Spec) {
	ctx := bounded(t)
	caps, err := b.Probe(ctx)
	if err != nil {
		t.Fatal(err)
	}
	const most = 100
	spec.Limits.PIDs = most
	if !caps.PIDs {
		refuses(t, b, spec, "Limits.PIDs")
		return
	}
	s := start(t, ctx, b, sandbox.Options{Spec: spec})
	var ge *sandbox.GuestError
	var n int
	_, err = s.Guest(ctx, sandbox.GuestStep{Step: "bomb"})
	if !errors.As(err, &ge) || !strings.Contains(ge.Message, "resource temporarily unavailable") {
		t.Errorf("a step that is a fork bomb: %v, want the error of its own fork", err)
	} else if _, err := fmt.Sscanf(ge.Message, "after %d processes", &n); err != nil || n >= most {
		t.Errorf("it made %d processes of %d: %v", n, most, err)
	}
	t.Logf("a step: %v", err)

	bomb, cancel := context.WithCancel(ctx)
	defer cancel()
	c := s.Command(program, "probe:bomb")
	w := newWaiter()
	c.Stdout = w
	if err := c.Start(bomb); err != nil {
		t.Fatal(err)
	}
	<-w.said // that no more can be started
	// Whether there is room for another command, it says so: it is not lost.
	var ce *sandbox.CommandError
	var ee *sandbox.ExitError
	err = s.Command(program, "probe:pwd").Run(ctx)
	t.Logf("beside a fork bomb: %v", err)
	if err != nil && !errors.As(err, &ce) && !errors.As(err, &ee) {
		t.Errorf("a command beside a fork bomb: %v, want a CommandError or an ExitError", err)
	}
	cancel()
	if err := c.Wait(); !errors.As(err, &ee) || ee.Signal != "SIGKILL" {
		t.Errorf("the bomb: %v", err)
	}
	if n := run(t, s, "count", "probe:bomb"); n != "0" {
		t.Errorf("%s processes of it are left", n)
	}
}

// hello connects by hand.
func hello(ctx context.Context, b sandbox.Backend, id string, token []byte, epoch int64) (rpcconnect.RunnerClient, net.Conn, <-chan struct{}, error) {
	conn, err := b.Dial(ctx, id)
	if err != nil {
		return nil, nil, nil, err
	}
	closed := make(chan struct{})
	conn = rpc.Watch(conn, func() { close(closed) })
	c := rpcconnect.NewRunnerClient(rpc.Transport(conn), rpc.BaseURL, rpc.ClientOptions()...)
	if token != nil {
		_, err = c.Hello(ctx, connect.NewRequest(&rpc.HelloRequest{Token: token, Epoch: epoch}))
	}
	return c, conn, closed, err
}

func testConnections(t *testing.T, b sandbox.Backend, spec sandbox.Spec) {
	ctx := bounded(t)
	token := []byte("a token that only the worker has")
	id := fmt.Sprintf("suite-%d", time.Now().UnixNano())
	if _, err := b.Create(ctx, sandbox.Creation{ID: id, Spec: spec, TokenHash: sha256.Sum256(token)}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Destroy(context.Background(), id) })
	if _, err := b.Create(ctx, sandbox.Creation{ID: id, Spec: spec, TokenHash: sha256.Sum256(token)}); err == nil {
		t.Error("creating the same id twice succeeded")
	}
	gone := func(what string, closed <-chan struct{}) {
		t.Helper()
		select {
		case <-closed:
		case <-ctx.Done():
			t.Errorf("%s: the connection stays open", what)
		}
	}
	_, conn, closed, err := hello(ctx, b, id, []byte("wrong"), 1)
	if err == nil {
		t.Error("a wrong token was accepted")
	}
	gone("wrong token", closed)
	conn.Close()

	c, conn, closed, err := hello(ctx, b, id, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Kill(ctx, connect.NewRequest(&rpc.KillRequest{Id: "x"})); err == nil {
		t.Error("a call before Hello was answered")
	}
	gone("no Hello", closed)
	conn.Close()

	low, lowConn, lowClosed, err := hello(ctx, b, id, token, 5)
	if err != nil {
		t.Fatal(err)
	}
	defer lowConn.Close()
	same, sameConn, _, err := hello(ctx, b, id, token, 5)
	if err != nil {
		t.Fatal(err)
	}
	defer sameConn.Close()
	for _, c := range []rpcconnect.RunnerClient{low, same} {
		if _, err := c.Kill(ctx, connect.NewRequest(&rpc.KillRequest{Id: "x"})); err != nil {
			t.Errorf("two connections of one epoch: %v", err)
		}
	}
	_, highConn, _, err := hello(ctx, b, id, token, 6)
	if err != nil {
		t.Fatal(err)
	}
	defer highConn.Close()
	gone("lower epoch", lowClosed)
	if _, c, _, err := hello(ctx, b, id, token, 5); err == nil {
		t.Error("a stale epoch was accepted")
	} else if c != nil {
		c.Close()
	}
}

func testLife(t *testing.T, b sandbox.Backend, spec sandbox.Spec) {
	ctx := bounded(t)
	schema := fmt.Sprintf("suite%d", time.Now().UnixNano())
	labels := sandbox.Labels{Schema: schema, Run: 7, Step: "s", Attempt: 1, Epoch: 1}
	s, err := sandbox.Start(ctx, b, sandbox.Options{Spec: spec, Labels: labels})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Destroy(context.Background())
	if l, err := b.List(ctx, schema); err != nil || len(l) != 1 || l[0].ID != s.ID() || l[0].Labels != labels {
		t.Errorf("List: %+v, %v", l, err)
	}
	if err := s.Destroy(ctx); err != nil {
		t.Errorf("Destroy: %v", err)
	}
	if err := s.Destroy(ctx); err != nil {
		t.Errorf("second Destroy: %v", err)
	}
	if l, err := b.List(ctx, schema); err != nil || len(l) != 0 {
		t.Errorf("List after Destroy: %+v, %v", l, err)
	}

	// What is required and cannot be had is refused, and leaves nothing.
	demanding := spec
	demanding.Require.Isolation = "a planet of its own"
	var ue *sandbox.UnsupportedError
	if _, err := sandbox.Start(ctx, b, sandbox.Options{Spec: demanding, Labels: labels}); !errors.As(err, &ue) || ue.Field != "Require.Isolation" {
		t.Errorf("a requirement that no backend meets: %v", err)
	}
	if l, err := b.List(ctx, schema); err != nil || len(l) != 0 {
		t.Errorf("List after a refusal: %+v, %v", l, err)
	}

	// The orphan rule: nobody is ever connected.
	id := fmt.Sprintf("orphan-%d", time.Now().UnixNano())
	_, err = b.Create(ctx, sandbox.Creation{ID: id, Spec: spec, Labels: sandbox.Labels{Schema: schema}, OrphanAfter: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Destroy(context.Background(), id)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		l, err := b.List(ctx, schema)
		if err == nil && len(l) == 0 {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("an orphan is still listed: %+v, %v", l, err)
		}
	}
}

// testClosed comes last: it destroys the sandbox under a command.
func testClosed(t *testing.T, s *sandbox.Sandbox) {
	ctx := bounded(t)
	c := s.Command(program, "probe:hang")
	w := newWaiter()
	c.Stdout = w
	if err := c.Start(ctx); err != nil {
		t.Fatal(err)
	}
	<-w.said
	if err := s.Destroy(ctx); err != nil {
		t.Error(err)
	}
	if err := c.Wait(); !errors.Is(err, sandbox.ErrLost) {
		t.Errorf("a command whose sandbox was destroyed: %v, want ErrLost", err)
	}
	if err := s.Command(program, "probe:pwd").Run(ctx); !errors.Is(err, sandbox.ErrLost) {
		t.Errorf("a command after Destroy: %v, want ErrLost", err)
	}
	if _, err := s.ReadFile(ctx, "x"); !errors.Is(err, sandbox.ErrLost) {
		t.Errorf("ReadFile after Destroy: %v, want ErrLost", err)
	}
}
