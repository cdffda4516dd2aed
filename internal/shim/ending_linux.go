package shim

import (
	"slices"
	"strings"
	"time"
)

// An ending is what is known of processes that were killed and have not all ended.
type ending struct {
	since  time.Time // there was progress
	looks  int       // without progress
	seen   bool      // the following are of a look
	last   []int
	fewest int
}

// stuck takes note of what is left now, all of which has been killed, and reports whether
// there was no progress for so long. Where processes are short of CPU time a look takes
// long too, so there have to be some looks. Progress is
//
//   - fewer processes than ever, which a fork bomb cannot go on with,
//   - only such as there were at the last look, of which not all wait to be collected: they
//     run no instruction of their own any more, and the kernel is at work on them,
//   - none but what waits to be collected, while the shim, which does that, waits for a processor.
func (e *ending) stuck(left []int, state func(int) rune, waits bool, now time.Time, long time.Duration) bool {
	const enough = 20 // looks
	fewer := e.seen && len(left) < e.fewest
	dying := e.seen && !slices.ContainsFunc(left, func(pid int) bool { return !slices.Contains(e.last, pid) }) &&
		slices.ContainsFunc(left, func(pid int) bool { return !strings.ContainsRune("-ZX?", state(pid)) })
	if !e.seen || len(left) < e.fewest {
		e.fewest = len(left)
	}
	e.seen, e.last = true, left
	late := waits && !slices.ContainsFunc(left, func(pid int) bool { return !strings.ContainsRune("-ZX", state(pid)) })
	if fewer || dying || late {
		e.since, e.looks = now, 0
		return false
	}
	e.looks++
	return e.looks >= enough && now.Sub(e.since) > long
}
