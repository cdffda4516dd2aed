// Package policy is the system call filter of a sandbox, as source. The program
// that the kernel runs is generated from it: to assemble it in every process that
// starts would take longer than the rest of a tool runner's start.
package policy

import (
	"fmt"
	"reflect"
	"slices"
	"unsafe"

	"github.com/elastic/go-seccomp-bpf"
	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// refused are system calls that programs in a sandbox have no use for and that
// reach deep into the kernel or across processes. What the list of all calls
// has beyond these is allowed; what it does not have (a newer kernel's, and
// those of another architecture) is refused.
var refused = []string{
	"acct", "add_key", "bpf", "clock_adjtime", "clock_settime", "create_module", "delete_module",
	"finit_module", "fsconfig", "fsmount", "fsopen", "fspick", "get_kernel_syms", "get_mempolicy",
	"init_module", "io_uring_enter", "io_uring_register", "io_uring_setup", "ioperm", "iopl", "kcmp",
	"kexec_file_load", "kexec_load", "keyctl", "lookup_dcookie", "mbind", "migrate_pages", "mount",
	"mount_setattr", "move_mount", "move_pages", "name_to_handle_at", "nfsservctl", "open_by_handle_at",
	"open_tree", "perf_event_open", "personality", "pidfd_getfd", "pivot_root", "process_madvise",
	"process_vm_readv", "process_vm_writev", "ptrace", "query_module", "quotactl", "quotactl_fd",
	"reboot", "request_key", "set_mempolicy", "setdomainname", "sethostname", "setns", "settimeofday",
	"swapoff", "swapon", "sysfs", "syslog", "_sysctl", "umount", "umount2", "unshare", "uselib",
	"userfaultfd", "ustat", "vhangup", "vm86", "vm86old",
}

// namespaces are the flags of clone that make a namespace.
const namespaces = unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET |
	unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWTIME

// Assemble returns the filter's program for a GOARCH.
func Assemble(goarch string) ([]bpf.RawInstruction, error) {
	info, err := arch.GetInfo(goarch)
	if err != nil {
		return nil, err
	}
	var allowed []string
	for name := range info.SyscallNames {
		switch {
		case slices.Contains(refused, name), name == "clone", name == "clone3", name == "socket", name == "ioctl":
		default:
			allowed = append(allowed, name)
		}
	}
	slices.Sort(allowed)
	masked := func(call string, argument uint32, flags ...uint64) []seccomp.NameWithConditions {
		var c seccomp.ArgumentConditions
		for _, f := range flags {
			c = append(c, seccomp.Condition{Argument: argument, Operation: seccomp.BitsNotSet, Value: f})
		}
		return []seccomp.NameWithConditions{{Name: call, Conditions: c}}
	}
	family := func(f uint64) seccomp.NameWithConditions {
		return seccomp.NameWithConditions{Name: "socket", Conditions: seccomp.ArgumentConditions{
			{Argument: 0, Operation: seccomp.Equal, Value: f},
		}}
	}
	p := seccomp.Policy{
		DefaultAction: seccomp.ActionErrno, // EPERM
		Syscalls: []seccomp.SyscallGroup{
			{Action: seccomp.ActionAllow, Names: allowed},
			{Action: seccomp.ActionAllow, NamesWithCondtions: masked("clone", 0, namespaces)},
			// A filter cannot look into clone3's argument; ENOSYS makes libc use clone.
			{Action: seccomp.ActionErrno | seccomp.Action(unix.ENOSYS), Names: []string{"clone3"}},
			{Action: seccomp.ActionAllow, NamesWithCondtions: []seccomp.NameWithConditions{
				family(unix.AF_UNIX), family(unix.AF_INET), family(unix.AF_INET6), family(unix.AF_NETLINK),
			}},
			// Typing into the terminal of whoever started this.
			{Action: seccomp.ActionAllow, NamesWithCondtions: []seccomp.NameWithConditions{{
				Name: "ioctl", Conditions: seccomp.ArgumentConditions{
					{Argument: 1, Operation: seccomp.NotEqual, Value: unix.TIOCSTI},
					{Argument: 1, Operation: seccomp.NotEqual, Value: unix.TIOCLINUX},
				},
			}}},
		},
	}
	// The package assembles for the machine that it runs on, unless this is set.
	field := reflect.ValueOf(&p).Elem().FieldByName("arch")
	*(**arch.Info)(unsafe.Pointer(field.UnsafeAddr())) = info
	program, err := p.Assemble()
	if err != nil {
		return nil, fmt.Errorf("seccomp policy: %w", err)
	}
	return bpf.Assemble(program)
}
