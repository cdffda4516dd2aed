package worker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/stepward/stepward/internal/engine"
	"github.com/stepward/stepward/sandbox"
)

// tool calls the function of a tool step. When another worker may go on with the sandbox,
// what runs there is left alone if this one has to stop, and the function reaches it no
// more: not to clean up, either.
func (h *host) tool(ctx context.Context, b *box, a engine.Attempt, free func()) ([]byte, error) {
	if b.lasts {
		var stop func()
		ctx, stop = leaving(ctx, b.sb.Leave)
		defer stop()
	}
	out, err := h.inline(ctx, a.Key, free, func() ([]byte, error) { return a.Step.CallTool(ctx, b.sb, a.Input) })
	if err == nil || !errors.Is(err, sandbox.ErrLost) {
		return out, err
	}
	fault := &engine.Fault{Kind: "sandbox", Message: err.Error(), Type: fmt.Sprintf("%T", err), Err: err, Orphan: a.Sandbox != ""}
	var final interface{ Permanent() bool }
	fault.Permanent = errors.As(err, &final) && final.Permanent()
	var asked interface{ RetryAfter() time.Duration }
	if errors.As(err, &asked) {
		fault.After = asked.RetryAfter()
	}
	return nil, fault
}
