package runner

import (
	"errors"
	"fmt"
	"os"
	"os/signal"

	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"
)

// harden makes this process unreadable for others of its uid, and leaves no
// core of it. It reports what did not hold.
func harden() error {
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

// catchSignals takes all signals, so that none ends the process. A signal that
// was sent by a process of the sandbox must not end its runner.
func catchSignals() <-chan os.Signal {
	ch := make(chan os.Signal, 64)
	signal.Notify(ch)
	return ch
}

// confine gives up what neither the runner nor its children need.
func confine(c config) error {
	if err := ll.AllThreadsPrctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("set no_new_privs: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become a subreaper: %w", err)
	}
	if c.seccomp {
		if err := filterSystemCalls(); err != nil {
			return err
		}
	}
	return nil
}
