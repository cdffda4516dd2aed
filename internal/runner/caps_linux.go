package runner

import "golang.org/x/sys/unix"

// holdsCapabilities reports whether the runner has any left. None can be ambient
// that is not permitted and inheritable, too.
func holdsCapabilities() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	return unix.Capget(&header, &sets[0]) != nil || sets != [2]unix.CapUserData{}
}
