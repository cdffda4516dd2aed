package schedule

import "time"

// A State is where a schedule stands.
type State struct {
	Tick, Due time.Time // the next tick, and when it is enqueued; zero when there is none
	Buffered  time.Time // a tick that waits for the end of what runs
	Busy      bool      // a run of an earlier tick has not ended
	Skipped   int64     // ticks that were left out because of Overlap
	Missed    int64     // ticks that were left out because of CatchUp
}

// A Plan is what has to be done at a time.
type Plan struct {
	Enqueue []time.Time // ticks
	Cancel  bool        // the runs of earlier ticks
	State   State       // afterwards
}

// Bounds of one Plan. What is left is due at once, for the next.
const (
	maxRuns  = 10
	maxTicks = 10000
)

// Plan says what is due now.
func (t *Timetable) Plan(name string, s State, now time.Time) Plan {
	p := Plan{State: s}
	p.State.Busy = s.Busy && t.Overlap != Allow
	p.State.Buffered = time.Time{}
	waiting := s.Buffered
	if !waiting.IsZero() && !p.State.Busy && t.Overlap != Cancel {
		p.enqueue(waiting, t.Overlap)
		waiting = time.Time{}
	}
	tick := s.Tick
	for range maxTicks {
		if tick.IsZero() || t.Due(name, tick).After(now) || len(p.Enqueue) == maxRuns {
			break
		}
		switch {
		case now.Sub(t.Due(name, tick)) > t.CatchUp:
			p.State.Missed++
		case t.Overlap == Cancel: // each takes the place of the one before
			if !waiting.IsZero() {
				p.State.Skipped++
			}
			waiting, p.Cancel = tick, p.State.Busy
		case !p.State.Busy:
			p.enqueue(tick, t.Overlap)
		case t.Overlap == Buffer && waiting.IsZero():
			waiting = tick
		default:
			p.State.Skipped++
		}
		tick = t.Next(tick)
	}
	if t.Overlap == Cancel && !p.State.Busy && !waiting.IsZero() {
		p.enqueue(waiting, t.Overlap)
		waiting = time.Time{}
	}
	p.State.Buffered = waiting
	p.State.Tick, p.State.Due = tick, time.Time{}
	if !tick.IsZero() {
		p.State.Due = t.Due(name, tick)
	}
	return p
}

func (p *Plan) enqueue(tick time.Time, overlap string) {
	p.Enqueue = append(p.Enqueue, tick)
	p.State.Busy = overlap != Allow
}

// Start returns the next tick of a schedule that begins, or goes on, at a time,
// and when it is due.
func (t *Timetable) Start(name string, now time.Time) (tick, due time.Time) {
	if tick = t.Next(now); !tick.IsZero() {
		due = t.Due(name, tick)
	}
	return tick, due
}
