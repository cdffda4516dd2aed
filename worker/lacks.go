package worker

import (
	"context"
	"sync"
	"time"

	"github.com/stepward/stepward/internal/boottime"
	"github.com/stepward/stepward/internal/engine"
	"github.com/stepward/stepward/workflow"
)

const (
	// lackFor is how long it counts that a worker lacked something.
	lackFor = time.Minute

	// lackPause is how long a worker that lacks something leaves runs with secrets to those that may have it. One whose
	// broker does not start leaves them twice as long each time, lackPauseMost at most.
	lackPause     = time.Second
	lackPauseMost = lackFor / 2
)

// lacks is what the broker of this worker could not do, and another one's may.
type lacks struct {
	mu    sync.Mutex
	why   string        // of the last
	at    time.Duration // of the last, since the host's boot
	pause time.Duration
	long  bool // the broker did not start
}

// resting reports whether runs that need secrets are left to others for now.
func (l *lacks) resting() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.pause > 0 && boottime.Now() < l.at+l.pause
}

// last says what was lacking in the last minute, if anything was.
func (l *lacks) last() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.why == "" || boottime.Now() > l.at+lackFor {
		return ""
	}
	return l.why
}

// rest leaves runs that need secrets to others for a time.
func (l *lacks) rest(why error, longer bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now, before := boottime.Now(), l.pause
	l.pause = lackPause
	if longer && l.long && now < l.at+before+lackFor {
		l.pause = min(2*before, lackPauseMost)
	}
	l.why, l.at, l.long = why.Error(), now, longer
}

// lacksBroker is what a worker lacks whose broker does not start, and so everything: see statement WorkerLacks.
const lacksBroker = "broker"

// elsewhere hands the run to another worker whose broker may have what this one's lacks. It parks the run
// if there is none, as then it is for an operator.
func (l *lent) elsewhere(ctx context.Context, reason, lack string, why error, longer bool) error {
	w, t := l.h.w, l.h.t
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), maintenanceTimeout)
	defer cancel()
	var others bool
	err := w.Pool.QueryRow(ctx, w.q.WorkerLacks, t.session, t.run, lack, lackFor.Seconds()).Scan(&others)
	if err == nil && !others {
		return &engine.ParkError{Reason: reason, Err: why}
	}
	w.lacks.rest(why, longer)
	w.log.ErrorContext(ctx, "a run that needs secrets is handed to another worker: the broker here cannot give them", "run", workflow.RunID(t.run).String(), "error", why)
	t.stop(engine.ErrHandBack)
	return engine.ErrHandBack
}
