package runner_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sys/unix"

	"github.com/stepward/stepward/internal/rpc"
	"github.com/stepward/stepward/internal/rpc/rpcconnect"
	"github.com/stepward/stepward/internal/runner"
	"github.com/stepward/stepward/internal/shim"
	"github.com/stepward/stepward/sandbox/sandboxtest"
)

// A served is a tool runner on a socket, with all that it does to itself but
// without namespaces around it.
type served struct {
	socket, program string
	token           []byte
	pid             int
}

func serve(t *testing.T) served {
	t.Helper()
	s := served{program: sandboxtest.BuildProbe(t), token: []byte("token")}
	dir, err := os.MkdirTemp("/tmp", "stepward-runner-") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s.socket = filepath.Join(dir, "s")
	hash := sha256.Sum256(s.token)
	c := exec.Command(s.program)
	c.Env = []string{
		runner.EnvMode + "=serve", runner.EnvSocket + "=" + s.socket, runner.EnvOrphanAfter + "=10m",
		runner.EnvTokenHash + "=" + hex.EncodeToString(hash[:]),
	}
	c.Stderr = os.Stderr
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Process.Kill(); c.Wait() })
	s.pid = c.Process.Pid
	return s
}

// client connects, and says Hello.
func (s served) client(t *testing.T) rpcconnect.RunnerClient {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	conn, err := net.Dial("unix", s.socket)
	for ; err != nil && time.Now().Before(deadline); conn, err = net.Dial("unix", s.socket) {
		_, _ = unix.Poll(nil, 1) // it is still starting
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	c := rpcconnect.NewRunnerClient(rpc.Transport(conn), rpc.BaseURL, rpc.ClientOptions()...)
	h, err := c.Hello(t.Context(), connect.NewRequest(&rpc.HelloRequest{Token: s.token, Epoch: 1}))
	if err != nil {
		t.Fatal(err)
	}
	if h.Msg.Protocol != rpc.Protocol || !h.Msg.Seccomp {
		t.Errorf("hello: %v", h.Msg)
	}
	return c
}

// result is all that a stream of events says.
type result struct {
	out       [3]bytes.Buffer
	truncated int64
	end       *rpc.End
}

func follow(ctx context.Context, c rpcconnect.RunnerClient, req *rpc.ExecRequest) (r result, err error) {
	if req.Dir == "" {
		req.Dir = "/tmp"
	}
	events, err := c.Exec(ctx, connect.NewRequest(req))
	if err != nil {
		return r, err
	}
	defer events.Close()
	for events.Receive() {
		switch ev := events.Msg().Event.(type) {
		case *rpc.ExecEvent_Output:
			r.out[ev.Output.Stream].Write(ev.Output.Data)
			r.truncated += ev.Output.Truncated
		case *rpc.ExecEvent_End:
			r.end = ev.End
		}
	}
	return r, events.Err()
}

// The tool runner and its shims have the threads that they will need before anything
// runs that could take them: a limit of the machine's, which this process may have
// inherited, keeps none for them.
func TestThreadsAreKept(t *testing.T) {
	var old unix.Rlimit
	if err := unix.Prlimit(0, unix.RLIMIT_NPROC, nil, &old); err != nil {
		t.Fatal(err)
	}
	finite := unix.Rlimit{Cur: min(old.Cur, 1<<20), Max: min(old.Max, 1<<20)}
	if err := unix.Prlimit(0, unix.RLIMIT_NPROC, &finite, nil); err != nil {
		t.Fatal(err)
	}
	s := serve(t)
	c := s.client(t)
	r, err := follow(t.Context(), c, &rpc.ExecRequest{Id: "limit", Name: "cat", Args: []string{"/proc/self/limits"}})
	if want := fmt.Sprintf("Max processes %d %d processes", finite.Cur, finite.Max); err != nil || !strings.Contains(strings.Join(strings.Fields(r.out[0].String()), " "), want) {
		t.Errorf("a command has not the limit of the tool runner, %s: %s, %v, %v", want, r.out[0].String(), r.end, err)
	}
	below, err := shim.Descendants(s.pid)
	if err != nil || len(below) == 0 {
		t.Fatalf("the shim: %v, %v", below, err)
	}
	for name, pid := range map[string]int{"tool runner": s.pid, "shim": below[0]} {
		if threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid)); err != nil || len(threads) < 12 {
			t.Errorf("the %s has %d threads, %v", name, len(threads), err)
		}
	}
}

