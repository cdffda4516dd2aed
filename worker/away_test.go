package worker

import (
	"errors"
	"fmt"
	"testing"

	"github.com/stepward/stepward/internal/brokerlink"
	"github.com/stepward/stepward/internal/engine"
	"github.com/stepward/stepward/sandbox"
)

// What passes uses up no attempt.
func TestBrokerAway(t *testing.T) {
	var l lent
	f, ok := errors.AsType[*engine.Fault](l.fault(t.Context(), &awayError{&brokerlink.StartError{Err: errors.New("no route"), Away: true}}))
	if !ok || !f.Orphan || f.Permanent || f.After <= 0 {
		t.Errorf("got %+v", f)
	}
}

// A sandbox that was another worker's, whose broker had another key, refuses the one here: that uses up no attempt.
// One that was made here has no such excuse.
func TestOtherBroker(t *testing.T) {
	for _, taken := range []bool{false, true} {
		l := lent{taken: taken}
		f, ok := errors.AsType[*engine.Fault](l.fault(t.Context(), fmt.Errorf("%w: another broker", sandbox.ErrSecret)))
		if !ok || f.Orphan != taken || f.Permanent {
			t.Errorf("taken %v: got %+v", taken, f)
		}
	}
}
