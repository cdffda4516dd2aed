// Package boottime reads a clock that goes on while the machine sleeps. Go's
// monotonic clock does not, so a lease measured with it would outlive its row.
package boottime
