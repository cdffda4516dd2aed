package broker

import (
	"context"
	"errors"
	"time"

	"github.com/stepward/stepward/internal/wrapped"
)

// A Store holds the values of secrets. It is used by the broker's process only,
// by several goroutines at a time. Package identitytest checks an implementation.
//
// Its errors wrap one of those below where one fits; any other is taken for a
// failure that passes. None ever has a value in its text.
type Store interface {
	// Get returns a value: that of r.Version, or the current one.
	Get(ctx context.Context, r Request) (Value, error)
}

// A Revoker is a Store whose values may be leases, which it can end.
type Revoker interface {
	// Revoke ends what Get gave out under this lease, at its source, and returns nil when it is dead
	// there. It is called again after a failure, also by another process, for a few leases at a time.
	Revoke(ctx context.Context, lease string) error
}

// A Request says which value is asked for, and on whose behalf.
type Request struct {
	Path    string // of the reference, without its scheme: what it means is the store's affair
	Version string // as a Value had it; empty: the current one
	Tenant  string // a store that can tell refuses what is another tenant's

	// Attempt identifies the attempt that the value is for, and Until is when that is
	// over for certain; if its step has no time limit, an hour from now. A store that gives out leases ties
	// them to it.
	Attempt string
	Until   time.Time
}

// A Value is what a store has under a reference.
type Value struct {
	Bytes   []byte    // never cut; who asked for it refuses what is over MaxValue, and overwrites it after use
	Version string    // names this value for ever, if need be with more behind an "@" than people say; empty: the store has none
	Created time.Time // of the version, as far as known
	Lease   string    // for Revoker; empty: there is none

	// Wrapped is how the sandbox has the value, which the broker does not know then: Bytes is empty. Of package vault.
	Wrapped *wrapped.Value
}

// MaxValue is how many bytes a value has at most.
const MaxValue = 64 << 10

// What a caller of a store tells apart. Their texts are parts of a store's own, which says whose they are.
var (
	// ErrNoSecret reports that the store has nothing under the reference.
	ErrNoSecret = errors.New("no such secret")

	// ErrEmpty reports a store that has no secret at all: nobody has set it up. Where it is wrapped
	// beside ErrNoSecret, it counts for what a step cannot do without.
	ErrEmpty = errors.New("the store is empty")

	// ErrNoVersion reports that the store has the secret, and not, or no more, the version.
	ErrNoVersion = errors.New("no such version of the secret")

	// ErrName reports what the store takes for no name of a secret, or of a tenant: there can be nothing under it.
	ErrName = errors.New("no name of a secret, or of a tenant")

	// ErrValue reports a value that no step can be given: it is empty, has over [MaxValue] bytes, or, for an environment
	// variable, a NUL; or it is too short or too plain to be kept out of outputs.
	ErrValue = errors.New("the value cannot be given to a step")

	// ErrDenied reports that the store does not let the broker, or the tenant, read it.
	ErrDenied = errors.New("access to the secret is denied")

	// ErrCorrupt reports that what the store has was changed, swapped, cut or set
	// back by someone other than the store.
	ErrCorrupt = errors.New("the store is corrupt")
)
