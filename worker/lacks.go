package worker

import (
	"context"
	"fmt"
	"slices"
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
	last   pause // the newest, also after it was forgotten
	pauses map[kind]pause
}

// kind is what runs have in common of which a worker lacks the same: statement Claim passes over them. The zero one is of
// all that need secrets.
type kind struct {
	requirement int32 // that a claim pins
	tenant      string
	binding     int64 // a hash of what they were bound to
}

// shown is what column passes calls those of a workflow.
func (k kind) shown(workflow string) string {
	if k == (kind{}) {
		return "all"
	}
	return fmt.Sprintf("%d %s %s", k.binding, workflow, k.tenant)
}

type pause struct {
	until, long time.Duration
	at          time.Duration // something was lacking last, since the host's boot
	lack        string        // see statement WorkerLacks
	why         string
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

// lately says what was lacking in the last minute, if anything was.
func (l *lacks) lately() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if boottime.Now() > l.last.at+lackFor {
		return ""
	}
	return l.last.why
}

// rest leaves runs of a kind to others for a time, and returns what it counts them as, and for how long. Those of one claim make one pause:
// 0 is one that has begun.
func (l *lacks) rest(k kind, lack string, why error) (kind, time.Duration) {
	return l.restAt(boottime.Now(), k, lack, why)
}

func (l *lacks) restAt(now time.Duration, k kind, lack string, why error) (kind, time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
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
	p.at, p.lack, p.why = now, lack, why.Error()
	begins := !again || now >= p.until
	if begins {
		p.long = min(max(2*p.long, lackPause), lackPauseMost)
		p.until = now + p.long
	}
	if l.pauses == nil {
		l.pauses = make(map[kind]pause)
	}
	l.pauses[k], l.last = p, p
	if !begins {
		return k, 0
	}
	return k, p.long
}

// about reports whether runs of the tenant may be among those that are left to others.
func (l *lacks) about(tenant string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for k := range l.pauses {
		if k.tenant == tenant || k == (kind{}) {
			return true
		}
	}
	return false
}

// mend ends the pause of a kind that lacks nothing any more, and one for want of a broker. It returns which, and what is lacking no
// more for any.
func (l *lacks) mend(k kind) (kinds []kind, over []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	left := make(map[string]bool)
	l.last = pause{}
	for other, p := range l.pauses {
		if other == k || p.lack == lacksBroker {
			kinds, over = append(kinds, other), append(over, p.lack)
			delete(l.pauses, other)
			continue
		}
		left[p.lack] = true
		if p.at > l.last.at {
			l.last = p
		}
	}
	return kinds, slices.DeleteFunc(over, func(lack string) bool { return left[lack] })
}

// forget ends all pauses, and reports whether there were any. Whoever may have had what this worker lacks has died: its runs are not to
// wait longer than for that.
func (l *lacks) forget() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	had := len(l.pauses) > 0
	clear(l.pauses)
	return had
}

// lacksBroker is what a worker lacks whose broker does not start, and so everything: see statement WorkerLacks.
const lacksBroker = "broker"

// elsewhere hands the run to another worker whose broker may have what this one's lacks, for the key of that name if it is about
// one. It parks the run if there is none, as then it is for an operator.
func (l *lent) elsewhere(ctx context.Context, reason, name string, why error) error {
	w, t := l.h.w, l.h.t
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), maintenanceTimeout)
	defer cancel()
	lack, text := lacksBroker, lacksBroker
	if reason != lacksBroker {
		text = reason + " " + name
		lack = text + " " + t.tenant
	}
	k, others := kind{tenant: t.tenant}, false
	err := w.Pool.QueryRow(ctx, w.q.WorkerLacks, t.session, t.run, lack, lackFor.Seconds()).Scan(&k.requirement, &k.binding, &others)
	if err == nil && !others {
		return &engine.ParkError{Reason: reason, Err: why}
	}
	if err != nil || lack == lacksBroker {
		k = kind{}
	}
	if k, long := w.lacks.rest(k, lack, why); long > 0 {
		w.exec(ctx, w.q.WorkerPasses, t.session, k.shown(t.workflow), long.Seconds(), text)
	}
	w.log.ErrorContext(ctx, "a run that needs secrets is handed to another worker: the broker here cannot give them", "run", workflow.RunID(t.run).String(), "error", why)
	t.stop(engine.ErrHandBack)
	return engine.ErrHandBack
}

// mended notes that the broker here has given an attempt of a run its secrets: nothing like it is left to others any longer.
func (w *worker) mended(ctx context.Context, t *heldTurn) {
	if !w.lacks.about(t.tenant) {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), maintenanceTimeout)
	defer cancel()
	k := kind{tenant: t.tenant}
	if err := w.Pool.QueryRow(ctx, w.q.RunKind, t.run).Scan(&k.requirement, &k.binding); err != nil {
		w.log.WarnContext(ctx, "what a run is bound to was not read", "run", workflow.RunID(t.run).String(), "error", err)
		return
	}
	kinds, over := w.lacks.mend(k)
	if len(kinds) == 0 {
		return
	}
	shown := make([]string, len(kinds))
	for i, k := range kinds {
		shown[i] = k.shown(t.workflow)
	}
	w.exec(ctx, w.q.WorkerMended, t.session, over, shown)
	w.log.InfoContext(ctx, "the broker here gives secrets that it could not give", "run", workflow.RunID(t.run).String())
	w.wake()
}