func TestExec(t *testing.T) {
	s := serve(t)
	c := s.client(t)
	ctx := t.Context()
	req := &rpc.ExecRequest{Id: "a", Name: s.program, Args: []string{"probe:out", "3", "to out", "to err"}}
	r, err := follow(ctx, c, req)
	if err != nil || r.end.GetCode() != 3 || r.out[0].String() != "to out" || r.out[1].String() != "to err" {
		t.Errorf("%v, %v, %q, %q", r.end, err, &r.out[0], &r.out[1])
	}
	// The end of an exec that is over is still there for a while; who asks again
	// does not run it again. Output that a reader has seen to its end is not kept.
	r, err = follow(ctx, c, req)
	if err != nil || r.end.GetCode() != 3 || r.out[0].Len() > 0 {
		t.Errorf("asked again: %v, %v, %q", r.end, err, &r.out[0])
	}
	for name, code := range map[string]unix.Errno{"no-such-command": unix.ENOENT, "/no/such/file": unix.ENOENT, "/etc/passwd": unix.EACCES} {
		r, err := follow(ctx, c, &rpc.ExecRequest{Id: name, Name: name})
		if err != nil || unix.Errno(r.end.GetStartErrno()) != code || !strings.Contains(r.end.GetStartError(), name) {
			t.Errorf("%s: %v, %v, want %v", name, r.end, err, code)
		}
	}
	r, err = follow(ctx, c, &rpc.ExecRequest{Id: "dir", Name: "true", Dir: "/no/such/dir"})
	if err != nil || unix.Errno(r.end.GetStartErrno()) != unix.ENOENT {
		t.Errorf("missing directory: %v, %v", r.end, err)
	}
	for _, bad := range []*rpc.ExecRequest{{Name: "true"}, {Id: "x"}} {
		if _, err := follow(ctx, c, bad); connect.CodeOf(err) != connect.CodeInvalidArgument {
			t.Errorf("%v: %v", bad, err)
		}
	}
}

func TestUnknownExec(t *testing.T) {
	c := serve(t).client(t)
	if r, err := c.Kill(t.Context(), connect.NewRequest(&rpc.KillRequest{Id: "none"})); err != nil || r.Msg.Found {
		t.Errorf("Kill: %v, %v", r, err)
	}
	if r, err := c.Input(t.Context(), connect.NewRequest(&rpc.InputRequest{Id: "none"})); err != nil || !r.Msg.Closed {
		t.Errorf("Input: %v, %v", r, err)
	}
}

// Input may be sent twice, and never with a gap.
func TestInput(t *testing.T) {
	s := serve(t)
	c := s.client(t)
	got := make(chan string, 1)
	started := make(chan struct{})
	go func() {
		events, err := c.Exec(t.Context(), connect.NewRequest(&rpc.ExecRequest{Id: "cat", Name: "cat", Dir: "/tmp", Stdin: true}))
		if err != nil {
			got <- err.Error()
			return
		}
		defer events.Close()
		var out []byte
		for events.Receive() {
			switch ev := events.Msg().Event.(type) {
			case *rpc.ExecEvent_Started:
				close(started)
			case *rpc.ExecEvent_Output:
				out = append(out, ev.Output.Data...)
			}
		}
		got <- string(out)
	}()
	<-started
	send := func(offset int64, data string, eof bool) error {
		_, err := c.Input(t.Context(), connect.NewRequest(&rpc.InputRequest{Id: "cat", Offset: offset, Data: []byte(data), Eof: eof}))
		return err
	}
	for _, part := range []struct {
		offset int64
		data   string
	}{{0, "hello"}, {0, "hello"}, {3, "lo, wor"}, {10, "ld"}} {
		if err := send(part.offset, part.data, false); err != nil {
			t.Error(err)
		}
	}
	if err := send(99, "gap", false); connect.CodeOf(err) != connect.CodeOutOfRange {
		t.Errorf("a gap: %v", err)
	}
	if err := send(12, "", true); err != nil {
		t.Error(err)
	}
	if out := <-got; out != "hello, world" {
		t.Errorf("it read %q", out)
	}
}

// What is sent again while the first call still writes it, as its sender's connection broke,
// is given once. Who goes away in the middle leaves an exact offset.
func TestInputTwice(t *testing.T) {
	s := serve(t)
	c := s.client(t)
	got := make(chan result, 1)
	go func() {
		r, err := follow(t.Context(), c, &rpc.ExecRequest{Id: "cat", Name: "cat", Stdin: true})
		if err != nil {
			t.Error(err)
		}
		got <- r
	}()
	signal := func(name string) {
		for found := false; !found; { // it is still starting
			r, err := c.Signal(t.Context(), connect.NewRequest(&rpc.SignalRequest{Id: "cat", Signal: name}))
			if err != nil {
				t.Fatal(err)
			}
			found = r.Msg.Found
		}
	}
	signal("SIGSTOP")
	var data []byte
	for i := range 150_000 {
		data = fmt.Appendln(data, i)
	}
	send := func(ctx context.Context) error {
		_, err := c.Input(ctx, connect.NewRequest(&rpc.InputRequest{Id: "cat", Data: data}))
		return err
	}
	ctx, cancel := context.WithCancel(t.Context())
	gone, sent := make(chan error, 1), make(chan error, 3)
	go func() { gone <- send(ctx) }() // it does not matter how far it gets
	for range cap(sent) {
		go func() { sent <- send(t.Context()) }()
	}
	cancel()
	<-gone
	signal("SIGCONT")
	for range cap(sent) {
		if err := <-sent; err != nil {
			t.Error(err)
		}
	}
	if _, err := c.Input(t.Context(), connect.NewRequest(&rpc.InputRequest{Id: "cat", Offset: int64(len(data)), Eof: true})); err != nil {
		t.Error(err)
	}
	r := <-got
	if out := r.out[rpc.Output_STDOUT].Bytes(); !bytes.Equal(out, data) || r.end.GetUsage().GetStdin() != int64(len(data)) {
		t.Errorf("of %d bytes it read %d, and %d were counted", len(data), len(out), r.end.GetUsage().GetStdin())
	}
}

