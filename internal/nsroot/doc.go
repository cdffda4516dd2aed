// Package nsroot is the inside half of package sandbox/local: the first process
// in new namespaces builds the file system of the sandbox, enters it and gives
// up its capabilities. It also has the socket over which the worker configures
// that process and hands it connections.
//
// The process does so while the packages of its program are being initialized:
// most of them find themselves in the finished sandbox, without the host's files
// and without a capability. Before, to the kernel, it has the id of the worker, which
// is mapped to none of its user namespace, and takes on the sandbox's as the first thing.
//
// A first shim starts meanwhile, see package shim. It is born before the sandbox is
// there, without a capability in any set, and is taken along when the process changes
// the root of the namespace that both are in. It filters itself and executes nothing
// before it has been told where it has to be, and is there.
package nsroot

import (
	"os"
	"time"

	"github.com/stepward/stepward/internal/layers"
)

// UID is the user and group id of everything inside. Outside it is another one.
const UID = 10001

// A Setup is the first message to the process inside.
type Setup struct {
	TokenHash   []byte
	OrphanAfter time.Duration
	Without     layers.Set
	Bind        string // a directory of the host to show, for tests
	Image       string // path of the tree that is the root; without, the host's system directories are shown
	Disk        int64  // bytes of /workspace and of /tmp
	PIDs        int
	OpenFiles   int
	Groups      bool // supplementary groups, the worker's, are there to be dropped

	// Files of the host that count how often the sandbox met its limits.
	Memory, Processes string

	// Tree is the tree of Image as a mount that is nowhere yet, of a worker that can
	// make one: the id inside may not reach the path. Else nil.
	Tree *os.File `json:"-"`
}

// Facts is what the process inside reports once it is set up.
type Facts struct {
	Error    string `json:",omitempty"`
	Landlock int
	Seccomp  bool
	Redirect bool // of programs that know of no proxy
}
