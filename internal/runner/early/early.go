// Package early makes the program that is linked with it serve in a sandbox before
// main, as soon as the packages that the tool runner needs are initialized. What
// comes later in the order of initialization costs the start of a sandbox nothing,
// and never runs beside the tool runner.
//
// Packages that call [runner.Main] import it. A program without them does not serve,
// and goes on to its main, which is how its worker finds out. It is also what links
// the part that opens envelopes, and what is wrapped in them, which no package of a worker does.
package early

import (
	"context"
	"errors"

	"github.com/stepward/stepward/internal/envelope"
	"github.com/stepward/stepward/internal/envelope/open"
	"github.com/stepward/stepward/internal/runner"
	"github.com/stepward/stepward/internal/wrapped"
)

func init() {
	runner.Early(func(f envelope.Facts, broker []byte, w envelope.Witness) (runner.Key, error) {
		return open.NewKey(f, broker, w)
	}, unwrap)
}

func unwrap(ctx context.Context, raw []byte, dial runner.Dial) (out runner.Unwrapped, err error) {
	w, err := wrapped.Read(raw)
	if err != nil {
		return out, err
	}
	out.Value, err = w.Open(ctx, dial)
	out.Weak = w.Weak
	out.Lost = errors.Is(err, wrapped.ErrGone) || errors.Is(err, wrapped.ErrPath)
	out.Bad = errors.Is(err, wrapped.ErrValue)
	return out, err
}
