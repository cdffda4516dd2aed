package boottime

import (
	"time"

	"golang.org/x/sys/unix"
)

// Now returns the time since boot, sleep included.
func Now() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return time.Since(start) // kernels before 2.6.39
	}
	return time.Duration(ts.Nano())
}

var start = time.Now()
