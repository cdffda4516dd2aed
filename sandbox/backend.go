package sandbox

import (
	"context"
	"io"
	"net"
	"time"
)

// A Backend makes sandboxes of one kind. Its methods are safe for concurrent
// use. Package sandboxtest holds the conformance suite that every backend
// passes.
type Backend interface {
	// Name is the backend's short name, for rows, logs and metrics: "local".
	Name() string

	// Probe finds out, by trying, what this host can enforce. It fails with an
	// [UnavailableError] that says why when the backend cannot work here.
	Probe(ctx context.Context) (Capabilities, error)

	// Create makes and starts a sandbox and returns when its tool runner can
	// be dialled. Creating the same ID twice is an error.
	Create(ctx context.Context, c Creation) (Enforcement, error)

	// Dial opens a connection to the sandbox's tool runner. It may be called
	// as often as needed; each connection stands alone.
	Dial(ctx context.Context, id string) (net.Conn, error)

	// List returns the sandboxes with this [Labels.Schema] that exist on this
	// backend, whoever made them. Workers of several databases may have it.
	List(ctx context.Context, schema string) ([]Listed, error)

	// Destroy ends the sandbox and removes all that Create made for it.
	// Destroying one that is gone is no error.
	Destroy(ctx context.Context, id string) error
}

// An Invoker is a Backend of sandboxes that cannot be dialled, nor live between
// commands: each command and guest step has one call of Invoke for itself, and
// finds no file of another. Its Dial fails with an error that is
// [errors.ErrUnsupported], and so does all of [Sandbox] and [Cmd] that would need a
// connection: files, terminals, signals, attaching.
//
// What a context's end, or its own limit of time, ends is told to it beforehand,
// and its runner sees to that. A cancelation reaches nobody: the error is [ErrLost],
// and what was invoked goes on to its own end.
type Invoker interface {
	Backend

	// Invoke has the tool runner of a sandbox run request, and returns what that
	// writes, as it comes. It makes at most one attempt. An error that is [ErrLost]
	// says that it may have been run, any other that it was not. What Read returns
	// before the request's end is an [ErrLost] as well, and wraps what is known.
	Invoke(ctx context.Context, id string, request []byte) (io.ReadCloser, error)
}

// Creation is what a backend needs to make one sandbox.
type Creation struct {
	ID     string // chosen by the caller: 1 to 40 of [a-z0-9-]
	Spec   Spec
	Labels Labels

	// TokenHash is the SHA-256 of the token that a connection must present.
	// The sandbox never learns the token.
	TokenHash [32]byte

	// OrphanAfter is how long the tool runner serves without an authenticated
	// connection before it ends the sandbox. Zero means [DefaultOrphanAfter].
	OrphanAfter time.Duration

	// Reached, if not nil, may be called by Create before it returns, from when on
	// Dial works: what is written to a connection waits for the tool runner.
	Reached func() `json:"-"`
}

// Listed is a sandbox that exists.
type Listed struct {
	ID      string
	Labels  Labels
	Created time.Time
}

// Capabilities says what a backend can enforce on this host, as probed.
type Capabilities struct {
	Isolation   string // "namespaces", "container", "gvisor"
	Images      bool   // Spec.Image may be set
	UserNS      bool   // uid 0 inside is not uid 0 outside
	Landlock    int    // ABI version, 0 without
	Seccomp     bool
	Memory      bool // Limits.Memory
	CPU         bool // Limits.CPU
	PIDs        bool // Limits.PIDs
	Disk        bool // Limits.Disk
	OpenFiles   bool // Limits.OpenFiles
	Egress      bool // Network.Allow: connections through the worker
	Transparent bool // also for programs that know of no proxy
	Persistent  bool // a sandbox outlives the worker that made it, for others to dial
	Live        bool // a sandbox can be dialled; else it has commands and guest steps alone, see [Invoker]
}

// Enforcement is what was enforced on one sandbox. It is recorded on the audit
// event of the sandbox's creation.
type Enforcement struct {
	Backend      string `json:"backend"`
	Isolation    string `json:"isolation"`
	Image        string `json:"image,omitempty"` // with its digest where there is one
	Network      string `json:"network"`         // "none", or "stream": what the worker allows, through it
	UserNS       bool   `json:"user_namespace"`
	Landlock     int    `json:"landlock_abi"`
	Seccomp      bool   `json:"seccomp"`
	NoNewPrivs   bool   `json:"no_new_privileges"`
	Capabilities string `json:"capabilities"` // "none"
	ReadOnlyRoot bool   `json:"read_only_root"`
	Transparent  bool   `json:"transparent"` // what the network allows is reached also by programs that know of no proxy
	Limits       Limits `json:"limits"`
}
