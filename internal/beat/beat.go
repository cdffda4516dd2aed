// Package beat passes on what an attempt says of itself while it runs: on the
// worker to Postgres, in a guest to the worker.
package beat

import (
	"sync"
	"time"
)

// A Line passes on the newest of what it is sent, the first at once and further
// ones no more often than Every. It has a goroutine only while there is something
// to pass on.
type Line struct {
	Every time.Duration
	Pass  func(details []byte)

	mu      sync.Mutex
	newest  []byte
	fresh   bool // newest was not passed on
	busy    bool // there is a goroutine
	over    bool
	closing chan struct{}
	group   sync.WaitGroup
}

// Send takes details to pass on, and does not wait for it.
func (l *Line) Send(details []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over {
		return
	}
	l.newest, l.fresh = details, true
	if l.busy {
		return
	}
	l.busy = true
	if l.closing == nil {
		l.closing = make(chan struct{})
	}
	l.group.Go(l.run)
}

func (l *Line) run() {
	for {
		l.mu.Lock()
		details := l.newest
		l.busy = l.fresh && !l.over
		if !l.busy {
			l.mu.Unlock()
			return
		}
		l.fresh = false
		l.mu.Unlock()
		l.Pass(details)
		pause := time.NewTimer(l.Every)
		select {
		case <-pause.C:
		case <-l.closing:
			pause.Stop()
		}
	}
}

// Close waits until nothing is passed on any more, and returns the newest of what
// was sent, and whether it is left over. What is sent later is dropped.
func (l *Line) Close() (newest []byte, left bool) {
	l.mu.Lock()
	if !l.over {
		l.over = true
		if l.closing != nil {
			close(l.closing)
		}
	}
	l.mu.Unlock()
	l.group.Wait()
	return l.newest, l.fresh
}
