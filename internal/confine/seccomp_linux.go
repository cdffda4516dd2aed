package confine

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/stepward/stepward/internal/layers"
)

// An instruction is laid out as the kernel's struct sock_filter.
type instruction struct {
	op     uint16
	jt, jf uint8
	k      uint32
}

// NoNetwork installs a filter on the calling thread, and what it starts, beside that
// of GiveUp: the only sockets are those of the unix family. It is for where there is
// no network namespace, and other threads need the network.
func NoNetwork() error {
	const domain = 16 // of struct seccomp_data: the lower half of the first argument
	filter := []instruction{
		{unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, 0, 0, 0}, // the number of the call; GiveUp's filter has seen to the architecture
		{unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, 0, 3, unix.SYS_SOCKET},
		{unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, 0, 0, domain},
		{unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, 1, 0, unix.AF_UNIX},
		{unix.BPF_RET | unix.BPF_K, 0, 0, unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)},
		{unix.BPF_RET | unix.BPF_K, 0, 0, unix.SECCOMP_RET_ALLOW},
	}
	p := unix.SockFprog{Len: uint16(len(filter)), Filter: (*unix.SockFilter)(unsafe.Pointer(&filter[0]))}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&p)))
	runtime.KeepAlive(&p)
	if errno != 0 {
		return fmt.Errorf("seccomp: refuse sockets: %w", errno)
	}
	return nil
}

// FilterSystemCalls installs the filter of package policy on all threads, unless that
// is off. What is started from here on inherits it. The kernel gives all of them the
// no_new_privs of the calling thread, too: to stop each for that would take longer.
func FilterSystemCalls(off layers.Set) error {
	if off.Has(layers.Seccomp) {
		return nil
	}
	if len(filter) == 0 {
		return errors.New("seccomp: there is no filter for " + runtime.GOARCH)
	}
	runtime.LockOSThread() // the thread that has no_new_privs is the one that the others get it from
	defer runtime.UnlockOSThread()
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
