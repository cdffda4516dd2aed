// Tree is the program of package trees. Without an argument it does nothing.
//
// What it starts are forks that never return into the Go runtime, which has threads in none
// of them: each process is one thread, as a shell's.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"syscall"
	"unsafe"
)

func main() {
	if len(os.Args) < 2 {
		return
	}
	signal.Ignore(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	runtime.LockOSThread()
	switch os.Args[1] {
	case "daemons": // each in a session of its own, whose parent is gone
		n, err := strconv.Atoi(os.Args[2])
		for range n {
			var status syscall.WaitStatus
			if _, werr := syscall.Wait4(daemon(), &status, 0, nil); err == nil && werr == nil && status != 0 {
				err = errors.New("no daemon can be made")
			} else if err == nil {
				err = werr
			}
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println("there")
	case "bomb": // as many processes as there may be, each of which makes more
		fmt.Println("there")
		bomb()
	default:
		fmt.Println("there")
	}
	rest()
}

var (
	hour   = syscall.Timespec{Sec: 3600}
	moment = syscall.Timespec{Nsec: 10e6}
)

//go:nosplit
//go:norace
func rest() {
	for {
		sleep(&hour)
	}
}

//go:nosplit
//go:norace
func bomb() {
	for {
		if pid := fork(); pid < 0 {
			sleep(&moment)
		}
	}
}

// daemon returns the process that makes one and ends.
//
//go:nosplit
//go:norace
func daemon() int {
	pid := fork()
	if pid != 0 {
		return pid
	}
	_, _, _ = syscall.RawSyscall(syscall.SYS_SETSID, 0, 0, 0)
	if pid = fork(); pid == 0 {
		rest()
	}
	for {
		_, _, _ = syscall.RawSyscall(syscall.SYS_EXIT_GROUP, uintptr(uint32(pid)>>31), 0, 0) // 1 if there is none
	}
}

//go:nosplit
//go:norace
func fork() int {
	pid, _, errno := syscall.RawSyscall6(syscall.SYS_CLONE, uintptr(syscall.SIGCHLD), 0, 0, 0, 0, 0)
	if errno != 0 {
		return -1
	}
	return int(pid)
}

//go:nosplit
//go:norace
func sleep(t *syscall.Timespec) {
	_, _, _ = syscall.RawSyscall(syscall.SYS_NANOSLEEP, uintptr(unsafe.Pointer(t)), 0, 0) //nolint:gosec // no function of the runtime may be called here
}
