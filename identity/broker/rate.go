package broker

import (
	"errors"
	"sync"
	"time"

	"connectrpc.com/connect"
)

// What one run may ask for: as much as it needs when many of its steps begin at
// once, and less than what would wear out a store. What asks no store, as renewals, is bounded by worker: see sharing.
const (
	rateBurst = 200
	rateRuns  = 10_000 // whose places are counted at a time
)

var ratePer = 20 * time.Millisecond // a place comes back; tests have more time

var errRate = errors.New("broker: the run asks too often")

// rates counts what runs ask for.
type rates struct {
	mu   sync.Mutex
	runs map[int64]time.Time // when all places of a run are free again
}

// take takes a place of a run, or says that there is none.
func (r *rates) take(run int64, now time.Time) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	full := r.runs[run]
	if full.Before(now) {
		full = now
	}
	if full.Sub(now) > rateBurst*ratePer {
		return connect.NewError(connect.CodeResourceExhausted, errRate)
	}
	if r.runs == nil {
		r.runs = make(map[int64]time.Time)
	}
	if len(r.runs) >= rateRuns {
		for id, at := range r.runs {
			if at.Before(now) {
				delete(r.runs, id)
			}
		}
	}
	r.runs[run] = full.Add(ratePer)
	return nil
}
