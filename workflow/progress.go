package workflow

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stepward/stepward/internal/engine"
)

// maxShown is the limit of an encoded value that a run shows while it lives.
const maxShown = 64 << 10

// Progress is a named value of a run that can be read from outside while the run
// goes on, and after. The latest value stands.
type Progress[T any] struct {
	// Name is unique among the progress of a run: 1 to 100 of letters, digits
	// and "_-./".
	Name string
}

// Set sets the value, in a body. It is durable before the next step starts, with
// the checkpoint of the last one; what a replay repeats is not written again. The
// error is an *[OptionError], or a *[ValueError], also over 64 KiB.
func (p Progress[T]) Set(ctx Context, v T) error {
	b, _ := caller(ctx)
	b.enter()
	value, err := encodeShown("progress", p.Name, v)
	if err != nil {
		return err
	}
	b.show(len(value), func(b *engine.Batch) {
		b.Progress = append(b.Progress, engine.Progress{Name: p.Name, Value: value, Body: true})
	})
	return nil
}

// SetInStep sets the value, in the function of a step. It returns at once: the
// value is written about four times a second, and at last with the checkpoint; of
// a guest, at most 100 names. Another attempt starts from what the
// last one left. Errors are those of Set, and that ctx is not a step's.
func (p Progress[T]) SetInStep(ctx context.Context, v T) error {
	value, err := encodeShown("progress", p.Name, v)
	if err != nil {
		return err
	}
	o, err := outlet("progress "+p.Name, ctx)
	if err != nil {
		return err
	}
	return o.Progress(p.Name, value)
}

// Get returns the value that a run has set last, and when; the zero time when it
// has set none. The error is [ErrNotFound], a *[ValueError] or an *[OptionError].
func (p Progress[T]) Get(ctx context.Context, c *Client, id RunID) (v T, at time.Time, err error) {
	if err := checkShown("progress", p.Name); err != nil {
		return v, at, err
	}
	all, at, err := c.progress(ctx, id, &p.Name)
	if err == nil && len(all) > 0 {
		err = decode("progress "+p.Name, all[p.Name], &v)
	}
	return v, at, err
}

// Progress returns all that a run has set of [Progress], by name, as JSON. The error
// is [ErrNotFound] or a *[ValueError].
func (c *Client) Progress(ctx context.Context, id RunID) (map[string]json.RawMessage, error) {
	all, _, err := c.progress(ctx, id, nil)
	return all, err
}

func (c *Client) progress(ctx context.Context, id RunID, only *string) (all map[string]json.RawMessage, last time.Time, err error) {
	rows, err := c.pool.Query(ctx, c.q.ProgressList, int64(id), only)
	if err != nil {
		return nil, last, fmt.Errorf("workflow: read the progress of %v: %w", id, c.explain(ctx, err))
	}
	found := false
	all = make(map[string]json.RawMessage)
	var name *string
	var at *time.Time
	var value []byte
	_, err = pgx.ForEachRow(rows, []any{&name, &at, &value}, func() error {
		found = true
		if name == nil {
			return nil
		}
		plain, err := c.open(ctx, "progress "+*name, value)
		all[*name], last = bytes.Clone(plain), *at
		return err
	})
	var undecodable *ValueError
	switch {
	case errors.As(err, &undecodable):
		return nil, last, err
	case err != nil:
		return nil, last, fmt.Errorf("workflow: read the progress of %v: %w", id, c.explain(ctx, err))
	case !found:
		return nil, last, fmt.Errorf("%w: %v", ErrNotFound, id)
	}
	return all, last, nil
}

func checkShown(what, name string) error {
	if !validName.MatchString(name) {
		return &OptionError{Option: fmt.Sprintf("name of %s %.40q", what, name), Reason: nameRule}
	}
	return nil
}

func encodeShown(what, name string, v any) ([]byte, error) {
	if err := checkShown(what, name); err != nil {
		return nil, err
	}
	return encode(what+" "+name, v, maxShown)
}

var errNoOutlet = errors.New("the context is not that of a step's function")

func outlet(what string, ctx context.Context) (engine.Outlet, error) {
	a, ok := engine.AttemptFrom(ctx)
	if !ok || a.Outlet == nil {
		return nil, fmt.Errorf("workflow: %s: %w", what, errNoOutlet)
	}
	return a.Outlet, nil
}

// shows is what the body of a turn has shown.
type shows struct {
	recorded   int // the highest place among the results that earlier turns recorded
	handed     int // the same among those that the body knows
	place      engine.Place
	known      bool // up to where it was on record before this turn
	before     engine.Place
	bytes      int      // that are pending, with what holds them
	attributes []string // that the body has set
}

// maxPendingShown is how much of it is kept for the next commit. While results are
// replayed there is none, as a body that turns out not to fit them writes nothing:
// then maxReplayShown is.
const (
	maxPendingShown = 1 << 20
	maxReplayShown  = 16 << 20
	shownOverhead   = 100 // of each in memory
)

var errManyShown = fmt.Errorf("workflow: the body shows more than %d MiB of progress, stream entries and attributes, which it did not show before, while results are on record that it has not asked for yet: let it show less, or later", maxReplayShown>>20)

// show adds to the next commit what a call of the body shows, unless it is on
// record: an earlier turn made the same call. Such calls leave no checkpoint. They
// are told apart by their place, which a replay repeats.
func (b *branch) show(size int, add func(*engine.Batch)) {
	t := b.t
	s := &t.shows
	if s.place.Done != s.handed {
		s.place = engine.Place{Done: s.handed}
	}
	s.place.N++
	if t.in.Verify {
		return
	}
	if !s.known && t.in.Epoch > 1 {
		var err error
		if t.asks(func() { s.before, err = t.in.Host.Shown(t.ctx) }); err != nil {
			end := refused(err)
			if cause := context.Cause(t.ctx); cause != nil {
				end = interrupted(cause)
			}
			t.leave(end)
			b.exitIfLeft()
		}
		if s.before.Done > s.recorded { // results were taken back; what came before them was shown
			s.before = engine.Place{Done: s.recorded, N: math.MaxInt}
		}
	}
	s.known = true
	if !s.place.After(s.before) {
		return
	}
	add(&t.pending)
	t.pending.Shown = s.place
	s.bytes += size + shownOverhead
	switch {
	case len(t.replay) > 0 && s.bytes > maxReplayShown:
		b.park("too_many", errManyShown)
	case len(t.replay) == 0 && s.bytes > maxPendingShown:
		t.flush(t.ctx)
		b.exitIfLeft()
	}
}
