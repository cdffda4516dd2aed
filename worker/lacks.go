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

	// lackPause is how long a worker leaves runs of a kind that it has handed on to those that may have what it lacks: twice as
	// long each time, lackPauseMost at most.
	lackPause     = time.Second
	lackPauseMost = lackFor / 2

	// lackMost is how many kinds it tells from each other. What is handed on beyond counts as of all. A claim looks at each kind's lane:
	// with 1,000 it took a quarter of a second.
	lackMost = 100
)

// lacks is what the broker of this worker could not do, and another one's may.
type lacks struct {
	mu     sync.Mutex
	why    string        // of the last
	at     time.Duration // of the last, since the host's boot
	pauses map[kind]pause
}

// kind is what runs have in common of which a worker lacks the same: statement Claim passes over them. The zero one is of
// all that need secrets.
type kind struct {
	requirement int32 // that a claim pins
	tenant      string
	binding     int64 // a hash of what they were bound to
}

type pause struct {
	until, long time.Duration
}

// resting reports whether all runs that need secrets are left to others for now.
func (l *lacks) resting() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return boottime.Now() < l.pauses[kind{}].until
}

// kinds are those that are left to others for now.
func (l *lacks) kinds() (requirements []int32, tenants []string, bindings []int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.pauses) == 0 {
		return nil, nil, nil
	}
	now := boottime.Now()
	for k, p := range l.pauses {
		if k != (kind{}) && now < p.until {
			requirements, tenants, bindings = append(requirements, k.requirement), append(tenants, k.tenant), append(bindings, k.binding)
		}
	}
	return requirements, tenants, bindings
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

// rest leaves runs of a kind to others for a time. Those of one claim make one pause.
func (l *lacks) rest(k kind, why error) { l.restAt(boottime.Now(), k, why) }

func (l *lacks) restAt(now time.Duration, k kind, why error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.why, l.at = why.Error(), now
	for other, p := range l.pauses {
		if now > p.until+lackFor {
			delete(l.pauses, other)
		}
	}
	p, again := l.pauses[k]
	if !again && len(l.pauses) >= lackMost {
		k = kind{}
		p, again = l.pauses[k]
	}
	switch {
	case again && now < p.until:
		return
	case again:
		p.long = min(2*p.long, lackPauseMost)
	default:
		p.long = lackPause
	}
	p.until = now + p.long
	if l.pauses == nil {
		l.pauses = make(map[kind]pause)
	}
	l.pauses[k] = p
}

// forget ends all pauses. Whoever may have had what this worker lacks has died: its runs are not to wait longer than for that.
func (l *lacks) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	clear(l.pauses)
}

// lacksBroker is what a worker lacks whose broker does not start, and so everything: see statement WorkerLacks.
const lacksBroker = "broker"

// elsewhere hands the run to another worker whose broker may have what this one's lacks. It parks the run
// if there is none, as then it is for an operator.
func (l *lent) elsewhere(ctx context.Context, reason, lack string, why error) error {
	w, t := l.h.w, l.h.t
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), maintenanceTimeout)
	defer cancel()
	k, others := kind{tenant: t.tenant}, false
	err := w.Pool.QueryRow(ctx, w.q.WorkerLacks, t.session, t.run, lack, lackFor.Seconds()).Scan(&k.requirement, &k.binding, &others)
	if err == nil && !others {
		return &engine.ParkError{Reason: reason, Err: why}
	}
	if err != nil || lack == lacksBroker {
		k = kind{}
	}
	w.lacks.rest(k, why)
	w.log.ErrorContext(ctx, "a run that needs secrets is handed to another worker: the broker here cannot give them", "run", workflow.RunID(t.run).String(), "error", why)
	t.stop(engine.ErrHandBack)
	return engine.ErrHandBack
}
