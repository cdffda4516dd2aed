package workflow

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stepward/stepward/internal/engine"
)

// Stream is a list of values that a run adds to, and that any number of clients
// read while the run goes on, and after. It lasts as long as the run is kept, and
// goes on over ContinueAsNew.
type Stream[T any] struct {
	// Name is unique among the streams of a run: 1 to 100 of letters, digits
	// and "_-./".
	Name string
}

// A StreamEntry is a value of a stream.
type StreamEntry[T any] struct {
	// Offset orders the entries of a stream. Offsets rise, and leave some out.
	Offset  int64
	At      time.Time
	Step    string // key of the step whose function appended it; empty: the body
	Attempt int    // of that step; 0: the body
	Value   T
}

// Append adds a value, in a body, exactly once: it is durable before the next
// step starts, with the checkpoint of the last one, and what a replay repeats is
// not added again. The error is an *[OptionError], or a *[ValueError],
// also over 64 KiB.
func (s Stream[T]) Append(ctx Context, v T) error {
	b, _ := caller(ctx)
	b.enter()
	payload, err := encodeShown("stream", s.Name, v)
	if err != nil {
		return err
	}
	b.show(len(payload), func(b *engine.Batch) {
		b.Entries = append(b.Entries, engine.Entry{Stream: s.Name, Payload: payload})
	})
	return nil
}

// AppendInStep adds a value, in the function of a step, at least once: another
// attempt adds its own, see [StreamEntry].Attempt. When it returns, the value is
// durable, whatever becomes of the attempt. Errors are those of Append,
// [ErrLeaseLost], that ctx is not a step's, and of a guest, that the attempt has
// appended its 64 MiB.
func (s Stream[T]) AppendInStep(ctx context.Context, v T) error {
	payload, err := encodeShown("stream", s.Name, v)
	if err != nil {
		return err
	}
	o, err := outlet("stream "+s.Name, ctx)
	if err != nil {
		return err
	}
	return o.Append(ctx, s.Name, payload)
}

// Read returns what a run has added after an offset, up to limit entries (at most
// 1,000, which 0 stands for), and whether that is all there will ever be: the
// run has ended. After 0 is from the first. The error is [ErrNotFound], a *[ValueError]
// with the entries before the one that it is of, or an *[OptionError], as of a negative number.
func (s Stream[T]) Read(ctx context.Context, c *Client, id RunID, after int64, limit int) (entries []StreamEntry[T], end bool, err error) {
	entries, end, _, err = s.read(ctx, c, id, after, limit)
	return entries, end, err
}

// Tail yields the entries after an offset, and waits for more until the run has
// ended. It ends with an error: those of Read, or ctx's cause. After any, a new
// Tail goes on from the last offset. However many tails a client has, they hold
// one connection in all, outside of the pool.
func (s Stream[T]) Tail(ctx context.Context, c *Client, id RunID, after int64) iter.Seq2[StreamEntry[T], error] {
	return func(yield func(StreamEntry[T], error) bool) {
		look := lookout{c: c, id: id}
		defer look.end()
		for {
			entries, end, epoch, err := s.read(ctx, c, id, after, maxEntries)
			for _, e := range entries {
				if !yield(e, nil) {
					return
				}
				after = e.Offset
			}
			switch {
			case err == nil && end:
				return
			case err == nil && len(entries) == maxEntries:
				continue
			case err == nil:
				if len(entries) > 0 {
					look.pause = 0
				}
				err = look.wait(ctx, epoch)
			}
			if err != nil {
				yield(StreamEntry[T]{}, err)
				return
			}
		}
	}
}

const maxEntries = 1000

// read returns the entries before one that does not decode with the error of
// that.
func (s Stream[T]) read(ctx context.Context, c *Client, id RunID, after int64, limit int) (entries []StreamEntry[T], end bool, epoch int, err error) {
	err = cmp.Or(checkShown("stream", s.Name), checkFrom("offset in stream "+s.Name, after), checkFrom("limit of stream "+s.Name, int64(limit)))
	if err != nil {
		return nil, false, 0, err
	}
	if limit == 0 || limit > maxEntries {
		limit = maxEntries
	}
	rows, err := c.pool.Query(ctx, c.q.EntryList, int64(id), s.Name, after, limit)
	if err != nil {
		return nil, false, 0, s.failed(ctx, c, id, err)
	}
	found := false
	var ended bool
	var offset *int64
	var at *time.Time
	var step *string
	var attempt *int
	var payload []byte
	_, err = pgx.ForEachRow(rows, []any{&ended, &epoch, &offset, &at, &step, &attempt, &payload}, func() error {
		found = true
		if offset == nil {
			return nil
		}
		e := StreamEntry[T]{Offset: *offset, At: *at, Step: *step, Attempt: *attempt}
		what := fmt.Sprintf("entry %d of stream %s", e.Offset, s.Name)
		plain, err := c.open(ctx, what, payload)
		if err == nil {
			err = decode(what, plain, &e.Value)
		}
		if err != nil {
			return err
		}
		entries = append(entries, e)
		return nil
	})
	switch {
	case err != nil:
		return entries, false, 0, s.failed(ctx, c, id, err)
	case !found:
		return nil, false, 0, fmt.Errorf("%w: %v", ErrNotFound, id)
	}
	return entries, ended && len(entries) < limit, epoch, nil
}

func (s Stream[T]) failed(ctx context.Context, c *Client, id RunID, err error) error {
	var undecodable *ValueError
	switch {
	case errors.As(err, &undecodable):
		return err
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	return fmt.Errorf("workflow: read stream %s of %v: %w", s.Name, id, c.explain(ctx, err))
}
