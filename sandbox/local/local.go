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
// # Images
//
// [sandbox.Spec.Image] names a file of this machine instead: a tar that docker save
// wrote, the tar of an OCI layout, or the directory of one. A digest after it,
// "/srv/images/tools.tar@sha256:…", pins what is there: that of an index, of a
// manifest, or the ID that docker images shows. A file of several images needs one.
// Nothing is pulled, and what is compressed as a whole is refused.
//
// An image is unpacked once, into [Config.Images], under its ID: workers of one user
// share it, and a tree that nobody used for 30 days goes when another image comes.
// What is unpacked is checked against the digests of the layers.
//
// The tree is the sandbox's root, read-only, with its own /proc, /dev, /workspace and
// /tmp over what the image has there, and with its own /etc/hosts, hostname and
// resolv.conf; /etc/passwd and /etc/group are the image's, or made up where it has none. As with
// package sandbox/docker, the image's environment, working directory, user,
// entrypoint and volumes are not used. Files have no owner inside that means
// anything, and for everybody the rights that the image gives to uid and gid 10001,
// which are those of package sandbox/docker; a set-user-ID bit, a device, a pipe and
// an extended attribute is left out. What an image cannot be used for is a
// [sandbox.ImageError], and leaves nothing behind.
//
// The tool runner needs nothing of the image if it is static. One that is not is built
// again, as for package sandbox/docker; one that was named by [Config.Program] needs its
// loader in the image.
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

	// Images is the directory of unpacked images, for this user only. Defaults to
	// stepward/images in the user's cache directory.
	Images string

	// MaxImage is how many bytes an image may have, unpacked: of files, and 4 KiB and
	// the names for each. Defaults to DefaultMaxImage.
	MaxImage int64
}

// Defaults of the limits, and of [Config.MaxImage].
const (
	DefaultDisk      = 512 << 20
	DefaultPIDs      = 512
	DefaultOpenFiles = 4096
	DefaultMemory    = 1 << 30 // where it can be enforced
	DefaultMaxImage  = 16 << 30
)

var _ sandbox.Backend = (*Backend)(nil)

func unavailable(reason string, err error) error {
	return &sandbox.UnavailableError{Backend: Name, Reason: reason, Err: err}
}

func unsupported(field, reason string) error {
	return &sandbox.UnsupportedError{Backend: Name, Field: field, Reason: reason}
}
