package nsroot

import (
	"fmt"
	"os"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/stepward/stepward/internal/confine"
	"github.com/stepward/stepward/internal/fdpass"
	"github.com/stepward/stepward/internal/shim"
)

// Mode is how the environment says that this process is the first of a sandbox
// that package local makes.
const Mode = "local"

// An Inside is the first process of a sandbox, once it is set up.
type Inside struct {
	Setup   Setup
	Control *Control
	Shim    *shim.Process // waits for a first request; nil if it could not be started

	Memory, Processes *os.File // of the Setup; nil without
}

var inside *Inside

// Entered returns what this process has become: nil if the environment does not
// say Mode. Processes are started from main's thread only, which holds less than
// the others.
func Entered() *Inside { return inside }

// init enters the sandbox, or ends the process.
func init() {
	if os.Getenv(confine.EnvMode) != Mode {
		return
	}
	runtime.LockOSThread() // for main as well
	i, err := become()
	if err != nil {
		fmt.Fprintln(os.Stderr, "stepward: "+Mode+":", err)
		os.Exit(confine.ExitSetup)
	}
	inside = i
}

func become() (*Inside, error) {
	if err := closeInherited(); err != nil {
		return nil, fmt.Errorf("close what was inherited: %w", err)
	}
	conn, err := fdpass.Open(controlFD)
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	i := &Inside{Control: &Control{conn}}
	if i.Setup, err = i.Control.Receive(); err != nil {
		return nil, err
	}
	// Not before: a worker that is not root can map no ids of a process that is unreadable.
	err = confine.Harden()
	if i.Setup.Memory != "" {
		i.Memory, _ = os.Open(i.Setup.Memory) // without it a limit's name is missing in a result
	}
	if i.Setup.Processes != "" {
		i.Processes, _ = os.Open(i.Setup.Processes)
	}
	if err == nil {
		err = settle(i.Setup)
	}
	if err == nil {
		err = forgo(i.Setup)
	}
	if err == nil {
		i.Shim, _ = shim.StartAhead(i.Setup.Without) // or the first command tries again, and reports it
		err = enter(i.Setup)
	}
	if err == nil {
		err = confine.GiveUp(i.Setup.Without)
	}
	if err == nil && i.Shim != nil {
		err = i.Shim.Entered()
	}
	if err != nil {
		i.Control.Fail(err)
		return nil, err
	}
	return i, nil
}

// closeInherited closes what the worker did not mean to hand over: descriptors
// that it has itself inherited, from a shell or a service manager, and that
// nobody has marked to be closed. Rights to a file or a socket that come with a
// descriptor are held back by no other layer. The program came along, too, for its
// number. What this process has opened by now is marked, as all that Go opens is.
func closeInherited() error {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil || fd <= controlFD {
			continue
		}
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			unix.Close(fd)
		}
	}
	return nil
}
