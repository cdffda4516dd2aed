package worker

import (
	"context"
	"math/rand/v2"
	"slices"
	"time"
)

// poll is how often the dispatcher looks without being asked to: tickets may be
// lost.
const (
	poll        = time.Second
	pollLongest = poll * 5 / 4
)

// jittered keeps workers that started together from looking together for ever.
func jittered() time.Duration { return poll + time.Duration(rand.Int64N(int64(pollLongest-poll))) }

// wake tells the dispatcher that runs may have become ready.
func (w *worker) wake() {
	w.limits.news.Store(true)
	w.look()
}

// look asks the dispatcher to claim.
func (w *worker) look() {
	select {
	case w.ring <- struct{}{}:
	default:
	}
}

// dispatch claims runs while ctx lasts. The turns get base, which outlives it.
func (w *worker) dispatch(ctx, base context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.ring:
		case <-timer.C:
		}
		if err := w.claim(ctx, base); err != nil && ctx.Err() == nil {
			w.log.WarnContext(ctx, "claim failed", "error", err)
		}
		timer.Reset(w.limits.next(jittered()))
	}
}

// settle waits, for a moment, while more turns are about to end than there are free
// places: their ends are being committed, and one claim for all costs little more
// than one for the first.
func (w *worker) settle() {
	if w.settles() {
		return
	}
	late := time.NewTimer(5 * time.Millisecond)
	defer late.Stop()
	for !w.settles() {
		select {
		case <-w.left:
		case <-late.C:
			return
		}
	}
}

func (w *worker) settles() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ending <= w.MaxRuns-len(w.turns)
}

// endsSoon notes that a turn's end is about to be committed.
func (w *worker) endsSoon(t *heldTurn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !t.ending {
		t.ending = true
		w.ending++
	}
}

// leaves forgets a turn.
func (w *worker) leaves(t *heldTurn) {
	w.mu.Lock()
	if w.turns[t.run] == t {
		delete(w.turns, t.run)
	}
	if t.limit != "" && !slices.Contains(w.freed, t.limit) {
		w.freed = append(w.freed, t.limit)
	}
	if t.ending {
		w.ending--
	}
	w.mu.Unlock()
	select {
	case w.left <- struct{}{}:
	default:
	}
	if w.hungry.Load() || t.limit != "" {
		w.look()
	}
}
