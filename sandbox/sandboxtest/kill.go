package sandboxtest

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stepward/stepward/sandbox"
)

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

// wait returns when it was said.
func (w *waiter) wait(t *testing.T) {
	t.Helper()
	select {
	case <-w.said:
	case <-time.After(limit):
		t.Fatal("it never said that it runs")
	}
}

// hanging starts a program that does, and returns when it does.
func hanging(t *testing.T, s *sandbox.Sandbox, c *sandbox.Cmd) (end func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(bounded(t))
	w := newWaiter()
	c.Stdout = w
	if err := c.Start(ctx); err != nil {
		t.Fatal(err)
	}
	w.wait(t)
	return func() {
		cancel()
		_ = c.Wait()
	}
}

func testKill(t *testing.T, s *sandbox.Sandbox) {
	for _, args := range [][]string{{"hang"}, {"daemons", "20", "stay"}, {"bomb"}} {
		t.Run(args[0], func(t *testing.T) {
			if args[0] == "bomb" && isGVisor(s) { // nothing ends one but the end of the sandbox
				t.Log(Refused + "Limits.PIDs") // as testProcesses shows
				return
			}
			ctx, cancel := context.WithCancel(bounded(t))
			defer cancel()
			c := s.Command(program, append([]string{verbPrefix + args[0]}, args[1:]...)...)
			w := newWaiter()
			c.Stdout = w
			if err := c.Start(ctx); err != nil {
				t.Fatal(err)
			}
			w.wait(t)
			if args[0] == "hang" && run(t, s, "count", "probe:hang") == "0" { // the control of the zeros below
				t.Error("what hangs is not seen")
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
		next(t, blocked)
		if n := run(t, s, "count", "probe:flood"); n != "0" {
			t.Errorf("%s processes are left", n)
		}
	})
}
