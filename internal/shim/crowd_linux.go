package shim

import (
	"errors"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// endCrowded waits until a child has ended, and reports whether there are as many
// processes as there may be, while that one is not collected and so counts. Nobody tells
// of what RLIMIT_NPROC refused: a process is started, which ends at once, and is refused
// as the command's next one would be. Where the first process ended well, which is most
// often, it does not matter.
func endCrowded(first int) bool {
	var info unix.Siginfo
	err := error(unix.EINTR)
	for errors.Is(err, unix.EINTR) {
		err = unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOWAIT, nil)
	}
	if pid, status := child(&info); err != nil || pid == first && status == 0 {
		return false
	}
	_, err = syscall.ForkExec("", nil, &syscall.ProcAttr{})
	return errors.Is(err, unix.EAGAIN)
}

// child returns of which child a Siginfo is, and its status.
func child(info *unix.Siginfo) (pid, status int) {
	const align = unsafe.Sizeof(uintptr(0))
	of := (*struct{ pid, uid, status int32 })(unsafe.Add(unsafe.Pointer(info), (3*4+align-1)&^(align-1)))
	return int(of.pid), int(of.status)
}
