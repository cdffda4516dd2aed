package sandbox_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/sandbox/local"
	"github.com/stepward/stepward/sandbox/sandboxtest"
)

// continuable returns a sandbox, and what stands for the next process that goes on with it.
func continuable(t *testing.T) (s *sandbox.Sandbox, next func() *sandbox.Sandbox) {
	t.Helper()
	b := local.New(local.Config{Program: sandboxtest.BuildProbe(t)})
	o := sandbox.Options{Continue: true, Labels: sandbox.Labels{Epoch: 1}}
	s, err := sandbox.Start(t.Context(), b, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Destroy(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return s, func() *sandbox.Sandbox {
		t.Helper()
		o.Labels.Epoch++
		s, err := sandbox.Open(t.Context(), b, s.Handle(), o)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.Leave)
		return s
	}
}

func output(t *testing.T, s *sandbox.Sandbox, name string, args ...string) string {
	t.Helper()
	out, err := s.Command(name, args...).Output(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// Who issues the same commands gets what they came to, and none runs again: the n-th of
// the same stands for the n-th, whatever stands between.
func TestContinue(t *testing.T) {
	s, next := continuable(t)
	const count, other = "echo x >> n; wc -l < n", "echo other >> n"
	for want := range 2 {
		if got := output(t, s, "sh", "-c", count); got != fmt.Sprintln(want+1) {
			t.Fatalf("got %q", got)
		}
	}
	for range 2 { // processes
		s = next()
		output(t, s, "sh", "-c", other)
		for i, want := range []string{"1\n", "2\n"} {
			if got := output(t, s, "sh", "-c", count); got != want {
				t.Errorf("the %d. gives %q", i+1, got)
			}
		}
	}
	if got := output(t, s, "sh", "-c", count); got != "4\n" { // with one of the other
		t.Errorf("a command that was not issued before gives %q", got)
	}
	c := s.Command("sh", "-c", count)
	c.Env = []string{"OTHER=1"}
	if got, err := c.Output(t.Context()); err != nil || string(got) != "5\n" {
		t.Errorf("in another environment it gives %q, %v", got, err)
	}
}

// A command that still runs goes on, with all of its output, and is who is killed when the
// context ends. One that nobody could find again is ended before the sandbox is open.
func TestContinueWhileItRuns(t *testing.T) {
	s, next := continuable(t)
	output(t, s, "mkfifo", "gate", "ready")
	const long = "echo begun >> n; echo 1; echo > ready; read x < gate; echo 2; sleep 1000"
	if err := s.Command("sh", "-c", long).Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	output(t, s, "cat", "ready")
	stdin, _ := io.Pipe()
	lost := s.Command("flock", "lock", "sh", "-c", "echo locked; cat")
	said, says := io.Pipe()
	lost.Stdin, lost.Stdout = stdin, says
	if err := lost.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(said, make([]byte, len("locked\n"))); err != nil {
		t.Fatal(err)
	}

	s = next()
	if err := lost.Wait(); !errors.Is(err, sandbox.ErrLost) {
		t.Errorf("the first process hears %v", err)
	}
	output(t, s, "flock", "--nonblock", "lock", "true")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	c := s.Command("sh", "-c", long)
	var got []byte
	c.Stdout = writer(func(p []byte) (int, error) {
		if got = append(got, p...); string(got) == "1\n2\n" {
			cancel()
		}
		return len(p), nil
	})
	if err := c.Start(ctx); err != nil {
		t.Fatal(err)
	}
	output(t, s, "sh", "-c", "echo > gate")
	var exit *sandbox.ExitError
	if err := c.Wait(); !errors.As(err, &exit) || exit.Signal != "SIGKILL" || string(got) != "1\n2\n" {
		t.Errorf("got %q, %v", got, err)
	}
	if n, err := s.ReadFile(t.Context(), "n"); err != nil || string(n) != "begun\n" {
		t.Errorf("it began %q, %v", n, err)
	}
}

// What cannot be told any more is an error: neither output with a gap, nor a command that
// runs again.
func TestContinueOfWhatIsGone(t *testing.T) {
	s, next := continuable(t)
	big := []string{"-c", "3000000", "/dev/zero"}
	if got := output(t, s, "head", big...); len(got) != 3_000_000 {
		t.Fatalf("%d bytes", len(got))
	}
	if err := s.Command("sh", "-c", "echo x >> n").Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	s = next()
	if out, err := s.Command("head", big...).Output(t.Context()); !errors.Is(err, sandbox.ErrLost) {
		t.Errorf("%d bytes, %v", len(out), err)
	}
	s = next()
	if err := s.Command("head", big...).Run(t.Context()); err != nil {
		t.Errorf("without a reader: %v", err)
	}
	for i := range 1100 {
		if err := s.Command("true", fmt.Sprint(i)).Run(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	s = next()
	if err := s.Command("sh", "-c", "echo x >> n").Run(t.Context()); !errors.Is(err, sandbox.ErrLost) {
		t.Errorf("got %v", err)
	}
	if n, err := s.ReadFile(t.Context(), "n"); err != nil || string(n) != "x\n" {
		t.Errorf("it ran %q, %v", n, err)
	}
}
