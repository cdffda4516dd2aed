package sandboxtest

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stepward/stepward/sandbox"
)

// testLimits has commands meet each limit: the result says so, and the sandbox
// stays of use.
func testLimits(t *testing.T, b sandbox.Backend, spec sandbox.Spec) {
	caps, err := b.Probe(bounded(t))
	if err != nil {
		t.Fatal(err)
	}
	spec.Limits.Disk, spec.Limits.OpenFiles = 32<<20, 100
	if caps.Memory {
		spec.Limits.Memory = 128 << 20
	}
	if !caps.Memory {
		demanding := spec
		demanding.Limits.Memory = 128 << 20
		refuses(t, b, demanding, "Limits.Memory")
	}
	s := start(t, bounded(t), b, sandbox.Options{Spec: spec})
	fails := func(verb string, args ...string) *sandbox.ExitError {
		t.Helper()
		_, err := s.Command(program, append([]string{verbPrefix + verb}, args...)...).Output(bounded(t))
		var ee *sandbox.ExitError
		if !errors.As(err, &ee) {
			t.Fatalf("%s: %v, want an ExitError", verb, err)
		}
		t.Logf("%v: %s", err, ee.Stderr)
		return ee
	}
	if caps.Memory {
		for _, who := range []string{"", "child"} { // who is killed: a child of the command, or itself
			args := []string{"1ms", fmt.Sprint(512 << 20)}
			if who != "" {
				args = append(args, who)
			}
			if ee := fails("use", args...); ee.Limit != "Memory" || !strings.Contains(ee.Error(), "128 MiB of memory") {
				t.Errorf("more memory than there is: Limit %q, %v", ee.Limit, ee)
			}
		}
		_, err := s.Guest(bounded(t), sandbox.GuestStep{Step: "memory"})
		var ee *sandbox.ExitError
		if !errors.As(err, &ee) || ee.Limit != "Memory" {
			t.Errorf("a step with more memory than there is: %v", err)
		}
	}
	if ee := fails("fill", "/tmp/big"); ee.Limit != "Disk" || !strings.Contains(string(ee.Stderr), "no space left") {
		t.Errorf("a full disk: Limit %q, %v: %s", ee.Limit, ee, ee.Stderr)
	}
	if _, err := s.Command(program, "probe:out", "0", "", "").Output(bounded(t)); err != nil {
		t.Errorf("after the limits were met: %v", err)
	}
	if ee := fails("open"); !strings.Contains(string(ee.Stderr), "too many open files") {
		t.Errorf("too many open files: %v: %s", ee, ee.Stderr)
	}

	spec.Limits.Time = 300 * time.Millisecond
	s = start(t, bounded(t), b, sandbox.Options{Spec: spec})
	if ee := fails("hang"); !ee.TimedOut || ee.Limit != "Time" || !strings.Contains(ee.Error(), "300ms of time, Limits.Time") {
		t.Errorf("more time than there is: Limit %q, %v", ee.Limit, ee)
	}
	var ee *sandbox.ExitError
	if _, err := s.Guest(bounded(t), sandbox.GuestStep{Step: "stubborn"}); !errors.As(err, &ee) || ee.Limit != "Time" {
		t.Errorf("a step with more time than there is: %v", err)
	}
	c := s.Command(program, "probe:hang")
	c.Timeout = 100 * time.Millisecond
	if err := c.Run(bounded(t)); !errors.As(err, &ee) || !ee.TimedOut || ee.Limit != "" {
		t.Errorf("a Timeout below the limit: %v", err)
	}
	if got := s.Enforcement().Limits.Time; got != spec.Limits.Time {
		t.Errorf("enforced is a time of %v", got)
	}
}

// refuses checks that a limit which cannot be enforced is refused, and says so for
// the table of cases.
func refuses(t *testing.T, b sandbox.Backend, spec sandbox.Spec, field string) {
	t.Helper()
	var ue *sandbox.UnsupportedError
	if _, err := sandbox.Start(bounded(t), b, sandbox.Options{Spec: spec}); !errors.As(err, &ue) || ue.Field != field {
		t.Errorf("a limit that cannot be enforced: %v, want it refused", err)
	}
	t.Log(Refused + field)
}
