// Package wire is what package lambda and its function say to each other.
package wire

import "time"

// Protocol is the version that both sides must speak.
const Protocol = 1

// Dir is the working directory of what runs in the function. There is no
// /workspace: /tmp is all that can be written to.
const Dir = "/tmp/workspace"

// A Request is the payload of an invocation.
type Request struct {
	Protocol int
	Sandbox  string // whose invocation it is: its tenant ID, too
	Exec     []byte `json:",omitempty"` // what package sandbox sends to a tool runner; none: only [Facts] are asked for
}

// Facts is what the function says of itself.
type Facts struct {
	Protocol     int
	Landlock     int // ABI
	Seccomp      bool
	Capabilities bool // some are held
	ReadOnlyRoot bool
	Timeout      time.Duration // of an invocation, when it began
}

// Margin is how long before the function's own timeout an exec is ended, so that
// its end can still be told.
const Margin = 2 * time.Second

// NotRun is the type of the error of an invocation that ran nothing.
const NotRun = "Stepward.NotRun"
