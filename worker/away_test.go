package worker

import (
	"errors"
	"testing"

	"github.com/stepward/stepward/internal/brokerlink"
	"github.com/stepward/stepward/internal/engine"
)

// What passes uses up no attempt.
func TestBrokerAway(t *testing.T) {
	var l lent
	f, ok := errors.AsType[*engine.Fault](l.fault(t.Context(), &awayError{&brokerlink.StartError{Err: errors.New("no route"), Away: true}}))
	if !ok || !f.Orphan || f.Permanent || f.After <= 0 {
		t.Errorf("got %+v", f)
	}
}
