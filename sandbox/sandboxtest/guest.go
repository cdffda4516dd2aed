package sandboxtest

import (
	"bytes"
	"context"
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stepward/stepward/sandbox"
)

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
	// The step says that it runs, and again to who follows it.
	stubborn := func(ctx context.Context, id, step string, then func()) error {
		w := newWaiter()
		go func() {
			select {
			case <-w.said:
				then()
			case <-ctx.Done():
			}
		}()
		_, err := s.Guest(ctx, sandbox.GuestStep{ID: id, Step: step, Stdout: w})
		return err
	}
	left, leave := context.WithCancelCause(ctx)
	if err := stubborn(left, "left", "stubborn", func() { leave(sandbox.ErrDetached) }); !errors.Is(err, sandbox.ErrDetached) {
		t.Errorf("a step that was left: %v", err)
	}
	again, end := context.WithCancel(ctx)
	if err := stubborn(again, "left", "nothing", end); !errors.As(err, &ee) || ee.Signal != "SIGKILL" || !errors.Is(err, context.Canceled) {
		t.Errorf("a step that was left, and is followed again: %v", err)
	}
	short, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	if _, err := s.Guest(short, sandbox.GuestStep{Step: "stubborn"}); !errors.As(err, &ee) || !ee.TimedOut {
		t.Errorf("a step that ignores SIGTERM: %v", err)
	}
	mib := 64 // more than anything on the way keeps
	switch {
	case isGVisor(s): // whose pipes are slow
		mib = 32
	case s.Backend() == "local" && s.Enforcement().Image == "" && !testing.Short(): // what the tool runner does is the same for all
		mib = 1024
	}
	tail := &sandbox.Tail{Limit: 64 << 10}
	begin := time.Now()
	out, err := s.Guest(ctx, sandbox.GuestStep{Step: "print", Input: []byte(strconv.Itoa(mib)), Stdout: tail})
	if err != nil || string(out) != "printed" || len(tail.Bytes()) != 64<<10 {
		t.Errorf("a step that prints %d MiB: %q, %v, %d bytes kept", mib, out, err, len(tail.Bytes()))
	}
	t.Logf("%d MiB printed in %v", mib, time.Since(begin))
}
