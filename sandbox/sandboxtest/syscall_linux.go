package sandboxtest

import (
	"bytes"
	"os"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// bad is no address.
const bad = 1

// deep are the system calls that nothing in a sandbox gets through to. Each has
// arguments that the kernel refuses in another way than by EPERM or ENOSYS, where it
// looks at them before it asks who is calling: so it can be told whether the filter
// or the kernel refused. None changes anything, whoever calls.
var deep = map[string]func() error{
	"mount": func() error { return attempt(unix.SYS_MOUNT, bad, bad, bad, 0, 0) }, "umount2": func() error { return attempt(unix.SYS_UMOUNT2, bad, 1<<20) },
	"pivot_root": func() error { return attempt(unix.SYS_PIVOT_ROOT, bad, bad) }, "open_tree": func() error { return attempt(unix.SYS_OPEN_TREE, 1<<20, bad, 1<<20) },
	"mount_setattr": func() error { return attempt(unix.SYS_MOUNT_SETATTR, 1<<20, bad, 1<<20, bad, 0) }, "fsopen": func() error { return attempt(unix.SYS_FSOPEN, bad, 1<<20) },
	"move_mount": func() error { return attempt(unix.SYS_MOVE_MOUNT, 1<<20, bad, 1<<20, bad, 1<<20) }, "fspick": func() error { return attempt(unix.SYS_FSPICK, 1<<20, bad, 1<<20) },
	"fsconfig": func() error { return attempt(unix.SYS_FSCONFIG, 1<<20, 99) }, "fsmount": func() error { return attempt(unix.SYS_FSMOUNT, 1<<20, 99, 99) },
	"unshare": func() error { return attempt(unix.SYS_UNSHARE, unix.CLONE_NEWUSER|1) }, "setns": func() error { return attempt(unix.SYS_SETNS, 1<<20, 0) },
	// CLONE_FS contradicts a user namespace.
	"clone": func() error { return attempt(unix.SYS_CLONE, unix.CLONE_NEWUSER|unix.CLONE_FS, 0, 0, 0, 0) }, "clone3": func() error { return attempt(unix.SYS_CLONE3, bad, 0) },
	"bpf": func() error { return attempt(unix.SYS_BPF, 9999, bad, 8) }, "perf_event_open": func() error { return attempt(unix.SYS_PERF_EVENT_OPEN, bad, 0, 0, 0, 1<<20) },
	"io_uring_setup": func() error { return attempt(unix.SYS_IO_URING_SETUP, 1, bad) }, "io_uring_enter": func() error { return attempt(unix.SYS_IO_URING_ENTER, 1<<20, 0, 0, 0) },
	"keyctl": func() error { return attempt(unix.SYS_KEYCTL, 9999) }, "add_key": func() error { return attempt(unix.SYS_ADD_KEY, bad, bad, bad, 8, 0) },
	"request_key": func() error { return attempt(unix.SYS_REQUEST_KEY, bad, bad, bad, 0) }, "userfaultfd": func() error { return attempt(unix.SYS_USERFAULTFD, 1|1<<20) },
	"ptrace": func() error { return attempt(unix.SYS_PTRACE, 1, 1<<30, 0, 0) }, "kcmp": func() error { return attempt(unix.SYS_KCMP, 1<<30, 1<<30, 0, 0, 0) },
	"process_vm_readv":  func() error { return attempt(unix.SYS_PROCESS_VM_READV, 1<<30, 0, 0, 0, 0, 1) },
	"process_vm_writev": func() error { return attempt(unix.SYS_PROCESS_VM_WRITEV, 1<<30, 0, 0, 0, 0, 1) },
	"pidfd_getfd":       func() error { return attempt(unix.SYS_PIDFD_GETFD, 1<<20, 0, 0) },
	"process_madvise":   func() error { return attempt(unix.SYS_PROCESS_MADVISE, 1<<20, bad, 1, 0, 1) },
	"name_to_handle_at": func() error { return attempt(unix.SYS_NAME_TO_HANDLE_AT, 1<<20, bad, bad, bad, 1<<20) },
	"open_by_handle_at": func() error { return attempt(unix.SYS_OPEN_BY_HANDLE_AT, 1<<20, bad, 0) },
	"personality":       func() error { return attempt(unix.SYS_PERSONALITY, 0xffffffff) }, // which only asks
	"init_module":       func() error { return attempt(unix.SYS_INIT_MODULE, bad, 8, bad) },
	"finit_module":      func() error { return attempt(unix.SYS_FINIT_MODULE, 1<<20, bad, 1<<20) },
	"delete_module":     func() error { return attempt(unix.SYS_DELETE_MODULE, bad, 0) },
	"kexec_load":        func() error { return attempt(unix.SYS_KEXEC_LOAD, 0, 1<<20, bad, 1<<20) },
	"reboot":            func() error { return attempt(unix.SYS_REBOOT, 0, 0, 0, 0) }, "syslog": func() error { return attempt(unix.SYS_SYSLOG, 3, bad, 1<<31) },
	"acct": func() error { return attempt(unix.SYS_ACCT, bad) }, "swapon": func() error { return attempt(unix.SYS_SWAPON, bad, 1<<31) },
	"swapoff": func() error { return attempt(unix.SYS_SWAPOFF, bad) }, "quotactl": func() error { return attempt(unix.SYS_QUOTACTL, 1<<31, bad, 0, bad) },
	"mbind": func() error { return attempt(unix.SYS_MBIND, bad, 1, 99, 0, 0, 1<<20) }, "set_mempolicy": func() error { return attempt(unix.SYS_SET_MEMPOLICY, 99, 0, 0) },
	"move_pages": func() error { return attempt(unix.SYS_MOVE_PAGES, 0, 1, bad, bad, bad, 1<<20) }, "migrate_pages": func() error { return attempt(unix.SYS_MIGRATE_PAGES, 1<<30, 0, 0, 0) },
	"clock_settime": func() error { return attempt(unix.SYS_CLOCK_SETTIME, 0, bad) }, "settimeofday": func() error { return attempt(unix.SYS_SETTIMEOFDAY, bad, 0) },
	"clock_adjtime": func() error { return attempt(unix.SYS_CLOCK_ADJTIME, 0, bad) }, "sethostname": func() error { return attempt(unix.SYS_SETHOSTNAME, bad, 1<<20) },
	"open_tree_attr": func() error { return attempt(unix.SYS_OPEN_TREE_ATTR, 1<<20, bad, 1<<20, bad, 0) }, "memfd_secret": func() error { return attempt(447, 1<<20) },
	"set_mempolicy_home_node": func() error { return attempt(unix.SYS_SET_MEMPOLICY_HOME_NODE, bad, 1, 0, 1<<20) },
	"newer than the filter":   func() error { return attempt(468, 1<<20, bad, bad, 1, 1<<20) }, // file_getattr
	"setdomainname":           func() error { return attempt(unix.SYS_SETDOMAINNAME, bad, 1<<20) },
}

// reached are those of deep that any kernel looks at without the filter.
var reached = []string{
	"mount", "umount2", "open_tree", "mount_setattr", "unshare", "setns", "clone", "clone3", "perf_event_open", "ptrace",
	"process_vm_readv", "process_vm_writev", "name_to_handle_at", "personality", "clock_settime", "settimeofday",
}

// aboveInt is a bit that an int of the kernel's does not have, and none where words have no more.
const aboveInt = uintptr(1 << 32 & uint64(^uintptr(0)))

// attempt makes a system call. What the filter stops has not been looked at.
func attempt(number uintptr, args ...uintptr) error {
	var a [6]uintptr
	copy(a[:], args)
	if _, _, errno := unix.Syscall6(number, a[0], a[1], a[2], a[3], a[4], a[5]); errno != 0 {
		return errno
	}
	return nil
}

// families are sockets that a sandbox has no use for.
var families = map[string]func() error{
	"packet": socket(unix.AF_PACKET, unix.SOCK_RAW), "vsock": socket(unix.AF_VSOCK, unix.SOCK_STREAM), "crypto": socket(unix.AF_ALG, unix.SOCK_SEQPACKET),
	"key": socket(unix.AF_KEY, unix.SOCK_RAW), "bluetooth": socket(unix.AF_BLUETOOTH, unix.SOCK_RAW), "can": socket(unix.AF_CAN, unix.SOCK_RAW),
	"tipc": socket(unix.AF_TIPC, unix.SOCK_STREAM), "xdp": socket(unix.AF_XDP, unix.SOCK_RAW), "rds": socket(unix.AF_RDS, unix.SOCK_SEQPACKET),
	"raw IPv4": socket(unix.AF_INET, unix.SOCK_RAW), "raw IPv6": socket(unix.AF_INET6, unix.SOCK_RAW), "ax25": socket(unix.AF_AX25, unix.SOCK_RAW),
	"vsock pair": socketpair(unix.AF_VSOCK), "tipc pair": socketpair(unix.AF_TIPC), "IPv4 pair": socketpair(unix.AF_INET),
	"vsock by an int": func() error { return attempt(unix.SYS_SOCKET, unix.AF_VSOCK|aboveInt, unix.SOCK_STREAM, 0) },
	"loopback down": func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		lo, err := unix.NewIfreq("lo")
		if err != nil {
			return err
		}
		return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo)
	},
}

