// Package policy is the system call filter of a sandbox, as source. The program
// that the kernel runs is generated from it: to assemble it in every process that
// starts would take longer than the rest of a tool runner's start.
package policy

import (
	"slices"

	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// newest is the number of the last system call that was judged, open_tree_attr of
// Linux 6.15: those of all architectures have the same numbers by now. A later one
// is unknown to programs here, whatever the list of all calls has.
const newest = 467

// refused are system calls that programs in a sandbox have no use for and that
// reach deep into the kernel or across processes. What the list of all calls
// has beyond these, up to the newest, is allowed; those of another architecture are
// unknown.
var refused = []string{
	"acct", "add_key", "bpf", "clock_adjtime", "clock_settime", "create_module", "delete_module",
	"finit_module", "fsconfig", "fsmount", "fsopen", "fspick", "get_kernel_syms", "get_mempolicy",
	"init_module", "io_uring_enter", "io_uring_register", "io_uring_setup", "ioperm", "iopl", "kcmp",
	"kexec_file_load", "kexec_load", "keyctl", "lookup_dcookie", "mbind", "memfd_secret", "migrate_pages", "mount",
	"mount_setattr", "move_mount", "move_pages", "name_to_handle_at", "nfsservctl", "open_by_handle_at",
	"open_tree", "open_tree_attr", "perf_event_open", "personality", "pidfd_getfd", "pivot_root", "process_madvise",
	"process_vm_readv", "process_vm_writev", "ptrace", "query_module", "quotactl", "quotactl_fd",
	"reboot", "request_key", "set_mempolicy", "set_mempolicy_home_node", "setdomainname", "sethostname", "setns", "settimeofday",
	"swapoff", "swapon", "sysfs", "syslog", "_sysctl", "umount", "umount2", "unshare", "uselib",
	"userfaultfd", "ustat", "vhangup", "vm86", "vm86old",
}

// namespaces are the flags of clone that make a namespace.
const namespaces = unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET |
	unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWTIME

// The verdicts.
var (
	allow   = bpf.RetConstant{Val: unix.SECCOMP_RET_ALLOW}
	refuse  = bpf.RetConstant{Val: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)}
	unknown = bpf.RetConstant{Val: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)}
)

// judged are the system calls that are refused for some of their arguments. A filter
// cannot look into what clone3's points to; that it is unknown makes libc use clone.
//
// Those that take a process take no other than the caller, as 0, since nothing else in
// the kernel keeps them from what has the same user: the tool runner, its shims, and
// other commands. One that names its own thread by its number is refused too.
var judged = map[string][]bpf.Instruction{
	"clone":      {low(0), bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: namespaces, SkipFalse: 1}, refuse, allow},
	"clone3":     {unknown},
	"socket":     only(0, unix.AF_UNIX, unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK),
	"socketpair": only(0, unix.AF_UNIX),
	// Typing into the terminal of whoever started this.
	"ioctl": but(1, []uint32{unix.TIOCSTI, unix.TIOCLINUX}, allow),
	// Whoever sets no limit may ask for any.
	"prlimit64":          slices.Concat(when(0, 0, allow), when(2, 0, high(2), bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 0, SkipTrue: 1}, allow), []bpf.Instruction{refuse}),
	"sched_setaffinity":  only(0, 0),
	"sched_setattr":      only(0, 0),
	"sched_setparam":     only(0, 0),
	"sched_setscheduler": only(0, 0),
	// Of a user, 0 is the caller's too.
	"setpriority": but(0, []uint32{unix.PRIO_USER}, only(1, 0)...),
	"ioprio_set":  but(0, []uint32{ioprioUser}, only(1, 0)...),
}

// ioprioUser has ioprio_set mean all processes of a user.
const ioprioUser = 3

// low and high load a half of an argument. The kernel looks at the low one alone where
// its own type is an int, so nothing may depend on the other there.
func low(argument uint32) bpf.Instruction  { return bpf.LoadAbsolute{Off: 16 + 8*argument, Size: 4} }
func high(argument uint32) bpf.Instruction { return bpf.LoadAbsolute{Off: 20 + 8*argument, Size: 4} }

// when does something if the low half of an argument has that value.
func when(argument, value uint32, do ...bpf.Instruction) []bpf.Instruction {
	return append([]bpf.Instruction{low(argument), bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: value, SkipTrue: uint8(len(do))}}, do...)
}

// only allows the call for those values of an argument.
func only(argument uint32, values ...uint32) (out []bpf.Instruction) {
	for _, v := range values {
		out = append(out, when(argument, v, allow)...)
	}
	return append(out, refuse)
}

// but refuses it for those, and goes on otherwise.
func but(argument uint32, values []uint32, otherwise ...bpf.Instruction) (out []bpf.Instruction) {
	for _, v := range values {
		out = append(out, when(argument, v, refuse)...)
	}
	return append(out, otherwise...)
}

// Assemble returns the filter's program for a GOARCH: calls in the order of their
// numbers, and one comparison for as many as have the same verdict.
func Assemble(goarch string) ([]bpf.RawInstruction, error) {
	info, err := arch.GetInfo(goarch)
	if err != nil {
		return nil, err
	}
	verdict := func(number int) []bpf.Instruction {
		name, known := info.SyscallNumbers[number]
		switch {
		case !known:
			return []bpf.Instruction{unknown}
		case slices.Contains(refused, name):
			return []bpf.Instruction{refuse}
		case judged[name] != nil:
			return judged[name]
		}
		return []bpf.Instruction{allow}
	}
	program := []bpf.Instruction{
		bpf.LoadAbsolute{Off: 4, Size: 4}, bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(info.ID), SkipTrue: 1}, unknown,
		bpf.LoadAbsolute{Off: 0, Size: 4},
	}
	for n := 0; n <= newest; {
		v, end := verdict(n), n+1
		for end <= newest && slices.Equal(verdict(end), v) {
			end++
		}
		program = append(program, bpf.JumpIf{Cond: bpf.JumpGreaterOrEqual, Val: uint32(end), SkipTrue: uint8(len(v))})
		program = append(program, v...)
		n = end
	}
	return bpf.Assemble(append(program, unknown)) // also x32's, which are numbers of a program for another machine
}
