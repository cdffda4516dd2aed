package workflow

import (
	"sync"
)

// inbox takes what other goroutines have for the turn.
type inbox struct {
	mu    sync.Mutex
	items []func()
	bell  chan struct{}
}

func (i *inbox) post(f func()) {
	i.mu.Lock()
	i.items = append(i.items, f)
	i.mu.Unlock()
	select {
	case i.bell <- struct{}{}:
	default:
	}
}

func (i *inbox) take() func() {
	i.mu.Lock()
	defer i.mu.Unlock()
	if len(i.items) == 0 {
		return nil
	}
	f := i.items[0]
	i.items = i.items[1:]
	return f
}
