package sandboxtest

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stepward/stepward/sandbox"
)

// limited returns a spec with the limits that testLimits meets, but that of time.
func limited(spec sandbox.Spec, caps sandbox.Capabilities) sandbox.Spec {
	spec.Limits.Disk, spec.Limits.OpenFiles = 32<<20, 100
	if caps.Memory {
		spec.Limits.Memory = 128 << 20
	}
	return spec
}

// testLimits has commands meet each limit: the result says so, and the sandbox
// stays of use. brief is one with a limit of time.
func testLimits(t *testing.T, b sandbox.Backend, caps sandbox.Capabilities, spec sandbox.Spec, brief *sandbox.Sandbox) {
	if !caps.Memory {
		demanding := spec
		demanding.Limits.Memory = 128 << 20
		refuses(t, b, demanding, "Limits.Memory")
	}
	tooLow(t, b, spec, caps)
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

	s = brief
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
	if got := s.Enforcement().Limits.Time; got != 300*time.Millisecond {
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

// tooLow checks that limits with which no sandbox could be there are refused as such, and that the least are had.
func tooLow(t *testing.T, b sandbox.Backend, spec sandbox.Spec, caps sandbox.Capabilities) {
	t.Helper()
	least := spec
	for _, c := range []struct {
		can          bool
		field, value string
		set          func(l *sandbox.Limits, least bool)
	}{
		{caps.Memory, "Limits.Memory", "33554432", func(l *sandbox.Limits, least bool) {
			if l.Memory = 128; least {
				l.Memory = 32 << 20
			}
		}},
		{caps.CPU, "Limits.CPU", "0.01", func(l *sandbox.Limits, least bool) {
			if l.CPU = 0.001; least {
				l.CPU = 0.25 // less is slow
			}
		}},
		{caps.OpenFiles, "Limits.OpenFiles", "64", func(l *sandbox.Limits, least bool) {
			if l.OpenFiles = 8; least {
				l.OpenFiles = 64
			}
		}},
	} {
		if !c.can {
			continue
		}
		low := spec
		c.set(&low.Limits, false)
		c.set(&least.Limits, true)
		_, err := sandbox.Start(bounded(t), b, sandbox.Options{Spec: low})
		if ue, ok := errors.AsType[*sandbox.UnsupportedError](err); !ok || ue.Field != c.field || !strings.Contains(ue.Reason, c.value) {
			t.Errorf("%s: %v, want an UnsupportedError that says %s", c.field, err, c.value)
		}
	}
	s := start(t, bounded(t), b, sandbox.Options{Spec: least})
	if _, err := s.Command(program, "probe:out", "0", "", "").Output(bounded(t)); err != nil {
		t.Errorf("with the least that is allowed: %v", err)
	}
}
