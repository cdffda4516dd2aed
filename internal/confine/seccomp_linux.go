package confine

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// An instruction is laid out as the kernel's struct sock_filter.
type instruction struct {
	op     uint16
	jt, jf uint8
	k      uint32
}

// filterSystemCalls installs the filter of package policy on all threads. What is
// started from here on inherits it.
func filterSystemCalls() error {
	if len(filter) == 0 {
		return errors.New("seccomp: there is no filter for " + runtime.GOARCH)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("seccomp: %w", err)
	}
	p := unix.SockFprog{Len: uint16(len(filter)), Filter: (*unix.SockFilter)(unsafe.Pointer(&filter[0]))}
	failed, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&p)))
	runtime.KeepAlive(&p)
	switch {
	case errno != 0:
		return fmt.Errorf("seccomp: %w", errno)
	case failed != 0:
		return fmt.Errorf("seccomp: thread %d has another filter", failed)
	}
	return nil
}
