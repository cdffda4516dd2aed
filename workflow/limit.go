package workflow

import (
	"fmt"
	"strings"
	"time"
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
	bad := func(field, format string, args ...any) *OptionError {
		return &OptionError{Option: where + ".Limit." + field, Reason: fmt.Sprintf(format, args...)}
	}
	switch {
	case l == Limit{}:
		return nil
	case l.Key == "":
		return bad("Key", "is required")
	case strings.ContainsRune(l.Key, 1):
		return bad("Key", "want no control character U+0001")
	case l.Concurrency < 0 || l.Concurrency > 1_000_000:
		return bad("Concurrency", "%d is not within 0 and 1,000,000", l.Concurrency)
	case l.Rate < 0 || l.Rate > 1_000_000:
		return bad("Rate", "%d is not within 0 and 1,000,000", l.Rate)
	case l.Concurrency == 0 && l.Rate == 0:
		return bad("Concurrency", "want one, or a Rate")
	case l.Per < 0 || l.Per > 366*24*time.Hour:
		return bad("Per", "%v is not within 0 and 366 days", l.Per)
	}
	return nil
}
