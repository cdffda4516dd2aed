package runner

import (
	"context"
	"errors"
	"fmt"
	"time"

	"connectrpc.com/connect"

	"github.com/stepward/stepward/internal/boottime"
	"github.com/stepward/stepward/internal/redact"
	"github.com/stepward/stepward/internal/rpc"
)

// unwrapSpare is what the values of an envelope leave of the time that it is good for, until it is renewed for the first
// time.
const unwrapSpare = 3 * time.Second

// An unwrapError reports a wrapped value that the sandbox could not have, and will not have by trying again.
type unwrapError struct {
	name   string
	reason string
	err    error
}

const (
	reasonWrap  = "wrap"       // somebody else may have it
	reasonValue = "unresolved" // it is not what a secret may be
)

func (e *unwrapError) Error() string { return fmt.Sprintf("secret %s: %s", e.name, e.err) }

func (e *unwrapError) Unwrap() error { return e.err }

// refusal is what the worker hears of it.
func (e *unwrapError) refusal() error {
	out := connect.NewError(connect.CodeInvalidArgument, e)
	if d, err := connect.NewErrorDetail(&rpc.Refusal{Reason: e.reason, Name: e.name}); err == nil {
		out.AddDetail(d)
	}
	return out
}

// unwrap has the values that are not in the envelope themselves, all of them or none. The broker has not seen them, so
// what it sees to is seen to here.
func (s *secrets) unwrap(ctx context.Context, h *holding) error {
	ctx, cancel := context.WithTimeout(ctx, h.since+h.Head.Terms.Freeze-unwrapSpare-boottime.Now())
	defer cancel()
	for i := range h.Items {
		item := &h.Items[i]
		if !item.Wrapped {
			continue
		}
		got, err := unwrap(ctx, item.Value, s.dial)
		clear(item.Value)
		item.Value = got.Value
		if err != nil && !got.Lost && !got.Bad {
			return fmt.Errorf("secret %s: %w", item.Name, err)
		}
		reason := reasonValue
		if got.Lost {
			reason = reasonWrap
		}
		item.Wrapped = false
		switch {
		case err != nil:
		case len(item.Value) == 0:
			err = errors.New("its value is empty")
		case !got.Weak && redact.Weak(string(item.Value)):
			err = errors.New("its value is too short or too plain to be kept out of outputs: see Key.Weak")
		default:
			err = item.Check()
		}
		if err != nil {
			return &unwrapError{item.Name, reason, err}
		}
	}
	return nil
}
