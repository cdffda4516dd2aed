package worker

import (
	"errors"
	"testing"

	"github.com/stepward/stepward/internal/brokerlink"
	"github.com/stepward/stepward/internal/engine"
)

// What passes uses up no attempt, and what a deploy has to cure parks the run.
func TestBrokerAway(t *testing.T) {
	var l lent
	f, ok := errors.AsType[*engine.Fault](l.fault(&awayError{&brokerlink.StartError{Err: errors.New("no route"), Away: true}}))
	if !ok || !f.Orphan || f.Permanent || f.After <= 0 {
		t.Errorf("got %+v", f)
	}
	err := l.fault(&brokerlink.StartError{Err: errors.New("the passphrase is wrong")})
	if park, ok := errors.AsType[*engine.ParkError](err); !ok || park.Reason != "identity" {
		t.Errorf("got %+v", err)
	}
}
