package shim

import (
	"syscall"
	"testing"

	"github.com/stepward/stepward/internal/testenv"
)

// Nothing is started to find out whether it can be, once the processes of the job are
// being stopped: what starts it would stand still, and the shim with it when its garbage is
// collected, until the tool runner loses patience.
func TestNoLookAtTheEnd(t *testing.T) {
	over := make(chan struct{})
	close(over)
	j := &job{crowd: crowd{most: 1 << 20}, kill: make(chan struct{}, 1)}
	j.end(over)
	syscall.ForkLock.RLock() // nothing can be started
	defer syscall.ForkLock.RUnlock()
	looked := make(chan struct{})
	go func() {
		defer close(looked)
		j.crowd.look()
	}()
	testenv.Receive(t, looked)
}