func socket(family, kind int) func() error {
	return func() error {
		fd, err := unix.Socket(family, kind, 1)
		if err == nil {
			unix.Close(fd)
		}
		return err
	}
}

func socketpair(family uintptr) func() error {
	return func() error {
		var pair [2]int32
		_, _, errno := unix.Syscall6(unix.SYS_SOCKETPAIR, family, unix.SOCK_SEQPACKET, 0, uintptr(unsafe.Pointer(&pair)), 0, 0)
		if errno == 0 {
			return nil
		}
		return errno
	}
}

// niceness is the nice value that a stat file of /proc has.
func niceness(stat string) (int, error) {
	raw, err := os.ReadFile(stat)
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(raw[bytes.LastIndexByte(raw, ')')+1:])) // from the third on
	return strconv.Atoi(fields[19-3])
}

// settings change nothing, or how a process gets processors, by calls that any other of
// its user can make: the process is pid, the caller for 0.
func settings(pid int) map[string]error {
	p, high := uintptr(pid), uintptr(pid)|aboveInt
	var limit [2]uint64
	var mask [128]byte
	var param int32
	attr := [14]uint32{0: 56, 4: 19} // its size, and the nice value
	at := func(v unsafe.Pointer) uintptr { return uintptr(v) }
	_, _, _ = unix.Syscall6(unix.SYS_PRLIMIT64, p, unix.RLIMIT_NOFILE, 0, at(unsafe.Pointer(&limit)), 0, 0)
	_, _, _ = unix.Syscall(unix.SYS_SCHED_GETAFFINITY, p, unsafe.Sizeof(mask), at(unsafe.Pointer(&mask)))
	const inOne, ioprioBestEffort = 1, 2 << 13
	return map[string]error{
		"prlimit64":          attempt(unix.SYS_PRLIMIT64, p, unix.RLIMIT_NOFILE, at(unsafe.Pointer(&limit)), 0),
		"prlimit64 by int":   attempt(unix.SYS_PRLIMIT64, high, unix.RLIMIT_NOFILE, at(unsafe.Pointer(&limit)), 0),
		"setpriority":        attempt(unix.SYS_SETPRIORITY, unix.PRIO_PROCESS, p, 19),
		"setpriority by int": attempt(unix.SYS_SETPRIORITY, unix.PRIO_PROCESS, high, 19),
		"sched_setscheduler": attempt(unix.SYS_SCHED_SETSCHEDULER, p, 0, at(unsafe.Pointer(&param))),
		"sched_setparam":     attempt(unix.SYS_SCHED_SETPARAM, p, at(unsafe.Pointer(&param))),
		"sched_setattr":      attempt(unix.SYS_SCHED_SETATTR, p, at(unsafe.Pointer(&attr)), 0),
		"sched_setaffinity":  attempt(unix.SYS_SCHED_SETAFFINITY, p, unsafe.Sizeof(mask), at(unsafe.Pointer(&mask))),
		"ioprio_set":         attempt(unix.SYS_IOPRIO_SET, inOne, p, ioprioBestEffort|7),
	}
}
