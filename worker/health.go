package worker

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/stepward/stepward/internal/db"
)

// ErrNotRunning is what [Health.Check] returns before the worker has started
// and after it has stopped.
var ErrNotRunning = errors.New("worker: not running")

// Health tells how a worker is. Set it in [Config], keep the pointer, and ask it
// or serve it over HTTP. Its zero value is ready.
type Health struct {
	mu sync.Mutex
	w  *worker
}

// A Report is what a worker knows about itself.
type Report struct {
	Runs       int           `json:"runs"`        // held now
	MaxRuns    int           `json:"max_runs"`    // that may be held
	Steps      int           `json:"steps"`       // attempts that execute
	Stuck      int           `json:"stuck_steps"` // functions that went on after their attempt ended
	Blocked    int           `json:"blocked"`     // bodies that have executed nothing durable for ten seconds, and do not wait for it
	LeaseSlack time.Duration `json:"lease_slack"` // until the worker gives its runs up, in nanoseconds
	Backend    string        `json:"backend"`     // empty when no sandbox backend works here
	Warm       int           `json:"warm"`        // sandboxes that wait for a step: see [Warm]
	Revoked    bool          `json:"revoked"`     // the worker gets no secrets any more, and leaves runs that need some to others
	Stranded   bool          `json:"stranded"`    // the same, as what starts brokers here has ended: start the program again
	Lacks      string        `json:"lacks"`       // why, in the last minute, the broker here could not give secrets that another worker's may: those runs are left to others
}

func (h *Health) attach(w *worker) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.w = w
}

// Report returns the state of the worker, without asking Postgres; ok is false
// while none runs.
func (h *Health) Report() (r Report, ok bool) {
	h.mu.Lock()
	w := h.w
	h.mu.Unlock()
	if w == nil {
		return Report{}, false
	}
	r = Report{Runs: w.held(), MaxRuns: w.MaxRuns, Steps: len(w.steps), Stuck: int(w.stuck.Load()), Blocked: int(w.blocked.Load()), LeaseSlack: w.lease.slack(), Revoked: w.isRevoked(), Stranded: w.isStranded(), Lacks: w.lacks.lately()}
	if w.backend != nil {
		r.Backend = w.backend.Name()
	}
	if w.warm != nil {
		r.Warm = w.warm.Ready()
	}
	return r, true
}

// Check returns nil when the worker holds its lease and Postgres answers.
func (h *Health) Check(ctx context.Context) error {
	h.mu.Lock()
	w := h.w
	h.mu.Unlock()
	if w == nil {
		return ErrNotRunning
	}
	if slack := w.lease.slack(); slack <= 0 {
		return fmt.Errorf("worker: the lease ran out %v ago", -slack)
	}
	return db.Check(ctx, w.Pool, w.q)
}

// ServeHTTP answers 200 when [Health.Check] finds nothing, else 503 with the
// reason.
func (h *Health) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), 2*time.Second)
	defer cancel()
	if err := h.Check(ctx); err != nil {
		http.Error(rw, err.Error(), http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(rw, "ok")
}
