//go:build !linux

package boottime

import "time"

// Now returns the time since the program's start. Sleep may be left out.
func Now() time.Duration { return time.Since(start) }

var start = time.Now()
