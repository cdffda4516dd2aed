package shim

import (
	"errors"
	"os"
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
//
// The limit counts shims too, and one that has ended since was there when the command was
// refused. So it is nearly met where the command could have been refused with one or two
// more of them, and has a good part of all that there is.
type crowd struct {
	most uint64 // processes and threads, 0 if there is no limit

	mu     sync.Mutex
	met    bool
	nearly bool
	done   bool // no process is started any more
}

// twoShims is what two shims take.
const twoShims = 2 * (1 + threads + commands)

func (c *crowd) look() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.most == 0 || c.met || c.done {
		return
	}
	if !c.full(min(twoShims, c.most/2)) {
		return // as is most often, after one process
	}
	c.met = c.full(0)
	c.nearly = c.nearly || c.met || c.atFault()
}

// full reports whether no process can be started with room for so many left.
func (c *crowd) full(room uint64) bool {
	if room > 0 {
		// This process has all threads that it will need, see [confine.KeepThreads].
		_ = unix.Setrlimit(unix.RLIMIT_NPROC, &unix.Rlimit{Cur: c.most - room, Max: c.most})
		defer func() { _ = unix.Setrlimit(unix.RLIMIT_NPROC, &unix.Rlimit{Cur: c.most, Max: c.most}) }()
	}
	_, err := syscall.ForkExec("", nil, &syscall.ProcAttr{})
	return errors.Is(err, unix.EAGAIN)
}

// atFault reports whether a good part of all processes are the command's.
func (c *crowd) atFault() bool {
	if os.Getpid() == 1 { // of a namespace: /proc is that of another
		return false
	}
	all, err := descendants(os.Getpid(), func(int) {})
	return err == nil && uint64(len(all)) >= c.most/4
}

// end returns what was found. From then on every process below this one can be stopped:
// to stop one that is being started would stop who waits for it, and with that all of this
// process, as soon as its garbage is collected.
func (c *crowd) end() (met, nearly bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.done = true
	return c.met, c.nearly
}

// child returns of which child a Siginfo is, and its status.
func child(info *unix.Siginfo) (pid, status int) {
	const align = unsafe.Sizeof(uintptr(0))
	of := (*struct{ pid, uid, status int32 })(unsafe.Add(unsafe.Pointer(info), (3*4+align-1)&^(align-1)))
	return int(of.pid), int(of.status)
}
