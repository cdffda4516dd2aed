package shim

import (
	"errors"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// awaitEnd waits until a child has ended, which is not collected and so counts among the
// processes that there are. It reports whether that may be for want of more: where the
// first process ended well, which is most often, it does not matter.
func awaitEnd(first int) bool {
	var info unix.Siginfo
	err := error(unix.EINTR)
	for errors.Is(err, unix.EINTR) {
		err = unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOWAIT, nil)
	}
	pid, status := child(&info)
	return err == nil && (pid != first || status != 0)
}

// A crowd is whether there were as many processes as there may be. Nobody tells of what
// RLIMIT_NPROC refused: a process is started, which ends at once, and is refused as the
// command's next one would be.
type crowd struct {
	mu   sync.Mutex
	met  bool
	done bool // no process is started any more
}

func (c *crowd) look() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.met || c.done {
		return
	}
	_, err := syscall.ForkExec("", nil, &syscall.ProcAttr{})
	c.met = errors.Is(err, unix.EAGAIN)
}

// end returns what was found. From then on every process below this one can be stopped:
// to stop one that is being started would stop who waits for it, and with that all of this
// process, as soon as its garbage is collected.
func (c *crowd) end() (met bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.done = true
	return c.met
}

// child returns of which child a Siginfo is, and its status.
func child(info *unix.Siginfo) (pid, status int) {
	const align = unsafe.Sizeof(uintptr(0))
	of := (*struct{ pid, uid, status int32 })(unsafe.Add(unsafe.Pointer(info), (3*4+align-1)&^(align-1)))
	return int(of.pid), int(of.status)
}
