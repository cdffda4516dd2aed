package worker

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/stepward/stepward/internal/engine"
	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/workflow"
)

// counter counts what arrives.
type counter struct {
	bytes  int
	err    error
	before func() // unless it is nil
}

func (s *counter) appendNumbered(_ context.Context, _ int, _ string, payload []byte) error {
	s.bytes += len(payload)
	if s.before != nil {
		s.before()
	}
	return s.err
}

func (s *counter) Progress(string, []byte) error { return nil }

// An attempt in a guest appends no more than it may, and hears why.
func TestGuestEntriesAreBounded(t *testing.T) {
	s := &counter{}
	g := &guestOutlet{ctx: t.Context(), to: s, key: "box"}
	entry := []byte(`"` + strings.Repeat("x", 60<<10) + `"`)
	var err error
	for err == nil {
		err = g.append(1, "lines", entry)
	}
	var size *workflow.ValueError
	if !errors.As(err, &size) || size.Kind != "size" || !strings.Contains(size.What, "step box") {
		t.Errorf("got %v", err)
	}
	if s.bytes > maxGuestEntries || s.bytes < maxGuestEntries-2*len(entry)-maxGuestEntries/len(entry)*entryCost {
		t.Errorf("%d bytes were appended", s.bytes)
	}
}

// The loss of the lease ends the attempt here, and is no answer to the guest: another
// worker may go on with it.
func TestGuestEndsWithLease(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	g := &guestOutlet{ctx: ctx, to: &counter{err: engine.ErrLeaseLost}, cancel: cancel}
	if err := g.append(1, "lines", []byte("1")); !errors.Is(err, engine.ErrLeaseLost) || !errors.Is(err, sandbox.ErrDetached) {
		t.Errorf("got %v", err)
	}
	if err := g.append(1, "lines", []byte("1")); !errors.Is(err, engine.ErrLeaseLost) {
		t.Errorf("got %v", err)
	}
	if cause := context.Cause(ctx); !errors.Is(cause, engine.ErrLeaseLost) {
		t.Errorf("the attempt goes on: %v", cause)
	}
}

// A worker that leaves while an entry is on its way to Postgres hears of its own context from
// there, and the guest hears nothing: another worker goes on with it.
func TestGuestLeftWhileItAppends(t *testing.T) {
	attempt, leave := context.WithCancelCause(t.Context())
	ctx, stop := leaving(attempt, func() {})
	defer stop()
	s := &counter{err: context.Canceled, before: func() {
		leave(engine.ErrHandBack)
		<-ctx.Done()
	}}
	g := &guestOutlet{ctx: ctx, to: s, cancel: leave}
	if err := g.append(1, "lines", []byte("1")); !errors.Is(err, sandbox.ErrDetached) || !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if err := g.append(2, "lines", []byte("2")); !errors.Is(err, sandbox.ErrDetached) {
		t.Errorf("got %v", err)
	}
}

// A function that is told to stop finds the sandbox closed to it: what it does at its end would harm who goes on. One whose
// sandbox nobody goes on with cleans up.
func TestLeavesFirst(t *testing.T) {
	for cause, want := range map[error]bool{engine.ErrHandBack: true, engine.ErrLeaseLost: true, context.DeadlineExceeded: false} {
		attempt, end := context.WithCancelCause(t.Context())
		var ctx context.Context
		closed := make(chan bool, 1)
		ctx, stop := leaving(attempt, func() { closed <- ctx.Err() == nil })
		end(cause)
		<-ctx.Done()
		select {
		case open := <-closed:
			if !want || !open {
				t.Errorf("%v: closed, and the function could go on before: %v", cause, !open)
			}
		default:
			if want {
				t.Errorf("%v: the function goes on with the sandbox", cause)
			}
		}
		stop()
	}
}

// What is not JSON would pass for a value that a codec has sealed, or for the
// reference to another run's blob: it is an output, a heartbeat or an entry of no guest.
func TestGuestSpeaksJSON(t *testing.T) {
	var warned error
	var beats []string
	g := &guestOutlet{ctx: t.Context(), to: &counter{}, key: "box", warn: func(err error) { warned = err }}
	beat := g.beat(func(details []byte) { beats = append(beats, string(details)) })
	for _, bad := range []string{"", "\x03reference", "{", "1 2"} {
		_, err := g.output([]byte(bad))
		var value *workflow.ValueError
		var fault *engine.Fault
		if !errors.As(err, &value) || value.What != "output of step box" || !errors.As(err, &fault) || fault.Kind != "decode" {
			t.Errorf("output %q: %v", bad, err)
		}
		if err := g.append(1, "lines", []byte(bad)); !errors.As(err, &value) {
			t.Errorf("entry %q: %v", bad, err)
		}
		beat([]byte(bad))
	}
	if !errors.As(warned, new(*workflow.ValueError)) || !strings.Contains(warned.Error(), "heartbeat of step box") {
		t.Errorf("warned of %v", warned)
	}
	beat([]byte(`{"n":1}`))
	if len(beats) != 1 {
		t.Errorf("heard %q", beats)
	}
	if out, err := g.output([]byte("null")); err != nil || string(out) != "null" {
		t.Errorf("got %q, %v", out, err)
	}
}
