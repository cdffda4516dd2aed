package local_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stepward/stepward/internal/shim"
	"github.com/stepward/stepward/internal/testenv"
	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/sandbox/local"
	"github.com/stepward/stepward/sandbox/sandboxtest"
)

func TestMain(m *testing.M) {
	switch os.Getenv("MAIN") { // of a sandbox's Spec
	case "returns":
		os.Exit(0)
	case "hangs":
		select {}
	}
	sandboxtest.Init()
	os.Exit(m.Run())
}

// A main that does something else before bootstrap.Init costs the tool runner
// nothing, which serves before main. A guest step of it fails and says why, also
// where main would never end.
func TestLateInit(t *testing.T) {
	for main, code := range map[string]int{"returns": 0, "hangs": 125} {
		t.Run(main, func(t *testing.T) {
			t.Parallel()
			s, err := sandbox.Start(t.Context(), local.New(local.Config{}), sandbox.Options{Spec: sandbox.Spec{Env: map[string]string{"MAIN": main}}})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = s.Destroy(context.WithoutCancel(t.Context())) })
			if err := s.Command("true").Run(t.Context()); err != nil {
				t.Errorf("a command: %v", err)
			}
			_, err = s.Guest(t.Context(), sandbox.GuestStep{Step: "echo"})
			var ee *sandbox.ExitError
			if !errors.As(err, &ee) || ee.Code != code || !strings.Contains(ee.Error()+string(ee.Stderr), "bootstrap.Init") {
				t.Errorf("a guest step: %v, want the exit status %d and bootstrap.Init named", err, code)
			}
		})
	}
}

// backend uses the static program: with the race detector, this one takes 20
// times as long to start, and it is started for each command.
func backend(t *testing.T) *local.Backend {
	return local.New(local.Config{Program: sandboxtest.BuildProbe(t)})
}

func TestBackend(t *testing.T) {
	sandboxtest.TestBackend(t, backend(t), sandboxtest.Options{})
}

// A sweeper asks for sandboxes, dials and removes them, while they are made.
func TestBesideCreate(t *testing.T) {
	b := backend(t)
	labels := sandbox.Labels{Schema: "beside"}
	ctx, over := context.WithCancel(t.Context())
	var sweeps sync.WaitGroup
	listed := make(chan struct{})
	sweeps.Go(func() {
		seen := sync.OnceFunc(func() { close(listed) })
		for ctx.Err() == nil {
			l, err := b.List(t.Context(), labels.Schema)
			if err != nil {
				t.Error(err)
			}
			if len(l) > 0 {
				seen()
				if c, err := b.Dial(t.Context(), "beside"); err == nil {
					c.Close()
				}
			}
		}
	})
	sweeps.Go(func() { // Destroy waits for Create, and then for the end
		<-listed
		if err := b.Destroy(t.Context(), "beside"); err != nil {
			t.Error(err)
		}
	})
	if _, err := b.Create(t.Context(), sandbox.Creation{ID: "beside", Labels: labels}); err != nil {
		t.Error(err)
	}
	testenv.Receive(t, listed)
	over()
	sweeps.Wait()
	if l, err := b.List(t.Context(), labels.Schema); err != nil || len(l) > 0 {
		t.Errorf("after all that: %v, %v", l, err)
	}
}

func TestEgress(t *testing.T) {
	sandboxtest.TestEgress(t, backend(t), sandboxtest.Options{})
}

func TestLayers(t *testing.T) {
	sandboxtest.TestLayers(t, backend(t), sandboxtest.Options{})
}

func TestEscape(t *testing.T) {
	sandboxtest.TestEscape(t, backend(t), sandboxtest.Options{})
}

func TestInodes(t *testing.T) {
	sandboxtest.TestInodes(t, backend(t), sandboxtest.Options{})
}

func TestLeak(t *testing.T) {
	sandboxtest.TestLeak(t, backend(t), sandboxtest.Options{})
}

