package runner

import (
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stepward/stepward/internal/shim"
)

// setFrozen stops all that the exec has started, and what that starts, until it is to go
// on. It is this process that does, as no command can keep it from that.
func (e *exec) setFrozen(frozen bool) {
	e.inMu.Lock()
	defer e.inMu.Unlock()
	switch {
	case frozen && e.shim != nil && e.thaw == nil:
		e.thaw = make(chan struct{})
		sh, thaw := e.shim, e.thaw
		e.hands.Go(func() { e.freeze(sh, thaw) })
	case !frozen:
		e.thawed()
	}
}

// thawed lets what is frozen go on. e.inMu is held.
func (e *exec) thawed() {
	if e.thaw != nil {
		close(e.thaw)
		e.thaw = nil
	}
}

// freeze stops processes, parents first, until none runs, and looks again now and then:
// one that was not stopped yet may have let another go on. They go on in the opposite
// order, so that no parent sees a child that is stopped.
func (e *exec) freeze(sh *shim.Process, thaw <-chan struct{}) {
	select {
	case <-e.started: // a process that is stopped before it executes its program holds up the shim
	case <-thaw:
		return
	}
	var stopped []int
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		below, err := sh.Below()
		if err != nil {
			ruin(err)
		}
		wait := 50 * time.Millisecond
		for _, pid := range below {
			state := shim.StateOf(pid)
			if state == 'T' {
				continue // or it was before
			}
			_ = unix.Kill(pid, unix.SIGSTOP)
			if !slices.Contains(stopped, pid) {
				stopped = append(stopped, pid)
			}
			if !strings.ContainsRune("-tZX", state) { // threads may outlive the first, which has a state only
				wait = time.Millisecond
			}
		}
		pause.Reset(wait)
		select {
		case <-pause.C:
			continue
		case <-thaw:
		}
		for _, pid := range slices.Backward(stopped) {
			_ = unix.Kill(pid, unix.SIGCONT)
		}
		return
	}
}
