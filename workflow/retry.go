package workflow

import (
	"math/rand/v2"
	"time"
)

// Retry says how often a failed step is tried again, and when. The delay
// before attempt n+1 is Backoff·2ⁿ⁻¹, at most MaxBackoff, spread by ±20 % so
// that steps which failed together do not return together. A delay of more than
// five seconds is spent in Postgres: the run leaves its worker.
type Retry struct {
	MaxAttempts int           // in all, over all workers; defaults to 5; 1 means no retry
	Backoff     time.Duration // before the second attempt; defaults to 500 ms
	MaxBackoff  time.Duration // defaults to 1 minute
}

// Defaults of [Retry] and [StepOptions].
const (
	MaxAttemptsDefault = 5
	BackoffDefault     = 500 * time.Millisecond
	MaxBackoffDefault  = time.Minute
	StepTimeoutDefault = 10 * time.Minute
)

func (r Retry) withDefaults() Retry {
	if r.MaxAttempts == 0 {
		r.MaxAttempts = MaxAttemptsDefault
	}
	if r.Backoff == 0 {
		r.Backoff = BackoffDefault
	}
	if r.MaxBackoff == 0 {
		r.MaxBackoff = max(MaxBackoffDefault, r.Backoff)
	}
	return r
}

// delay returns the wait after the n-th failure.
func (r Retry) delay(n int) time.Duration {
	d := r.Backoff
	for i := 1; i < n && d < r.MaxBackoff; i++ {
		d *= 2
	}
	d = min(d, r.MaxBackoff)
	return time.Duration(float64(d) * (0.8 + 0.4*rand.Float64()))
}
