package workflow_test

import (
	"errors"
	"testing"
	"time"

	"github.com/stepward/stepward/internal/engine"
	"github.com/stepward/stepward/workflow"
)

// What OnSandboxLost says is what the attempt ends with. It is asked about an error that it
// can tell from others; and one that says nothing, or panics, changes nothing.
func TestOnSandboxLost(t *testing.T) {
	fault := &engine.Fault{Kind: "sandbox", Message: "gone"}
	other := errors.New("another error")
	for name, c := range map[string]struct {
		decide func(error) error
		want   error // that is wrapped; nil: the fault itself
	}{
		"unset":  {nil, nil},
		"silent": {func(error) error { return nil }, nil},
		"panics": {func(error) error { panic("no") }, nil},
		"other":  {func(error) error { return workflow.RetryAfter(other, time.Hour) }, other},
	} {
		t.Run(name, func(t *testing.T) {
			err := workflow.Lost(c.decide)(fault)
			if c.want == nil && !errors.Is(err, fault) || c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("got %v", err)
			}
		})
	}
	err := workflow.Lost(workflow.Permanent)(fault)
	var recorded *workflow.RecordedError
	var permanent interface{ Permanent() bool }
	if !errors.As(err, &recorded) || recorded.Kind != "sandbox" || recorded.Message != "gone" || !errors.As(err, &permanent) {
		t.Errorf("got %#v", err)
	}
}
