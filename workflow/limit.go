package workflow

import (
	"time"

	"github.com/stepward/stepward/internal/enqueue"
)

// A Limit bounds the runs that name its Key, of all tenants and workflows: for a
// limit per tenant, put the tenant into the Key. Each run that is enqueued sets
// the numbers anew, for all. A run that a limit holds back delays no other.
type Limit struct {
	// Key names the limit. Up to 200 bytes.
	Key string

	// Concurrency is how many of the runs may be executed at once: never more
	// have a worker. One that waits in Postgres, for a signal or a time, does
	// not count until it goes on. 0: any number.
	Concurrency int

	// Rate is how many of the runs may begin within Per, which defaults to a
	// second. A limit that was not used for that long lets Rate of them begin
	// at once. A run that goes on after a wait, or on another worker, does not
	// count again. 0: any number.
	Rate int
	Per  time.Duration
}

func (l Limit) check(where string) *OptionError {
	if field, reason := enqueue.BadLimit(enqueue.Limit(l)); reason != "" {
		return &OptionError{Option: where + ".Limit." + field, Reason: reason}
	}
	return nil
}
