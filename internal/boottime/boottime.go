// Package boottime reads a clock that goes on while the machine sleeps. Go's
// monotonic clock does not, so a lease measured with it would outlive its row.
package boottime

import "time"

// Since returns the time since an earlier reading.
func Since(earlier time.Duration) time.Duration { return Now() - earlier }
