// Package local makes sandboxes of Linux namespaces, with nothing to install:
// the worker's own program is started in new user, mount, process, network, IPC,
// UTS and cgroup namespaces and becomes the tool runner there.
//
// # What a sandbox sees
//
// The host's /usr, /bin, /sbin and /lib* and a few files of /etc, all read-only;
// an empty /workspace and /tmp, in memory, of a limited size; its own /proc and
// five devices. It has a loopback interface. It runs under an id that, when the
// worker is root, is nobody else's on the host; its processes hold no
// capability and cannot get one (the bounding set is empty, no_new_privs set),
// and pass a system call filter. Each exec has a
// Landlock domain of its own.
//
// # Limits of it
//
// It shares the host's kernel. As an ordinary user, the sandbox's id outside is
// the worker's. Memory and CPU are limited only where the worker may make
// cgroups (as root, usually); a Spec that demands such a limit elsewhere is
// refused. Linux 5.14 and a kernel that lets the worker make user namespaces are
// needed: [Backend.Probe] tries, and says what is missing.
//
// A sandbox ends with the worker that made it.
package local

import "github.com/stepward/stepward/sandbox"

// Name is the name of this backend.
const Name = "local"

// Config configures [New]. The zero value is ready to use.
type Config struct {
	// Program is the tool runner. Defaults to the running program, whose main
	// must begin with bootstrap.Init.
	Program string
}

// Defaults of the limits.
const (
	DefaultDisk      = 512 << 20
	DefaultPIDs      = 512
	DefaultOpenFiles = 4096
	DefaultMemory    = 1 << 30 // where it can be enforced
)

var _ sandbox.Backend = (*Backend)(nil)

func unavailable(reason string, err error) error {
	return &sandbox.UnavailableError{Backend: Name, Reason: reason, Err: err}
}

func unsupported(field, reason string) error {
	return &sandbox.UnsupportedError{Backend: Name, Field: field, Reason: reason}
}
