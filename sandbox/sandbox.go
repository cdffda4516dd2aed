package sandbox

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"regexp"
	"sync"
	"sync/atomic"
	"time"
)

// Workspace is the default directory of commands and guest steps. It and /tmp
// are the only places that can be written to, and both are gone with the sandbox.
const Workspace = "/workspace"

// Options says what [Start] makes.
type Options struct {
	Spec   Spec
	Labels Labels // Session and Epoch also fence the connections

	// ID names the sandbox on its backend. Defaults to a random one.
	ID string

	// OrphanAfter ends the sandbox when it has had no connection for so long.
	// Defaults to [DefaultOrphanAfter].
	OrphanAfter time.Duration

	// SpareGuest has a process started ahead, for a guest step without variables of
	// its own, as the first thing that is executed in the sandbox: most of a step's
	// time may be the start of the program. Anything else ends that process. It is
	// for a sandbox that is made ahead of need, see [Sandbox.Claim].
	SpareGuest bool

	// Done, if not nil, is called when a command or guest step has ended, with what
	// it used and the error that it ended with.
	Done func(command string, u Usage, err error)

	// Continue lets who opens the sandbox after this process, and issues the same
	// commands, go on with them: see [Open].
	Continue bool

	// Keep, if not nil, is called with the handle that the sandbox is about to have,
	// when that changes ([Sandbox.SetNetwork]): to store it in the place of the one
	// before. Without success nothing changes.
	Keep func(ctx context.Context, h Handle) error
}

// A Sandbox is a running sandbox. Its methods are safe for concurrent use.
type Sandbox struct {
	backend Backend
	id      string
	spec    Spec
	labels  Labels
	token   func() []byte // as in a Handle
	enforce Enforcement

	data, control *link   // bulk data must never delay a kill
	invoker       Invoker // nil: there are links
	network       *network
	spare         bool

	done      func(string, Usage, error)
	keep      func(context.Context, Handle) error
	setting   sync.Mutex // one SetNetwork at a time
	issued    *issued    // nil without Continue
	execs     atomic.Int64
	claimed   atomic.Bool // something was executed in it, or it has a run
	destroyed chan struct{}
	destroy   sync.Once

	mu     sync.Mutex        // for the following, and the Network of spec
	inputs map[string]*input // of commands that were detached, by their ID
}

// undoTimeout bounds the removal of a sandbox that cannot be used.
const undoTimeout = time.Minute

var idPattern = regexp.MustCompile(`^[a-z0-9-]{1,40}$`)

// Start makes a sandbox on b and connects to its tool runner. When it fails
// nothing is left behind. A Spec that the backend cannot enforce fails with an
// [UnsupportedError], an image that cannot be used with an [ImageError], and a
// backend that cannot work on this host with an [UnavailableError].
func Start(ctx context.Context, b Backend, o Options) (*Sandbox, error) {
	if err := o.Spec.Validate(); err != nil {
		return nil, err
	}
	policy, err := o.Spec.Network.parse()
	if err != nil {
		return nil, err
	}
	if _, ok := b.(Invoker); ok && o.Spec.Share {
		return nil, &UnsupportedError{Backend: b.Name(), Field: "Share", Reason: "no command finds what another one left"}
	}
	if o.ID == "" {
		o.ID = "sb-" + randomHex(8)
	}
	if !idPattern.MatchString(o.ID) {
		return nil, fmt.Errorf("sandbox: id %q is not 1 to 40 of [a-z0-9-]", o.ID)
	}
	if o.OrphanAfter < 0 {
		return nil, fmt.Errorf("sandbox: OrphanAfter is negative: %v", o.OrphanAfter)
	}
	if o.OrphanAfter == 0 {
		o.OrphanAfter = DefaultOrphanAfter
	}
	token := make([]byte, 32)
	rand.Read(token)
	s := &Sandbox{
		backend: b, id: o.ID, spec: o.Spec, labels: o.Labels, token: func() []byte { return token }, done: o.Done, keep: o.Keep,
		issued: newIssued(o.Continue), destroyed: make(chan struct{}), spare: o.SpareGuest,
	}
	s.claimed.Store(o.Labels.Run != 0)
	s.spec.Env = maps.Clone(o.Spec.Env)
	s.data, s.control = &link{s: s}, &link{s: s}
	s.network = newNetwork(ctx, s, policy)
	s.enforce, err = b.Create(ctx, Creation{
		ID: o.ID, Spec: s.spec, Labels: o.Labels, TokenHash: sha256.Sum256(token), OrphanAfter: o.OrphanAfter,
		Reached: func() { // connections take this process time, which it has while the tool runner starts
			_, _ = s.data.current(ctx)
			_, _ = s.control.current(ctx)
		},
	})
	if err != nil {
		s.Leave()
		return nil, err
	}
	if s.enforce.Network == "none" && !policy.Empty() {
		s.enforce.Network = "stream" // on top of what the backend gives
	}
	s.enforce.Limits.Time = cmp.Or(s.enforce.Limits.Time, s.spec.Limits.Time)
	s.invoker, _ = b.(Invoker)
	if err = s.spec.Require.unmet(s.enforce); err == nil {
		if err = s.connect(ctx); err == nil {
			err = s.network.open(ctx, policy)
		}
		if err != nil {
			err = fmt.Errorf("sandbox: connect to the tool runner of %s: %w", o.ID, err)
		}
	}
	if err != nil {
		undoing, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
		defer cancel()
		if cerr := s.Destroy(undoing); cerr != nil {
			err = fmt.Errorf("%w (and destroying it: %w)", err, cerr)
		}
		return nil, err
	}
	return s, nil
}

// connect makes both connections: beside a fork bomb, a backend that dials by a
// process in the sandbox could not make the one that the kill needs.
func (s *Sandbox) connect(ctx context.Context) error {
	if s.invoker != nil {
		return nil
	}
	control := make(chan error, 1)
	go func() {
		_, err := s.control.get(ctx)
		control <- err
	}()
	_, err := s.data.get(ctx)
	return cmp.Or(err, <-control)
}

// ID returns the name of the sandbox on its backend.
func (s *Sandbox) ID() string { return s.id }

// Backend returns the name of the backend that made the sandbox.
func (s *Sandbox) Backend() string { return s.backend.Name() }

// Enforcement returns what is enforced on the sandbox.
func (s *Sandbox) Enforcement() Enforcement { return s.enforce }

// Destroy ends the sandbox with everything in it, and removes all that was made
// for it. What runs in it fails with [ErrLost]. Destroying twice is no error.
func (s *Sandbox) Destroy(ctx context.Context) error {
	s.Leave()
	return s.backend.Destroy(ctx, s.id)
}

// Leave closes all connections to the sandbox and lets it be, for another process to
// [Open] in the time that OrphanAfter gives. What is followed here fails with
// [ErrLost].
func (s *Sandbox) Leave() {
	s.destroy.Do(func() { close(s.destroyed) })
	s.data.close()
	s.control.close()
	s.network.gate.Close()
}

func randomHex(n int) string {
	b := make([]byte, n)
	rand.Read(b)
	return hex.EncodeToString(b)
}
