package sandbox

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// ErrLost reports that the sandbox ended, or could no longer be reached, while
// something ran in it. Whether that finished is unknown. A sandbox in which a command
// could not be killed is lost as a whole.
var ErrLost = errors.New("sandbox: lost")

// An UnavailableError reports that a backend cannot work on this host.
type UnavailableError struct {
	Backend string
	Reason  string // what was tried, and what to do about it
	Err     error
}

func (e *UnavailableError) Error() string {
	s := "sandbox: backend " + e.Backend + " is not available: " + e.Reason
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

func (e *UnavailableError) Unwrap() error { return e.Err }

// A SpecError reports a field of a [Spec] that no backend could honour.
type SpecError struct {
	Field  string // "Limits.Memory"
	Reason string
}

func (e *SpecError) Error() string { return "sandbox: spec: " + e.Field + ": " + e.Reason }

// An UnsupportedError reports a requirement of a [Spec] that the backend cannot
// enforce on this host.
type UnsupportedError struct {
	Backend string
	Field   string // of Spec, as "Limits.Memory"
	Reason  string
}

func (e *UnsupportedError) Error() string {
	return fmt.Sprintf("sandbox: backend %s cannot enforce %s: %s", e.Backend, e.Field, e.Reason)
}

// An ImageError reports that the image of a [Spec] cannot be used.
type ImageError struct {
	Backend, Image string
	Reason         string // "not found", "wrong platform", "no dynamic loader /lib64/…"
	Err            error
}

func (e *ImageError) Error() string {
	s := fmt.Sprintf("sandbox: image %q on backend %s: %s", e.Image, e.Backend, e.Reason)
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

func (e *ImageError) Unwrap() error { return e.Err }

// An ExitError reports that a command ended without success.
type ExitError struct {
	Command  string
	Code     int    // exit status, -1 when a signal ended it
	Signal   string // "SIGKILL", empty when it exited
	TimedOut bool   // its context's deadline, or its Timeout, passed

	// Limit is the field of [Limits] that something in the sandbox met while the
	// command ran, and which may be why it failed: "Memory" when a process was
	// ended because of it, "PIDs" when one could not be started (of local and
	// kubernetes: when none could be as one of its processes ended), "Disk" when
	// /workspace or /tmp is full, "Time" when it took too long. Empty when none is
	// known to have been.
	Limit string

	NoAnswer bool   // a guest step's process exited well, but without its answer
	Stderr   []byte // the end of its standard error, when it was not read otherwise
	Err      error  // why it was killed: the cause of its context's end

	limit string // what Limit is
}

func (e *ExitError) Unwrap() error { return e.Err }

func (e *ExitError) Error() string {
	how := fmt.Sprintf("exit status %d", e.Code)
	if e.Signal != "" {
		how = "killed by " + e.Signal
	}
	switch {
	case e.NoAnswer:
		how += " without an answer (is bootstrap.Init the first call in main?)"
	case e.Limit != "":
		how += " (the sandbox met its limit of " + strings.TrimSpace(e.limit+" "+limitNames[e.Limit]) + ", Limits." + e.Limit + ")"
	case e.TimedOut:
		how += " (timed out)"
	}
	return "sandbox: " + e.Command + ": " + how
}

var limitNames = map[string]string{"Memory": "memory", "PIDs": "processes", "Disk": "files", "Time": "time"}

// limit returns the name of a limit that the tool runner says was met, and what it
// is. What is no limit's name is none.
func (s *Sandbox) limit(name string) (field, value string) {
	l := s.enforce.Limits
	switch name {
	case "Memory":
		return name, size(l.Memory)
	case "PIDs":
		return name, fmt.Sprint(l.PIDs)
	case "Disk":
		return name, size(l.Disk)
	}
	return "", ""
}

func size(n int64) string {
	switch {
	case n == 0:
		return ""
	case n%(1<<20) == 0:
		return fmt.Sprintf("%d MiB of", n>>20)
	}
	return fmt.Sprintf("%d bytes of", n)
}

// A CommandError reports that a command could not be started. It matches
// [io/fs.ErrNotExist] when there is no such command or directory.
type CommandError struct {
	Command string
	Err     error
}

func (e *CommandError) Error() string {
	return "sandbox: start " + e.Command + ": " + e.Err.Error()
}

func (e *CommandError) Unwrap() error { return e.Err }

// A GuestError is an error that a guest step's function returned, or its panic.
type GuestError struct {
	Message    string
	Type       string // the Go type of the error or the panic's value
	Stack      string // of a panic
	Panic      bool
	Permanent  bool          // the function said that trying again is no use
	RetryAfter time.Duration // the function asked for this pause; 0: it did not
}

func (e *GuestError) Error() string {
	if e.Panic {
		return "panic: " + e.Message
	}
	return e.Message
}
