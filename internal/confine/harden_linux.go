package confine

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"unsafe"

	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"

	"github.com/stepward/stepward/internal/layers"
)

// Harden makes this process unreadable for others of its uid, and leaves no
// core of it. It reports what did not hold.
func Harden() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("become untraceable: %w", err)
	}
	if d, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0); err != nil || d != 0 {
		return errors.New("become untraceable: it did not hold")
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("forbid core files: %w", err)
	}
	return nil
}

// CatchSignals takes all signals that end or stop a Go program and can be caught,
// and SIGCHLD: a signal that was sent by a process of the sandbox must not end its
// runner. The others do nothing, and taking all 64 would need a millisecond.
func CatchSignals() <-chan os.Signal {
	ch := make(chan os.Signal, 64)
	signal.Notify(ch, unix.SIGCHLD,
		unix.SIGHUP, unix.SIGINT, unix.SIGTERM, unix.SIGPIPE,
		unix.SIGQUIT, unix.SIGABRT, unix.SIGILL, unix.SIGTRAP, unix.SIGBUS, unix.SIGFPE, unix.SIGSEGV, unix.SIGSTKFLT, unix.SIGSYS,
		unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU)
	return ch
}

// Reserve is how many processes and threads a sandbox may have beyond its limit,
// those of the tool runner and of its shims, so that a fork bomb leaves them able
// to act.
const Reserve = 128

// children is how many processes and threads there may be for one more to be
// started by what is below this process's shims, 0 if as many as for itself.
var children int

// LimitProcesses limits the processes and threads of the sandbox to n, and this
// process and its shims to as many and the Reserve.
func LimitProcesses(n int) error {
	v := uint64(n + Reserve)
	if err := unix.Setrlimit(unix.RLIMIT_NPROC, &unix.Rlimit{Cur: v, Max: v}); err != nil {
		return fmt.Errorf("set the limit of processes to %d: %w", v, err)
	}
	children = n
	return nil
}

// Reserved reports whether this process may have more processes and threads than
// what its shims start: nothing can take them away then. A limit that was there
// before, of the machine's, reserves nothing.
func Reserved() bool { return children != 0 }

// ShimEnv is what the environment of a shim says of the limit of processes. Its
// runtime wants a thread for each processor, of which one may be all there are.
func ShimEnv() []string {
	env := []string{FewThreads}
	if Reserved() {
		env = append(env, EnvChildren+"="+strconv.Itoa(children))
	}
	return env
}

// LimitChildren limits the processes and threads of what this shim starts, and returns
// to how many: 0 if there is no limit.
func LimitChildren() uint64 {
	n, err := strconv.ParseUint(os.Getenv(EnvChildren), 10, 31)
	if err != nil || unix.Setrlimit(unix.RLIMIT_NPROC, &unix.Rlimit{Cur: n, Max: n}) != nil {
		return 0
	}
	return n
}

// Adopts makes this process the parent of its descendants' orphans, and reports
// whether it is. A gVisor before 2023 knows that of the first process of a PID
// namespace only, and the rest has to be in one of its own.
func Adopts() bool {
	var is int32
	return unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == nil &&
		unix.Prctl(unix.PR_GET_CHILD_SUBREAPER, uintptr(unsafe.Pointer(&is)), 0, 0, 0) == nil && is == 1
}

// GiveUp gives up what neither the runner nor its children need. Where its shims
// have to have namespaces, which the filter of system calls refuses, the filter is
// left to them: see package shim.
func GiveUp(off layers.Set) error {
	if Adopts() && !off.Has(layers.Seccomp) {
		return FilterSystemCalls(off) // with no_new_privs, for all threads
	}
	if err := ll.AllThreadsPrctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("set no_new_privs: %w", err)
	}
	return nil
}
