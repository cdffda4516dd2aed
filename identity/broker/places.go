package broker

import (
	"fmt"
	"sync"
)

// How many places there are; tests have fewer.
var (
	maxConns = 512  // connections of workers
	maxHall  = 128  // and those that have none of these places: that have not said who they are, or are refused
	maxDials = 2048 // connections that lead on to sandboxes
	maxCalls = 2048 // calls that go on: half of them, of a few milliseconds of Postgres each, are done before a renewal is late
	maxHosts = 512  // connections of sandboxes to the hosts of injected secrets
	maxOfOne = 64   // of them of one attempt
)

// places are shared by who takes them. Nobody may have more than are left: so one alone can have half of them,
// each of n who would have all has their n+1th part, and there is always one for who has none.
type places struct {
	of   string // what they are
	size int

	mu   sync.Mutex
	busy int
	held map[string]int
}

// take takes a place for all of who, or for none of them. It is given back by free.
func (p *places) take(who ...string) (free func(), err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	left := p.size - p.busy
	if left <= 0 {
		return nil, &fullError{of: p.of, size: p.size}
	}
	for _, w := range who {
		if has := p.held[w]; has >= left {
			return nil, &fullError{p.of, p.size, w, has}
		}
	}
	if p.held == nil {
		p.held = make(map[string]int)
	}
	p.busy++
	for _, w := range who {
		p.held[w]++
	}
	return sync.OnceFunc(func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.busy--
		for _, w := range who {
			if p.held[w]--; p.held[w] == 0 {
				delete(p.held, w)
			}
		}
	}), nil
}

// A fullError says that there is no place. There may be one, later.
type fullError struct {
	of   string
	size int
	who  string // whose share it is; empty: there is none for anybody
	has  int
}

func (e *fullError) Error() string {
	if e.who == "" {
		return fmt.Sprintf("broker: all %d %s are taken: try again, or start another broker with the same key", e.size, e.of)
	}
	return fmt.Sprintf("broker: %s has %d of %d %s, and may not have more than are left for others: end some of them, or start another broker with the same key", e.who, e.has, e.size, e.of)
}
