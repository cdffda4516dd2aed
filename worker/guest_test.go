package worker

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/stepward/stepward/internal/engine"
	"github.com/stepward/stepward/workflow"
)

// counter counts what arrives.
type counter struct {
	bytes int
	err   error
}

func (s *counter) appendNumbered(_ context.Context, _ int, _ string, payload []byte) error {
	s.bytes += len(payload)
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

// The loss of the lease ends the guest.
func TestGuestEndsWithLease(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	g := &guestOutlet{ctx: ctx, to: &counter{err: engine.ErrLeaseLost}, cancel: cancel}
	for range 2 {
		if err := g.append(1, "lines", []byte("1")); !errors.Is(err, engine.ErrLeaseLost) {
			t.Errorf("got %v", err)
		}
	}
	if cause := context.Cause(ctx); !errors.Is(cause, engine.ErrLeaseLost) {
		t.Errorf("the attempt goes on: %v", cause)
	}
}
