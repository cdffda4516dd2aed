package sandbox

import (
	"errors"
	"fmt"
)

// ErrLost reports that the sandbox ended, or could no longer be reached, while
// something ran in it. Whether that finished is unknown.
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
	TimedOut bool   // its context's deadline passed
	Stderr   []byte // the end of its standard error, when it was not read otherwise
}

func (e *ExitError) Error() string {
	how := fmt.Sprintf("exit status %d", e.Code)
	if e.Signal != "" {
		how = "killed by " + e.Signal
	}
	if e.TimedOut {
		how += " (timed out)"
	}
	return "sandbox: " + e.Command + ": " + how
}
