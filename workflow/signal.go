package workflow

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stepward/stepward/internal/engine"
	"github.com/stepward/stepward/internal/payload"
)

// A Signal is a named channel into a run, for values of one type. What is sent
// is kept, in order, until the body receives it, and received once.
//
// Who receives decides which type a name has, and a sender with another T is not
// noticed before: a value that does not decode into the receiver's parks the run,
// as "undecodable", with the key of the call that received it. It goes on when a
// body is deployed whose type fits; or [Client.Fork] from that key, without
// Signals, makes a run that waits for another value there.
type Signal[T any] struct{ name string }

// NewSignal names a signal: 1 to 100 of letters, digits and "_-./".
func NewSignal[T any](name string) Signal[T] { return Signal[T]{name} }

// Name returns the name that the signal was made with.
func (s Signal[T]) Name() string { return s.name }

// Receive waits for the next value. After timeout, if it is not 0, it returns
// [ErrTimeout]; when it is negative, as what is left until a time that has passed,
// at once, unless a value is there. A value that was sent before the timeout had passed is
// received, however late a worker has the run again, and so is one that is there by then. A
// run that waits is in Postgres and costs a worker nothing.
func (s Signal[T]) Receive(ctx Context, timeout time.Duration) (T, error) {
	return s.Go(ctx, timeout).Get(ctx)
}

// Go is Receive without the wait. A run does not wait for it before it completes:
// once the body has returned, and its steps, branches and children have ended, a
// value that has not come is given up.
func (s Signal[T]) Go(ctx Context, timeout time.Duration) *Future[T] {
	b, sc := caller(ctx)
	b.enter()
	f := b.reserve(sc, b.occurrence(keySignal+s.name))
	if !validName.MatchString(s.name) {
		b.t.resolve(f, nil, &StepError{Step: f.key, Err: s.badName()})
		return &Future[T]{f}
	}
	f.wait = &engine.Wait{Seq: f.seq, Key: f.key, Left: engine.Never, Signal: s.name}
	if timeout != 0 {
		f.wait.Left = max(timeout, 0)
	}
	b.t.launch(f, f.listen)
	return &Future[T]{f}
}

// Send sends a value to a run. When it returns, the value is durable. The run
// need not wait for it yet. After an error that leaves open whether it arrived, as of
// a connection that broke, sending again sends perhaps twice. Errors: [ErrNotFound], a
// *[StateError] for a run that has ended, a *[ValueError].
func (s Signal[T]) Send(ctx context.Context, c *Client, id RunID, v T) error {
	stored, err := s.encode(ctx, c, c.box, v)
	if err != nil {
		return err
	}
	return c.locked(ctx, id, "send "+s.name+" to", s.sends(ctx, c, id, stored))
}

// SendTx sends a value in the application's own transaction: it is there when tx
// commits. Until then tx holds the run's row, and the run makes no progress; other
// runs do. With a [BlobStore], a large value takes a second connection, as in
// [DurableWorkflow.EnqueueTx]. Errors are those of Send.
func (s Signal[T]) SendTx(ctx context.Context, c *Client, tx pgx.Tx, id RunID, v T) error {
	stored, err := s.encode(ctx, c, c.box.In(tx), v)
	if err != nil {
		return err
	}
	return c.lockedTx(ctx, tx, id, "send "+s.name+" to", s.sends(ctx, c, id, stored))
}

func (s Signal[T]) badName() error {
	return &OptionError{Option: fmt.Sprintf("name of a signal %.40q", s.name), Reason: nameRule}
}

func (s Signal[T]) encode(ctx context.Context, c *Client, box *payload.Box, v T) ([]byte, error) {
	if !validName.MatchString(s.name) {
		return nil, s.badName()
	}
	b, err := encode("signal "+s.name, v, c.maxBytes)
	if err != nil {
		return nil, err
	}
	return seal(ctx, box, "signal "+s.name, b)
}

func (s Signal[T]) sends(ctx context.Context, c *Client, id RunID, stored []byte) func(pgx.Tx) error {
	return func(tx pgx.Tx) error {
		var woken bool
		var told int
		if err := tx.QueryRow(ctx, c.q.SignalSend, int64(id), s.name, stored, c.q.Channel()).Scan(&woken, &told); err != nil {
			return err
		}
		var blobs payload.Use
		blobs.Add(int64(id), stored)
		if err := blobs.Write(ctx, tx, c.q.BlobUse, true); err != nil {
			return err
		}
		return c.announce(ctx, tx, id, woken)
	}
}
