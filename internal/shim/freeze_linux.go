package shim

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// setFrozen stops all that the job has started, and what that starts, until it is to
// go on.
func (j *job) setFrozen(frozen bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	switch {
	case frozen && j.thaw == nil && !j.over:
		j.thaw = make(chan struct{})
		thaw := j.thaw
		j.freezer.Go(func() { j.freeze(thaw) })
	case !frozen && j.thaw != nil:
		close(j.thaw)
		j.thaw = nil
		j.freezer.Wait()
	}
}

// end is called when nothing is left of the job: what is frozen later is another one's.
func (j *job) end() {
	j.mu.Lock()
	j.over = true
	j.mu.Unlock()
	j.setFrozen(false)
}

// freeze stops processes, parents first, until none runs, and looks again now and then:
// one that was not stopped yet may have let another go on. They go on in the opposite
// order, so that no parent sees a child that is stopped.
func (j *job) freeze(thaw <-chan struct{}) {
	select {
	case <-j.begun: // a process that is stopped before it executes its program holds up the shim
	case <-thaw:
		return
	}
	var stopped []int
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		wait := 50 * time.Millisecond
		for _, pid := range tree() {
			state := stateOf(pid)
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

// tree lists the processes of the job. As the first process of a namespace the shim
// cannot see them, for /proc is that of another, and -1 stands for them.
func tree() []int {
	if os.Getpid() == 1 {
		return []int{-1}
	}
	return Descendants(os.Getpid())
}

// stateOf returns the letter for what a process does, '-' if that is not known.
func stateOf(pid int) rune {
	raw, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if i := strings.LastIndexByte(string(raw), ')'); err == nil && i > 0 && i+2 < len(raw) {
		return rune(raw[i+2])
	}
	return '-'
}
