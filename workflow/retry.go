package workflow

import (
	"errors"
	"math"
	"math/rand/v2"
	"time"

	"github.com/stepward/stepward/internal/engine"
)

// Retry says how often a failed step is tried again, and when. The delay
// before attempt n+1 is Backoff·2ⁿ⁻¹, at most MaxBackoff, spread by ±20 % so
// that steps which failed together do not return together. A delay of more than
// five seconds is spent in Postgres: the run leaves its worker.
type Retry struct {
	MaxAttempts int           // in all, over all workers; defaults to 5; 1 means no retry
	Backoff     time.Duration // before the second attempt; defaults to 500 ms
	MaxBackoff  time.Duration // defaults to 1 minute, or Backoff if that is more; no delay is longer, nor longer than 100 years

	// If reports whether an error is worth another attempt; nil: each one is,
	// unless it is [Permanent]. It is asked where the function ran, on the worker
	// or inside the sandbox, about the very error that the function returned; and
	// on the worker, about a *[RecordedError], when something became of the
	// attempt: a timeout, a panic, a lost sandbox. One that panics says yes.
	If func(error) bool
}

// Defaults of [Retry] and [StepOptions].
const (
	maxAttemptsDefault = 5
	backoffDefault     = 500 * time.Millisecond
	maxBackoffDefault  = time.Minute
	stepTimeoutDefault = 10 * time.Minute
)

func (r Retry) withDefaults() Retry {
	if r.MaxAttempts == 0 {
		r.MaxAttempts = maxAttemptsDefault
	}
	if r.Backoff == 0 {
		r.Backoff = backoffDefault
	}
	if r.MaxBackoff == 0 {
		r.MaxBackoff = max(maxBackoffDefault, r.Backoff)
	}
	return r
}

// again asks If about an error.
func (r Retry) again(err error) (yes bool) {
	defer func() {
		if recover() != nil {
			yes = true
		}
	}()
	return r.If == nil || r.If(err)
}

// judged marks the error of a step's function as permanent if that is what the
// predicate says of it.
func (r Retry) judged(err error) error {
	if r.again(sound(err)) {
		return err
	}
	return Permanent(err)
}

// judge does the same for an error that the function did not return.
func (r Retry) judge(fault *engine.Fault) bool { return fault.Kind == "" || r.again(record(fault)) }

// lost asks what becomes of an attempt whose sandbox was lost.
func lost(decide func(error) error) func(*engine.Fault) error {
	return func(fault *engine.Fault) (err error) {
		defer func() {
			if recover() != nil || err == nil {
				err = fault
			}
		}()
		if decide == nil {
			return nil
		}
		return decide(record(fault))
	}
}

// retryAfterMost bounds the delay that a server may suggest.
const retryAfterMost = 24 * time.Hour

// RetryAfter marks the error of a step with the wait that the other side asked
// for, as in a Retry-After header: the next attempt begins no earlier, and up to
// a tenth later, so that steps which were told the same do not return together. When
// d is not positive, the backoff is what counts.
// It takes the place of the backoff, is at most 24 hours, and uses up an attempt
// as any failure does. RetryAfter returns nil for nil.
func RetryAfter(err error, d time.Duration) error {
	if err == nil {
		return nil
	}
	return &retryAfterError{err, d}
}

type retryAfterError struct {
	err   error
	after time.Duration
}

func (e *retryAfterError) Error() string { return e.err.Error() }

func (e *retryAfterError) Unwrap() error { return e.err }

// RetryAfter is what the worker, and the runner in a sandbox, ask of an error.
func (e *retryAfterError) RetryAfter() time.Duration { return e.after }

// suggested returns the wait that an error asks for, spread.
func suggested(err error) (time.Duration, bool) {
	var e interface{ RetryAfter() time.Duration }
	if !errors.As(err, &e) || e.RetryAfter() <= 0 {
		return 0, false
	}
	d := min(e.RetryAfter(), retryAfterMost)
	return time.Duration(float64(d) * (1 + 0.1*rand.Float64())), true
}

// maxDelay is as good as for ever, and can be added to any time.
const maxDelay = float64(100 * 365 * 24 * time.Hour)

// delay returns the wait after the n-th failure.
func (r Retry) delay(n int) time.Duration {
	d := r.Backoff
	for i := 1; i < n && d < r.MaxBackoff; i++ {
		d += min(d, math.MaxInt64-d) // twice as long, if there is such a time
	}
	d = min(d, r.MaxBackoff)
	return time.Duration(min(float64(d)*(0.8+0.4*rand.Float64()), maxDelay))
}
