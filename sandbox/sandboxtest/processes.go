package sandboxtest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/stepward/stepward/sandbox"
)

// testProcesses checks that a fork bomb harms only what started it.
func testProcesses(t *testing.T, b sandbox.Backend, caps sandbox.Capabilities, spec sandbox.Spec) {
	ctx := bounded(t)
	const most = 100
	spec.Limits.PIDs = most
	if !caps.PIDs {
		refuses(t, b, spec, "Limits.PIDs")
		return
	}
	s := start(t, ctx, b, sandbox.Options{Spec: spec})
	var ge *sandbox.GuestError
	var n int
	_, err := s.Guest(ctx, sandbox.GuestStep{Step: "bomb"})
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
	w.wait(t) // that no more can be started
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
