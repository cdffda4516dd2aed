package worker

import (
	"testing"
	"time"
)

// The runs of a worker that dies are claimed by another one within 15 s: what is
// left of its lease, the pause between two looks of the others, and the pause
// between two claims of one that is not woken. Package internal/bench measures it.
func TestRecoveryBound(t *testing.T) {
	w := &worker{Config: Config{}.withDefaults()}
	if longest := w.LeaseTTL + reapAfter + pollLongest + pollLongest; longest > 15*time.Second {
		t.Errorf("recovery takes up to %v", longest)
	}
	// A worker gives up before others take over: it counts from before it
	// sends, and stops margin early.
	if w.heartbeat() > (w.LeaseTTL-w.margin())/2 {
		t.Errorf("a single lost heartbeat of %v costs the lease of %v", w.heartbeat(), w.LeaseTTL)
	}
}