// Many execs, one after the other, are served by a few shims; a kill that comes
// when its exec is just over never meets the next one.
func TestLateKill(t *testing.T) {
	s := serve(t)
	c := s.client(t)
	for i := range 40 {
		id := string(rune('a'+i%26)) + strings.Repeat("x", i/26)
		killed := make(chan struct{})
		go func() {
			defer close(killed)
			_, _ = c.Kill(t.Context(), connect.NewRequest(&rpc.KillRequest{Id: id}))
		}()
		r, err := follow(t.Context(), c, &rpc.ExecRequest{Id: id, Name: "true"})
		if err != nil || r.end == nil || r.end.Lost || (!r.end.Killed && r.end.Code != 0) {
			t.Fatalf("%d: %v, %v", i, r.end, err)
		}
		r, err = follow(t.Context(), c, &rpc.ExecRequest{Id: id + "-next", Name: s.program, Args: []string{"probe:out", "0", "hello", ""}})
		if err != nil || r.end.GetCode() != 0 || r.out[0].String() != "hello" {
			t.Fatalf("%d: the next one: %v, %v", i, r.end, err)
		}
		<-killed
	}
}

// Kill ends what has made itself independent of the command, too, and answers
// when all is gone.
func TestKillTree(t *testing.T) {
	s := serve(t)
	c := s.client(t)
	ended := make(chan result, 1)
	said := make(chan struct{})
	go func() {
		var r result
		events, err := c.Exec(t.Context(), connect.NewRequest(&rpc.ExecRequest{
			Id: "tree", Name: s.program, Args: []string{"probe:daemons", "10", "stay"}, Dir: "/tmp",
		}))
		if err == nil {
			for events.Receive() {
				switch ev := events.Msg().Event.(type) {
				case *rpc.ExecEvent_Output:
					close(said)
				case *rpc.ExecEvent_End:
					r.end = ev.End
				}
			}
			events.Close()
		}
		ended <- r
	}()
	<-said
	if n := running(s.program); n < 10 {
		t.Errorf("%d processes run, of 10 daemons and more", n)
	}
	if r, err := c.Kill(t.Context(), connect.NewRequest(&rpc.KillRequest{Id: "tree"})); err != nil || !r.Msg.Found {
		t.Errorf("Kill: %v, %v", r, err)
	}
	if n := running(s.program); n != 0 {
		t.Errorf("%d processes are left when Kill has answered", n)
	}
	if r := <-ended; !r.end.GetKilled() || r.end.GetSignal() != "SIGKILL" {
		t.Errorf("its end: %v", r.end)
	}
}

// running counts the processes that are a verb of this probe: other tests of this
// machine have their own.
func running(program string) (n int) {
	all, _ := filepath.Glob("/proc/[0-9]*/exe")
	for _, exe := range all {
		if path, err := os.Readlink(exe); err != nil || path != program {
			continue
		}
		raw, _ := os.ReadFile(filepath.Dir(exe) + "/cmdline")
		if args := strings.Split(string(raw), "\x00"); len(args) > 1 && strings.HasPrefix(args[1], "probe:") {
			n++
		}
	}
	return n
}

// Who attaches again goes on at the byte that it names. What is gone, because it
// claimed to have it, is counted and not made up.
func TestAttachAt(t *testing.T) {
	s := serve(t)
	c := s.client(t)
	req := func(offset int64) *rpc.ExecRequest {
		return &rpc.ExecRequest{Id: "seq", Name: "sh", Args: []string{"-c", "seq 1 3000000; sleep 600"}, Dir: "/tmp", StdoutOffset: offset}
	}
	read := func(offset, most int64) (data []byte, truncated int64) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		events, err := s.client(t).Exec(ctx, connect.NewRequest(req(offset)))
		if err != nil {
			t.Fatal(err)
		}
		for int64(len(data)) < most && events.Receive() {
			if o := events.Msg().GetOutput(); o != nil {
				truncated += o.Truncated
				data = append(data, o.Data...)
			}
		}
		return data, truncated
	}
	begin, _ := read(0, 3<<20)
	again, lost := read(int64(len(begin))-1000, 1000)
	if lost != 0 || !bytes.HasPrefix(again, begin[len(begin)-1000:]) {
		t.Errorf("from 1000 bytes before: %d lost, %.40q", lost, again)
	}
	if _, lost := read(0, 1); lost == 0 {
		t.Error("bytes that are gone were not counted")
	}
	if _, err := c.Kill(t.Context(), connect.NewRequest(&rpc.KillRequest{Id: "seq"})); err != nil {
		t.Error(err)
	}
}
