package shim

import (
	"testing"
	"time"
)

// A kill has its time from the last progress on.
func TestStuck(t *testing.T) {
	const long = 5 * time.Second
	zombie, dying := func(int) rune { return 'Z' }, func(int) rune { return 'R' }
	pids := func(from, n int) (out []int) {
		for i := range n {
			out = append(out, from+i)
		}
		return out
	}
	for name, c := range map[string]struct {
		left  func(look int) []int
		state func(int) rune
		waits bool // for a processor, the shim
		every time.Duration
		want  int // the look that finds it stuck, 0 for none of 300
	}{
		"fewer at times":      {func(i int) []int { return pids(1, 300-i/4) }, zombie, false, time.Second, 0},
		"freeing memory":      {func(int) []int { return pids(1, 1) }, dying, false, time.Second, 0},
		"nothing left":        {func(int) []int { return nil }, zombie, false, 62 * time.Millisecond, 81},
		"nobody collects":     {func(int) []int { return pids(1, 3) }, zombie, false, 62 * time.Millisecond, 81},
		"a fork bomb":         {func(i int) []int { return pids(1+1000*i, 50) }, dying, false, 62 * time.Millisecond, 81},
		"one of varying size": {func(i int) []int { return pids(1+1000*i, 50+i%7) }, dying, false, 62 * time.Millisecond, 88},
		"looks that are slow": {func(int) []int { return nil }, zombie, false, time.Second, 20},
		"the shim waits":      {func(int) []int { return nil }, zombie, true, time.Second, 0},
		"the shim is late":    {func(int) []int { return pids(1, 3) }, zombie, true, 62 * time.Millisecond, 0},
	} {
		now := time.Unix(0, 0)
		e, got := ending{since: now}, 0
		for i := 1; i <= 300 && got == 0; i++ {
			now = now.Add(c.every)
			if e.stuck(c.left(i), c.state, c.waits, now, long) {
				got = i
			}
		}
		if got != c.want {
			t.Errorf("%s: stuck at look %d, want %d", name, got, c.want)
		}
	}
}
