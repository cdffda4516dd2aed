// Package kubernetes makes sandboxes of pods, one of each.
//
// # What a sandbox is
//
// A pod of the "restricted" Pod Security Standard: the image's root file system,
// read-only, with an empty /workspace and /tmp in memory, of a limited size; no
// capability and no way to gain one, the runtime's default system call filter and
// the tool runner's own, a uid of its own that is not 0, no token of a service
// account, limits of memory, CPU, processes and files. Where the cluster has user
// namespaces, ids inside are nobody's outside; a RuntimeClass puts gVisor or a
// virtual machine around it. Each exec has a Landlock domain of its own where the
// node's kernel has Landlock.
//
// # The network
//
// A pod has a network interface, and a NetworkPolicy without any rule keeps all
// traffic from it, in both directions. A policy takes hold some time after a pod
// begins, on some clusters never. The tool runner therefore serves nobody until
// the API server, which pods can reach otherwise, is out of its reach, and a
// sandbox whose network stays open is never handed over. Policies add up, so that
// another one in the namespace that selects sandboxes and allows something
// refuses them all: give sandboxes a namespace of their own. What Spec.Network
// allows leaves by way of the worker, as on every backend.
//
// # The tool runner
//
// It comes from the worker's own image, by an init container which copies the
// program to a volume of the pod. The worker reaches it through the API server, by
// a forwarded port of the pod's loopback. It needs no right to exec or attach,
// with which it could read what is sealed to the sandbox; examples/kubernetes has
// the Role.
//
// # Limits of it
//
// A pod shares the node's kernel unless a RuntimeClass says otherwise. Where
// containers of a node are killed as a whole when they run out of memory, as is
// usual with cgroup v2, the sandbox is lost then, unless singleProcessOOMKill is
// true in the configuration of the node's kubelet. There is no limit of processes
// with a RuntimeClass. A port-forward must reach the pod's loopback, which it does
// not with runtimes that have a network stack of their own: Probe says so.
//
// For what an image has as VOLUME the node makes a directory on its own disk, which
// no limit counts and which goes with the container. A Landlock domain keeps commands
// and guests from it; the worker can write there. Where there is no Landlock such an
// image is a [sandbox.ImageError].
//
// A sandbox outlives the worker that made it: another one can dial it, and it
// ends by itself when none does. It is owned by what controls the worker's pod, a
// ReplicaSet for instance, and goes when that is deleted.
package kubernetes

import (
	"sync"
	"time"

	"k8s.io/client-go/rest"

	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/sandbox/kubernetes/internal/shape"
)

// Name is the name of this backend.
const Name = shape.Name

// Config configures [New]. In a pod of the cluster all fields may be left zero.
type Config struct {
	// REST says how the API server is reached. Defaults to KUBECONFIG or
	// ~/.kube/config, else to the service account of the pod that this runs in.
	REST *rest.Config

	// Namespace holds the sandboxes. Defaults to that of REST's context, or of the
	// pod that this runs in.
	Namespace string

	// RunnerImage is an image whose entry point is a static program that calls
	// bootstrap.Init: the worker's own. Defaults to the image of the pod that this
	// runs in, if it has one container; required elsewhere.
	RunnerImage string

	// Image is used for a Spec that names none. Defaults to RunnerImage.
	Image string

	// PullSecrets name the secrets, in Namespace, that images are pulled with.
	// Images that a node has are not pulled again.
	PullSecrets []string

	// RuntimeClass is that of the pods. Empty is the cluster's default.
	RuntimeClass string

	// NodeSelector says which nodes sandboxes may run on.
	NodeSelector map[string]string

	// Request is the memory and CPU that the scheduler sets aside for a sandbox;
	// its limits are the Spec's. Defaults to [DefaultRequestMemory] and
	// [DefaultRequestCPU], or the limit if that is less.
	Request sandbox.Limits

	// StartTimeout is how long a pod may take until its tool runner answers, with
	// the time to find or add a node and to pull images. Defaults to 2 minutes.
	StartTimeout time.Duration

	// MaxLife ends a sandbox whatever happens. Defaults to 24 hours.
	MaxLife time.Duration

	// ProofKey is the key for proofs of the broker that the worker uses, as broker.ProofKey tells it. Sandboxes can
	// prove themselves to that broker then, by a token of their pod: see package attest. It is no secret.
	ProofKey string
}

// ProgramPath is where the tool runner is found inside a sandbox.
const ProgramPath = shape.Program

// Defaults of the limits, where the cluster can enforce them, and of what the
// scheduler sets aside.
const (
	DefaultMemory        = 1 << 30
	DefaultCPU           = 2.0
	DefaultPIDs          = 512
	DefaultDisk          = 512 << 20
	DefaultOpenFiles     = 4096
	DefaultRequestMemory = 64 << 20
	DefaultRequestCPU    = 0.05
)

// Defaults of Config.
const (
	defaultStartTimeout = 2 * time.Minute
	defaultMaxLife      = 24 * time.Hour
)

// A Backend makes sandboxes in one namespace of a cluster. It is safe for
// concurrent use.
type Backend struct {
	config Config

	mu      sync.Mutex // held while something below is found out
	cluster *cluster
	probing sync.Mutex
	found   *found
}

var _ sandbox.Backend = (*Backend)(nil)

// New returns a backend. It talks to nothing yet: [Backend.Probe] does.
func New(c Config) *Backend { return &Backend{config: c} }

// Name returns "kubernetes".
func (*Backend) Name() string { return Name }

func unavailable(reason string, err error) error {
	return &sandbox.UnavailableError{Backend: Name, Reason: reason, Err: err}
}

func unsupported(field, reason string) error {
	return &sandbox.UnsupportedError{Backend: Name, Field: field, Reason: reason}
}