// The suite again, as a user who may do nothing special. It says what failed, and no
// more: without -test.v what passed is silent, and its time ends before this test's.
func TestOrdinaryUser(t *testing.T) {
	if os.Getuid() != 0 {
		return // then the other tests were run by one
	}
	const nobody = 65534
	probe := sandboxtest.BuildProbe(t)
	for dir := filepath.Dir(probe); dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	c := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^(TestBackend|TestLayers|TestEscape|TestLeak|TestEgress|TestDefaults|TestImageEscape|TestImageErrors|TestProgramsOfImage)$", "-test.short")
	if deadline, ok := t.Deadline(); ok {
		c.Args = append(c.Args, "-test.timeout="+max(time.Second, time.Until(deadline)-10*time.Second).String())
	}
	c.Dir = "/"
	c.Env = append(os.Environ(), sandboxtest.EnvProbe+"="+probe, "HOME=/nonexistent")
	c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("as nobody: %v\n%s", err, out)
	}
}

// below lists the processes below this one.
func below(t *testing.T) []int {
	t.Helper()
	pids, err := shim.Descendants(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	return pids
}

// A process that was started ahead serves the guest step that comes first, if that
// is like it, and no other; what comes instead ends it.
func TestSpareGuest(t *testing.T) {
	b := backend(t)
	start := func() (s *sandbox.Sandbox, spare string) {
		known := map[int]bool{}
		for _, pid := range below(t) {
			known[pid] = true
		}
		s, err := sandbox.Start(t.Context(), b, sandbox.Options{SpareGuest: true})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Destroy(context.WithoutCancel(t.Context())) })
		testenv.Eventually(t, "there is a spare process", func() bool {
			for _, pid := range below(t) {
				// Its own id, and it is no shim.
				status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
				args, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
				if i := bytes.Index(status, []byte("NSpid:")); i >= 0 && !known[pid] && bytes.HasPrefix(args, []byte("/proc/self/exe")) {
					ids := strings.Fields(strings.SplitN(string(status[i:]), "\n", 2)[0])
					spare = ids[len(ids)-1]
					return true
				}
			}
			return false
		})
		return s, spare
	}
	pid := func(s *sandbox.Sandbox) string {
		out, err := s.Guest(t.Context(), sandbox.GuestStep{Step: "pid"})
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}

	s, spare := start()
	if err := s.Claim(t.Context(), sandbox.Options{Labels: sandbox.Labels{Run: 1, Epoch: 1}}); err != nil {
		t.Fatal(err)
	}
	if got := pid(s); got != spare {
		t.Errorf("the first guest step ran in process %s, not in %s, which was waiting", got, spare)
	}
	if got := pid(s); got == spare {
		t.Error("two guest steps ran in one process")
	}

	s, spare = start()
	if err := s.Claim(t.Context(), sandbox.Options{Spec: sandbox.Spec{Env: map[string]string{"A": "b"}}}); err != nil {
		t.Fatal(err)
	}
	if got := pid(s); got == spare {
		t.Error("a guest step with variables of its own ran in a process without them")
	}

	s, _ = start()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { // once the step runs
		for ctx.Err() == nil {
			if _, err := s.ReadFile(ctx, "stubborn"); err == nil {
				cancel()
			}
		}
	}()
	var ee *sandbox.ExitError
	if _, err := s.Guest(ctx, sandbox.GuestStep{Step: "stubborn"}); !errors.As(err, &ee) || ee.Signal != "SIGKILL" || !errors.Is(err, context.Canceled) {
		t.Errorf("a step that is canceled in a process that was waiting: %v", err)
	}

	s, spare = start()
	for { // until it has ended, which the command does not wait for
		out, err := s.Command("sh", "-c", "test -e /proc/"+spare+" && echo there").Output(t.Context())
		if len(out) == 0 {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if got := pid(s); got == spare {
		t.Error("a process that had ended served a guest step")
	}
}

// Descriptors that the worker has from whoever started it, and passes on without
// knowing, do not get into a sandbox: no process there holds the pipe open.
func TestNothingIsInherited(t *testing.T) {
	var ends [2]int
	if err := syscall.Pipe(ends[:]); err != nil { // unlike those of os, for all that is started
		t.Fatal(err)
	}
	if err := syscall.SetNonblock(ends[0], true); err != nil {
		t.Fatal(err)
	}
	r, w := os.NewFile(uintptr(ends[0]), "r"), os.NewFile(uintptr(ends[1]), "w")
	defer r.Close()
	defer w.Close()
	s, err := sandbox.Start(t.Context(), backend(t), sandbox.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Destroy(t.Context())
	out, err := s.Command("ls", "/proc/self/fd").Output(t.Context())
	if fds := strings.Fields(string(out)); err != nil || len(fds) != 4 { // one of them to list with
		t.Errorf("a command has the descriptors %q, %v", fds, err)
	}
	w.Close()
	if err := r.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if n, err := r.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("something in the sandbox holds the pipe open: %d, %v", n, err)
	}
}

// The packages of the program are initialized inside: without a capability, and
// without the host's files. In the tool runner those that come last, and in a shim
// most, are not at all.
func TestInitialization(t *testing.T) {
	s, err := sandbox.Start(t.Context(), backend(t), sandbox.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Destroy(t.Context())
	c := s.Command("ls", "-A", "/workspace")
	out, err := c.Output(t.Context())
	if err != nil || len(out) != 0 {
		t.Fatalf("initialized: %q, %v; want neither the tool runner nor a shim", out, err)
	}
	if _, err := s.Guest(t.Context(), sandbox.GuestStep{Step: "nothing"}); err != nil {
		t.Fatal(err)
	}
	told, err := s.ReadFile(t.Context(), ".init-guest")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"CapPrm:\t0000000000000000\n", "CapEff:\t0000000000000000\n", "CapBnd:\t0000000000000000\n", "NoNewPrivs:\t1\n", "Seccomp:\t2\n"} {
		if !strings.Contains(string(told), want) {
			t.Errorf("%q is missing in\n%s", want, told)
		}
	}
	for _, bad := range []string{"/root", "/home", "/var"} {
		if strings.Contains(string(told), bad) {
			t.Errorf("%s was there:\n%s", bad, told)
		}
	}
}

// A program that is still open for writing when it is to be started, as happens
// for a moment when another goroutine forks while it is written.
func TestBusyProgram(t *testing.T) {
	data, err := os.ReadFile(sandboxtest.BuildProbe(t))
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(t.TempDir(), "probe"), os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := exec.Command(f.Name(), "probe:pwd").Run(); !errors.Is(err, syscall.ETXTBSY) {
		t.Fatalf("the program is not busy: %v", err)
	}
	time.AfterFunc(20*time.Millisecond, func() { f.Close() })
	for dir := filepath.Dir(f.Name()); dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s, err := sandbox.Start(t.Context(), local.New(local.Config{Program: f.Name()}), sandbox.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Destroy(t.Context()); err != nil {
		t.Error(err)
	}
}

// A program that only its owner may execute starts as the worker's, and could start no
// shim as the sandbox's.
func TestOwnersProgram(t *testing.T) {
	testenv.Require(t, testenv.PartRoot) // for an id of the sandbox's own
	data, err := os.ReadFile(sandboxtest.BuildProbe(t))
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(t.TempDir(), "probe")
	if err := os.WriteFile(program, data, 0o700); err != nil {
		t.Fatal(err)
	}
	_, err = local.New(local.Config{Program: program}).Probe(t.Context())
	var ue *sandbox.UnavailableError
	if !errors.As(err, &ue) || !strings.Contains(ue.Reason, "executable for all") {
		t.Errorf("got %v, want an UnavailableError that says what to do", err)
	}
}
