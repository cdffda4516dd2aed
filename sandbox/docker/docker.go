// Package docker makes sandboxes of containers, through the API of a Docker
// engine, local or remote.
//
// # What a sandbox is
//
// The image's root file system, read-only, with an empty /workspace and /tmp in
// memory, of a limited size. No network but loopback, no capability, no way to
// gain one, the engine's default system call filter and the tool runner's own,
// uid and gid 10001, limits of memory, CPU, processes and files, no log. Each
// exec has a Landlock domain of its own where the engine's kernel has Landlock.
//
// What an image names as a VOLUME, other than /workspace and /tmp, is an empty
// directory that cannot be written to: no volume is made for a sandbox. An image with
// one at /, /dev, in /proc or in /stepward is a [sandbox.ImageError].
//
// The tool runner is PID 1. It comes on a read-only volume named after its
// SHA-256, which sandboxes share and which stays when they end; nothing in the
// image is needed.
//
// # Images
//
// One that the engine does not have it pulls, unless [Config].NoPull says not to; one
// that it has it does not look for again, so that a tag stays what it was when it was
// pulled. A Spec that ends in "@sha256:…" has that one or none. A sandbox is made of a
// digest in any case, which [sandbox.Enforcement].Image has. What cannot be had for
// other reasons than that its registry is out of reach is a [sandbox.ImageError], whose
// Reason begins with "not found", "denied", "no space" or "wrong platform". A pull ends
// when nobody waits for it any more.
//
// For the workers of a broker, package launcher, nothing is pulled but what the broker's
// list has, and of that what is named with its registry, as docker.io/library/python:3:
// the name of an image that was only ever loaded may be anybody's in Docker's registry.
//
// # gVisor
//
// [Config].Runtime names a runtime of the engine. One that is gVisor is found by its
// program, "runsc", and [sandbox.Enforcement].Isolation is "gvisor". The engine has to
// know it, by its daemon.json:
//
//	{"runtimes": {"runsc": {"path": "/usr/bin/runsc", "runtimeArgs": ["--network=none"]}}}
//
// A sandbox has no network of its own in any case, and without that argument an old
// runsc does not start inside of a container. The system calls of a command reach
// gVisor's kernel and not the engine's. What that has not is refused: Limits.Memory
// and Limits.PIDs, for which there is a ceiling of 1 GiB and of 4096 tasks that ends the
// sandbox as a whole; Require.Landlock; and, where runsc is older than 2023, terminals.
// Limits.Disk does not count files. Processes of a command are numbered by a namespace
// of its own, and /proc, there, by the sandbox's. A runsc of 2022 lets commands read the tool runner's
// memory: it takes no secrets there ([sandbox.ErrSecret]), and proves nothing to a broker.
//
// # Podman
//
// The engine may be Podman, by the socket of its service:
//
//	podman system service --time=0 unix:///run/podman/podman.sock
//
// Tried with Podman 4.3 as root, with runc: all suites of sandboxtest pass, through the
// socket and by exec. What differs: files of /workspace and
// /tmp have no number of their own to keep to, and count as memory; the digest on record
// of an image that was loaded is that of Podman's manifest, and not the image's ID; a
// short image name is what Podman's registries.conf says. Not tried: Podman without root.
//
// # Limits of it
//
// A container shares the engine's kernel. Unless the engine runs rootless or
// with userns-remap, uid 10001 inside is uid 10001 outside as well.
// Whoever may use the engine's socket can read and change every sandbox.
//
// A sandbox outlives the worker that made it: another one can dial it, and it
// ends by itself when none does.
package docker

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/moby/moby/client"

	"github.com/stepward/stepward/sandbox"
)

// Name is the name of this backend.
const Name = "docker"

// Config configures [New]. The zero value is ready to use.
type Config struct {
	// Host is the engine's address, as "unix:///var/run/docker.sock". Defaults
	// to what DOCKER_HOST and its relatives say, else to the engine's usual socket.
	Host string

	// Image is used for a Spec that names none. Defaults to an image that has
	// only empty directories and an /etc/passwd, which is loaded into the engine.
	Image string

	// NoPull has the engine pull nothing.
	NoPull bool

	// Credentials returns whom a registry, as "docker.io" or "registry.example.com:5000",
	// is told to pull for; no user: nobody. Defaults to nobody. The engine is sent them.
	Credentials func(ctx context.Context, registry string) (user, password string, err error)

	// Pulling is called while an image is pulled, with how many bytes of its layers have
	// come, and of how many that are known of yet. It holds up the pull.
	Pulling func(image string, done, total int64)

	// Runtime is the engine's name of the runtime for sandboxes: "runsc", where it
	// has gVisor by this name. Defaults to the engine's own default. What it makes of
	// the guarantees is in the package's documentation.
	Runtime string

	// Program is the tool runner, a Linux program that calls bootstrap.Init.
	// Defaults to the running program if it is static, else to a static build
	// of it, made from source when sources and a Go toolchain are at hand.
	Program string
}

// ProgramPath is where the tool runner is found inside a sandbox.
const ProgramPath = programDir + "/program"

const programDir = "/stepward"

// Defaults of the limits, where the engine can enforce them.
const (
	DefaultMemory    = 1 << 30
	DefaultCPU       = 2.0 // or what the engine has, if less
	DefaultPIDs      = 512
	DefaultDisk      = 512 << 20
	DefaultOpenFiles = 4096
)

// uid is the user and group of all that runs in a sandbox.
const uid = 10001

// A Backend makes sandboxes on one engine. It is safe for concurrent use.
type Backend struct {
	config Config
	noBind bool // for tests: reach runners as on a remote engine

	unstarted time.Duration // how long a container may be there before it is started
	patience  time.Duration // with an engine that does not answer, where no context ends it

	finding chan struct{} // holds a value while the engine is asked, or the program is found, or brought to it
	program *carried      // for who has put it there
	volume  atomic.Bool   // is known to hold program

	mu     sync.Mutex // for what follows
	api    *client.Client
	engine *engine
	found  *found
	pulls  map[string]*pull // by what they are for
}

var _ sandbox.Backend = (*Backend)(nil)

// New returns a backend. It talks to nothing yet: [Backend.Probe] does.
func New(c Config) *Backend {
	return &Backend{config: c, unstarted: createTimeout + startTimeout, patience: patience, finding: make(chan struct{}, 1)}
}

// find waits for its turn to find something out, which may take as long as a build of the program. done ends it.
func (b *Backend) find(ctx context.Context) (done func(), err error) {
	select {
	case b.finding <- struct{}{}:
		return func() { <-b.finding }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// Close gives up the connections to the engine that wait for another use. It is
// called once no sandbox of the backend is in use any more; none is ended by it.
func (b *Backend) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.api == nil {
		return nil
	}
	api := b.api
	b.api, b.engine = nil, nil
	return api.Close()
}

// Name returns "docker".
func (*Backend) Name() string { return Name }

func unavailable(reason string, err error) error {
	return &sandbox.UnavailableError{Backend: Name, Reason: reason, Err: err}
}

func unsupported(field, reason string) error {
	return &sandbox.UnsupportedError{Backend: Name, Field: field, Reason: reason}
}
