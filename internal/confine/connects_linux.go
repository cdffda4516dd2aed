package confine

import (
	"fmt"
	"runtime"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A Held is a call of connect that waits for an answer. It is laid out as the
// kernel's struct seccomp_notif.
type Held struct {
	ID   uint64
	PID  uint32 // the thread's
	_    uint32
	_    int32 // number of the call
	_    uint32
	_    uint64
	Args [3]uint64 // descriptor, address, its length
	_    [3]uint64
}

// An answer is the kernel's struct seccomp_notif_resp.
type answer struct {
	id    uint64
	_     int64
	err   int32
	flags uint32
}

// An install is the kernel's struct seccomp_notif_addfd.
type install struct {
	id                uint64
	flags             uint32
	from, to, toFlags uint32
}

// HoldConnects installs a filter on the calling thread, and what it starts, beside
// that of GiveUp: each call of connect waits until it is answered by the descriptor
// that is returned. Of signals only those that end a process end the wait.
func HoldConnects() (listener int, err error) {
	filter := []instruction{
		{unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, 0, 0, 0}, // the number of the call; GiveUp's filter has seen to the architecture
		{unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, 0, 1, unix.SYS_CONNECT},
		{unix.BPF_RET | unix.BPF_K, 0, 0, unix.SECCOMP_RET_USER_NOTIF},
		{unix.BPF_RET | unix.BPF_K, 0, 0, unix.SECCOMP_RET_ALLOW},
	}
	const flags = unix.SECCOMP_FILTER_FLAG_NEW_LISTENER | unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return -1, fmt.Errorf("seccomp: %w", err)
	}
	p := unix.SockFprog{Len: uint16(len(filter)), Filter: (*unix.SockFilter)(unsafe.Pointer(&filter[0]))}
	fd, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&p)))
	runtime.KeepAlive(&p)
	if errno != 0 {
		return -1, fmt.Errorf("seccomp: hold connections: %w", errno)
	}
	return int(fd), nil // which is not inherited
}

// HoldsConnects reports whether HoldConnects works here (it needs Linux 5.19), by a
// thread that ends then.
var HoldsConnects = sync.OnceValue(func() bool {
	var sizes struct{ held, answer, data uint16 }
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_GET_NOTIF_SIZES, 0, uintptr(unsafe.Pointer(&sizes)))
	if errno != 0 || uintptr(sizes.held) != unsafe.Sizeof(Held{}) || uintptr(sizes.answer) != unsafe.Sizeof(answer{}) {
		return false
	}
	can := false
	done := make(chan struct{})
	var try func()
	try = func() {
		runtime.LockOSThread() // and never unlock
		if unix.Gettid() == unix.Getpid() {
			go try() // takes another thread, since this one is held
			<-done
			return
		}
		defer close(done)
		if fd, err := HoldConnects(); err == nil {
			unix.Close(fd)
			can = true
		}
	}
	go try()
	<-done
	return can
})

// Next takes the next call that waits at the listener. It fails with EAGAIN if none
// does.
func Next(listener int) (h Held, err error) {
	ready := []unix.PollFd{{Fd: int32(listener), Events: unix.POLLIN}}
	for {
		_, err = unix.Poll(ready, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil || ready[0].Revents&unix.POLLIN == 0 {
			return h, unix.EAGAIN
		}
		break
	}
	return h, control(listener, unix.SECCOMP_IOCTL_NOTIF_RECV, unsafe.Pointer(&h))
}

// Waits reports whether the call still does: then PID is its thread's, and was
// since Next.
func (h Held) Waits(listener int) bool {
	return control(listener, unix.SECCOMP_IOCTL_NOTIF_ID_VALID, unsafe.Pointer(&h.ID)) == nil
}

// Proceed has the kernel connect. It reads the address anew, which may be another one
// by now: so this permits whatever the caller can connect to.
func (h Held) Proceed(listener int) {
	a := answer{id: h.ID, flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE}
	_ = control(listener, unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&a)) // or it has ended
}

// Return ends the call, with an error unless that is 0.
func (h Held) Return(listener int, errno unix.Errno) {
	a := answer{id: h.ID, err: -int32(errno)}
	_ = control(listener, unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&a)) // or it has ended
}

// Replace puts the file behind fd, a descriptor of ours, in the place of the
// caller's. It fails when the call has ended.
func (h Held) Replace(listener, fd int, cloexec bool) error {
	i := install{id: h.ID, flags: unix.SECCOMP_ADDFD_FLAG_SETFD, from: uint32(fd), to: uint32(h.Args[0])}
	if cloexec {
		i.toFlags = unix.O_CLOEXEC
	}
	return control(listener, unix.SECCOMP_IOCTL_NOTIF_ADDFD, unsafe.Pointer(&i))
}

func control(listener int, request uintptr, arg unsafe.Pointer) error {
	for {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(listener), request, uintptr(arg))
		switch errno {
		case 0:
			return nil
		case unix.EINTR:
		default:
			return errno
		}
	}
}
