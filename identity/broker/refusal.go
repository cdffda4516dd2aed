package broker

import (
	"context"
	"errors"
	"fmt"

	"connectrpc.com/connect"

	"github.com/stepward/stepward/internal/rpc"
)

// Why an attempt is refused its secrets, as the worker hears it and the audit has it.
const (
	reasonFenced     = "fenced"     // it is not that worker's, or is over
	reasonUnresolved = "unresolved" // a secret that it needs is not there
	reasonDenied     = "denied"     // by a profile or a store
	reasonRevoked    = "revoked"
	reasonWorker     = "worker"   // the worker that asks is revoked: another one may ask
	reasonSandbox    = "sandbox"  // one that had it before is, and knows the way into the sandbox: a new one may have it
	reasonLevel      = "level"    // a secret demands more than this set-up can promise
	reasonPin        = "pin"      // the store has not, or no more, the version that is asked for
	reasonMismatch   = "mismatch" // it gives another value under the same version
	reasonUnopened   = "unopened"
	reasonChanged    = "changed" // what is on record is not what the broker has issued
	reasonWrap       = "wrap"    // the sandbox could not have a wrapped value: somebody else may have it
	reasonStore      = "store"   // there is no such store here, or it is broken, or nobody has set it up
)

// refusal is a no that asking again does not change.
type refusal struct {
	reason string
	name   string // of the secret, if it is about one
	err    error
}

func (r *refusal) Error() string { return r.err.Error() }

func refuse(reason, name, format string, args ...any) *refusal {
	return &refusal{reason, name, fmt.Errorf(format, args...)}
}

// wire makes an error what the worker gets. What is not a refusal may be asked again.
func wire(err error) error {
	var r *refusal
	switch {
	case err == nil:
		return nil
	case errors.As(err, &r):
		out := connect.NewError(connect.CodeFailedPrecondition, r.err)
		if d, err := connect.NewErrorDetail(&rpc.Refusal{Reason: r.reason, Name: r.name}); err == nil {
			out.AddDetail(d)
		}
		return out
	case errors.As(err, new(*fullError)):
		return connect.NewError(connect.CodeResourceExhausted, err)
	case errors.Is(err, context.Canceled):
		return connect.NewError(connect.CodeCanceled, err)
	case errors.As(err, new(*connect.Error)):
		return err
	}
	return connect.NewError(connect.CodeUnavailable, err)
}
