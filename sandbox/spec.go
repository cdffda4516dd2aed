package sandbox

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// Spec says what a sandbox requires. The zero value is the strictest sandbox
// there is: no network, no environment, the backend's default root file system
// and the default limits. A requirement that the backend cannot enforce refuses
// the sandbox with an [UnsupportedError]; it is never met by less.
type Spec struct {
	// Image names the root file system: an image reference for a container
	// backend, and for package local a file, as docker save writes one, or an OCI
	// layout. "@sha256:…" at its end pins what that is. Empty means the backend's
	// default: for package local the host's read-only system directories.
	Image string

	// Network says which addresses the sandbox may reach. The zero value
	// reaches none.
	Network NetworkPolicy

	// Env is the environment of every command and guest step, on top of PATH,
	// HOME and TMPDIR. Nothing of the worker's environment is passed on.
	// It is recorded in plain text: never put a secret here.
	Env map[string]string

	// Limits bounds what the sandbox may use.
	Limits Limits

	// Share gives the steps of one run whose mode and Spec are equal one sandbox, one
	// after the other or side by side: each finds the files that others left, and
	// shares the limits with them. Other runs have their own.
	//
	// It is there from the first of these steps until the run leaves its worker: when it
	// ends, waits for more than a few seconds, is parked or handed back, or its worker
	// dies. Whatever it is on next, its steps begin in a new one, which is empty, so each
	// has to make do without what an earlier one left. When something in the sandbox ends it, so
	// do all attempts in it, as with [ErrLost], and the next begins in a new one.
	// A backend whose sandboxes do not live ([Capabilities].Live) refuses it, and so does a step
	// whose mode is above Sandboxed: what has secrets is of one attempt. [Start] makes no
	// difference otherwise: it is workers that share.
	Share bool

	// Require names layers without which the sandbox is refused, where the backend
	// would go without one that the host does not have.
	Require Require
}

// Require names what [Enforcement] must have. The zero value requires no more than
// a backend always gives.
type Require struct {
	UserNS       bool   // the ids inside are not those of the host
	Landlock     bool   // commands of the sandbox are kept apart
	Seccomp      bool   // system calls are filtered
	ReadOnlyRoot bool   // nothing but /workspace and /tmp can be written to
	Transparent  bool   // programs that know of no proxy reach what Network allows
	Isolation    string // the kind: "namespaces", "container", "gvisor"; empty: any
}

// unmet returns an error that names the first requirement that e does not meet.
func (r Require) unmet(e Enforcement) error {
	for _, c := range []struct {
		field  string
		unmet  bool
		reason string
	}{
		{"UserNS", r.UserNS && !e.UserNS, "ids inside are those of the host"},
		{"Landlock", r.Landlock && e.Landlock == 0, "this kernel has no Landlock, or the backend cannot use it"},
		{"Seccomp", r.Seccomp && !e.Seccomp, "system calls are not filtered"},
		{"ReadOnlyRoot", r.ReadOnlyRoot && !e.ReadOnlyRoot, "the root file system can be written to"},
		{"Transparent", r.Transparent && !e.Transparent, "the kernel or the backend cannot redirect what programs connect to, which have to use the proxy"},
		{"Isolation", r.Isolation != "" && r.Isolation != e.Isolation, fmt.Sprintf("it isolates by %q, not %q", e.Isolation, r.Isolation)},
	} {
		if c.unmet {
			return &UnsupportedError{Backend: e.Backend, Field: "Require." + c.field, Reason: c.reason}
		}
	}
	return nil
}

// Limits bounds the resources of one sandbox. A field left zero takes the
// backend's default where it has one, which [Enforcement] reports; a field that
// is set must be enforced, or the sandbox is refused.
type Limits struct {
	Memory    int64   // bytes, of all processes together; at least 32 MiB
	CPU       float64 // cores; at least 0.01
	PIDs      int     // processes and threads; of docker's sandboxes the tool runner's are among them
	Disk      int64   // bytes in /workspace and in /tmp, each, and but for kubernetes and gVisor a file for each KiB
	OpenFiles int     // per process, and an eighth as many connections of all, 1024 at most; at least 64. No kernel tells of it: a command that meets it says so itself, if at all

	// Time is how long each command or guest step may take: it is killed then, also
	// when no worker is connected.
	Time time.Duration
}

// A Kind is what of a [Spec] is fixed once a sandbox is made.
type Kind struct {
	Image   string
	Limits  Limits
	Require Require
}

// Kind returns what of the Spec is fixed once a sandbox is made. A warm sandbox serves
// every Spec of its Kind: see [Sandbox.Claim].
func (s Spec) Kind() Kind { return Kind{Image: s.Image, Limits: s.Limits, Require: s.Require} }

// Labels tie a sandbox, and all that it brings with it, to the attempt that it
// was made for.
type Labels struct {
	Schema   string // the Postgres schema of the installation
	Database string // which of the databases with such a schema it is in
	Session  int64  // the worker's session
	Run      int64
	Step     string
	Attempt  int
	Epoch    int
}

// DefaultOrphanAfter is how long a tool runner serves without an authenticated
// connection before it ends its sandbox.
const DefaultOrphanAfter = 45 * time.Second

// Validate reports the first field of the Spec that no backend could honour, as a [SpecError].
func (s Spec) Validate() error {
	for k := range s.Env {
		if k == "" || strings.ContainsAny(k, "=\x00") {
			return &SpecError{Field: "Env", Reason: fmt.Sprintf("environment variable name %q", k)}
		}
		if strings.ContainsRune(s.Env[k], 0) {
			return &SpecError{Field: "Env", Reason: fmt.Sprintf("value of environment variable %q has a NUL byte", k)}
		}
		if !utf8.ValidString(k) || !utf8.ValidString(s.Env[k]) {
			return &SpecError{Field: "Env", Reason: fmt.Sprintf("environment variable %q is not UTF-8", k)}
		}
	}
	for _, l := range []struct {
		name string
		v    float64
	}{{"Memory", float64(s.Limits.Memory)}, {"CPU", s.Limits.CPU}, {"PIDs", float64(s.Limits.PIDs)},
		{"Disk", float64(s.Limits.Disk)}, {"OpenFiles", float64(s.Limits.OpenFiles)}, {"Time", float64(s.Limits.Time)}} {
		if l.v < 0 {
			return &SpecError{Field: "Limits." + l.name, Reason: fmt.Sprintf("it is negative: %v", l.v)}
		}
	}
	_, err := s.Network.parse()
	return err
}
