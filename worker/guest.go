package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"

	"github.com/stepward/stepward/internal/engine"
	"github.com/stepward/stepward/internal/enqueue"
	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/workflow"
)

// What one attempt may show from a guest, which need not be the program that it
// was: a step on the worker is trusted, and has no such limits.
const (
	maxGuestEntries = 64 << 20 // bytes, with entryCost for each
	entryCost       = 100
	maxGuestNames   = 100 // of progress
)

// guestOutlet passes on what a guest shows. It is used by one goroutine.
type guestOutlet struct {
	ctx     context.Context // of the attempt
	to      shelf
	cancel  context.CancelCauseFunc
	key     string
	entries int // bytes
	names   map[string]bool
	known   map[int]bool // entries that are durable since an earlier turn
	look    func([]byte) // looks through what is shown; nil: nobody does
	warn    func(error)  // of what the guest does not hear about
}

// shelf is where it goes.
type shelf interface {
	appendNumbered(ctx context.Context, n int, stream string, payload []byte) error
	Progress(name string, value []byte) error
}

// append returns when the entry is durable. One that comes again after its worker
// died is not appended again.
func (g *guestOutlet) append(number int64, stream string, payload []byte) error {
	n := int(max(0, min(number, math.MaxInt32)))
	if g.known[n] {
		return nil
	}
	if g.ctx.Err() != nil {
		return context.Cause(g.ctx)
	}
	if err := g.check("stream", stream, payload); err != nil {
		return err
	}
	if g.entries += len(payload) + entryCost; g.entries > maxGuestEntries {
		return &workflow.ValueError{Kind: "size", What: fmt.Sprintf("all entries of an attempt of step %s in a guest", g.key), Bytes: g.entries, Limit: maxGuestEntries}
	}
	err := g.to.appendNumbered(g.ctx, n, stream, payload)
	switch {
	case errors.Is(err, engine.ErrLeaseLost):
		g.cancel(err)
		return fmt.Errorf("%w: %w", sandbox.ErrDetached, err) // no news for the guest: another worker may go on with it
	case err != nil && g.ctx.Err() != nil:
		return fmt.Errorf("%w: %w", context.Cause(g.ctx), err) // which may be ErrDetached: of a statement that was cut short, only err is known
	}
	return err
}

// progress drops what is refused: nobody waits for an answer.
func (g *guestOutlet) progress(name string, value []byte) {
	err := g.check("progress", name, value)
	if err == nil && !g.names[name] {
		if len(g.names) == maxGuestNames {
			err = fmt.Errorf("progress %s: the attempt has set %d others", name, maxGuestNames)
		} else {
			if g.names == nil {
				g.names = make(map[string]bool)
			}
			g.names[name] = true
		}
	}
	if err == nil {
		err = g.to.Progress(name, value)
	}
	if err != nil {
		g.warns(err)
	}
}

// warns tells of the first thing that is refused without an answer.
func (g *guestOutlet) warns(err error) {
	if g.warn != nil {
		g.warn(err)
		g.warn = nil
	}
}

// beat passes a heartbeat on. One with other details is none.
func (g *guestOutlet) beat(to func([]byte)) func([]byte) {
	return func(details []byte) {
		if json.Valid(details) {
			to(details)
			return
		}
		g.warns(notJSON("heartbeat of step " + g.key))
	}
}

// output refuses what is not JSON.
func (g *guestOutlet) output(out []byte) ([]byte, error) {
	if json.Valid(out) {
		return out, nil
	}
	err := notJSON("output of step " + g.key)
	return nil, &engine.Fault{Kind: err.Kind, Message: err.Error(), Type: fmt.Sprintf("%T", err), Err: err}
}

func notJSON(what string) *workflow.ValueError {
	return &workflow.ValueError{Kind: "decode", What: what, Err: errors.New("what the guest sent is not JSON")}
}

// check refuses what package workflow in the guest would have refused. What is not
// JSON could pass for a value that a codec or a store has to open.
func (g *guestOutlet) check(what, name string, value []byte) error {
	switch {
	case !enqueue.Name.MatchString(name):
		return fmt.Errorf("%s %.40q: bad name", what, name)
	case !json.Valid(value):
		return notJSON(fmt.Sprintf("%s %s of step %s", what, name, g.key))
	case g.look != nil:
		g.look(value)
	}
	return nil
}
