package runner

import (
	"context"
	"fmt"
	"time"

	"connectrpc.com/connect"

	"github.com/stepward/stepward/internal/redact"
	"github.com/stepward/stepward/internal/rpc"
)

// unwrapTimeout bounds how long all wrapped values of an envelope may take, which is good for 15 seconds.
const unwrapTimeout = 10 * time.Second

// A lostError reports a wrapped value that somebody else may have.
type lostError struct {
	name string
	err  error
}

func (e *lostError) Error() string { return fmt.Sprintf("secret %s: %s", e.name, e.err) }

func (e *lostError) Unwrap() error { return e.err }

// refusal is what the worker hears of it.
func (e *lostError) refusal() error {
	out := connect.NewError(connect.CodeInvalidArgument, e)
	if d, err := connect.NewErrorDetail(&rpc.Refusal{Reason: "wrap", Name: e.name}); err == nil {
		out.AddDetail(d)
	}
	return out
}

// unwrap has the values that are not in the envelope themselves, all of them or none. The broker has not seen them, so
// what it sees to is seen to here.
func (s *secrets) unwrap(ctx context.Context, h *holding) error {
	ctx, cancel := context.WithTimeout(ctx, unwrapTimeout)
	defer cancel()
	for i := range h.Items {
		item := &h.Items[i]
		if !item.Wrapped {
			continue
		}
		got, err := unwrap(ctx, item.Value, s.dial)
		clear(item.Value)
		item.Value = got.Value
		switch {
		case got.Lost:
			return &lostError{item.Name, err}
		case err != nil:
			return fmt.Errorf("secret %s: %w", item.Name, err)
		case len(item.Value) == 0:
			return fmt.Errorf("secret %s: its value is empty", item.Name)
		case !got.Weak && redact.Weak(string(item.Value)):
			return fmt.Errorf("secret %s: its value is too short or too plain to be kept out of outputs: see Key.Weak", item.Name)
		}
		item.Wrapped = false
		if err := item.Check(); err != nil {
			return err
		}
	}
	return nil
}
