package workflow

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stepward/stepward/internal/enqueue"
)

// A Run is a handle of a run, with the type of its output.
type Run[Out any] struct {
	ID       RunID
	Existing bool // [DurableWorkflow.Enqueue] found it by its key, and added none
	client   *Client
	workflow string
}

// Result waits until the run has ended and returns its output. The error is a
// *[RecordedError] when it failed or was canceled, a *[ValueError], [ErrNotFound], or
// ctx's cause.
// A run that is parked has not ended: see [Client.Get].
func (r Run[Out]) Result(ctx context.Context) (Out, error) {
	var out Out
	if r.client == nil {
		return out, errNoHandle
	}
	state, output, recorded, err := r.client.wait(ctx, r.ID)
	if err != nil {
		return out, err
	}
	if state != "completed" {
		e := r.client.openError(ctx, recorded)
		if e == nil {
			e = &RecordedError{Message: ErrCanceled.Error()}
		}
		if state == "canceled" && e.Kind == "" {
			e.Kind = "canceled"
		}
		return out, fmt.Errorf("workflow: %v: %w", r.ID, e)
	}
	what := "output of workflow " + r.workflow
	if output, err = r.client.open(ctx, what, output); err != nil {
		return out, err
	}
	if err := decode(what, output, &out); err != nil {
		var zero Out
		return zero, err
	}
	return out, nil
}

// Cancel is [Client.Cancel] of this run.
func (r Run[Out]) Cancel(ctx context.Context) error {
	if r.client == nil {
		return errNoHandle
	}
	return r.client.Cancel(ctx, r.ID)
}

var errNoHandle = &OptionError{Option: "Run", Reason: "it has no client: want what Enqueue or Handle returns"}

// The longest and shortest pause between two looks at a run that is waited for.
const (
	pollFirst = 4 * time.Millisecond
	pollLast  = 250 * time.Millisecond
)

// wait looks until the run has ended. One that takes long is watched.
func (c *Client) wait(ctx context.Context, id RunID) (state string, output, recorded []byte, err error) {
	look := lookout{c: c, id: id, patience: pollLast}
	defer look.end()
	for {
		seen, err := c.look(ctx, id)
		switch {
		case err != nil && ctx.Err() != nil:
			return "", nil, nil, context.Cause(ctx)
		case err != nil:
			return "", nil, nil, fmt.Errorf("workflow: wait for %v: %w", id, c.explain(ctx, err))
		case seen.state == "":
			return "", nil, nil, fmt.Errorf("%w: %v", ErrNotFound, id)
		case seen.state != "live":
			return seen.state, seen.output, seen.recorded, nil
		}
		if err := look.wait(ctx, seen.epoch); err != nil {
			return "", nil, nil, err
		}
	}
}

// A sight is what a look at a run saw. The state of a run that is not there is
// empty.
type sight struct {
	state            string
	output, recorded []byte
	epoch            int
}

const (
	lookTimeout = 10 * time.Second
	lookMax     = 128 // runs of one look: each may have 64 KiB of output
)

// look sees what has become of a run. Whoever looks at the same time looks
// together, and leaves the others to it when his own ctx ends.
func (c *Client) look(ctx context.Context, id RunID) (sight, error) {
	type answer struct {
		seen sight
		err  error
	}
	answered := make(chan answer, 1)
	go func() {
		seen, err := c.looks.Do(ctx, int64(id))
		answered <- answer{seen, err}
	}()
	select {
	case a := <-answered:
		return a.seen, a.err
	case <-ctx.Done():
		return sight{}, context.Cause(ctx)
	}
}

// lookBatch is one look at several runs.
func (c *Client) lookBatch(ctx context.Context, ids []int64) ([]sight, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	rows, err := c.pool.Query(ctx, c.q.RunResult, ids)
	if err != nil {
		return nil, err
	}
	all := make(map[int64]sight, len(ids))
	var id int64
	var s sight
	if _, err := pgx.ForEachRow(rows, []any{&id, &s.state, &s.output, &s.recorded, &s.epoch}, func() error {
		all[id] = s
		s = sight{} // the bytes are that run's
		return nil
	}); err != nil {
		return nil, err
	}
	out := make([]sight, len(ids))
	for i, id := range ids {
		out[i] = all[id]
	}
	return out, nil
}

// Cancel asks a run to stop, and its children with it. One that has not begun,
// or whose body cannot go on as it is parked for another reason than a pause,
// ends at once, and nothing of it is called: to have it clean up, see to the reason
// and [Client.Resume] it first. In the others the contexts of its steps are
// canceled and every durable call of its body returns [ErrCanceled], within about
// a second; what it gave to [Context].Finally is called; the run ends as canceled when its
// body returns an error, and as completed when it returns none. Canceling twice
// is no error. Nothing bounds what the body does to clean up: [Client.Terminate]
// is the remedy. Errors: [ErrNotFound], and a *[StateError] for a
// run that has ended.
func (c *Client) Cancel(ctx context.Context, id RunID) error {
	return c.locked(ctx, id, "cancel", func(tx pgx.Tx) error {
		var woken bool
		var told int
		if err := tx.QueryRow(ctx, c.q.RunCancel, int64(id), "client", c.q.Channel()).Scan(&woken, &told); err != nil {
			return err
		}
		return c.announce(ctx, tx, id, woken)
	})
}

// announce adds a ticket for a run that became ready.
func (c *Client) announce(ctx context.Context, tx pgx.Tx, id RunID, ready bool) error {
	if !ready {
		return nil
	}
	_, err := c.river.InsertTx(ctx, tx, enqueue.Ticket{Run: int64(id), Count: 1}, nil)
	return err
}

// begin runs f in a transaction. Its errors name the verb and the run.
func (c *Client) begin(ctx context.Context, id RunID, verb string, f func(pgx.Tx) error) error {
	if err := pgx.BeginFunc(ctx, c.pool, f); err != nil {
		return fmt.Errorf("workflow: %s %v: %w", verb, id, c.explain(ctx, err))
	}
	return nil
}

// locked runs f in a transaction that holds the live run's row.
func (c *Client) locked(ctx context.Context, id RunID, verb string, f func(pgx.Tx) error) error {
	return c.begin(ctx, id, verb, func(tx pgx.Tx) error { return c.lock(ctx, tx, id, f) })
}

// lockedTx does the same in a transaction of the application.
func (c *Client) lockedTx(ctx context.Context, tx pgx.Tx, id RunID, verb string, f func(pgx.Tx) error) error {
	if err := c.lock(ctx, tx, id, f); err != nil {
		return fmt.Errorf("workflow: %s %v: %w", verb, id, c.explain(ctx, err))
	}
	return nil
}

func (c *Client) lock(ctx context.Context, tx pgx.Tx, id RunID, f func(pgx.Tx) error) error {
	var state string
	err := tx.QueryRow(ctx, c.q.RunLock, int64(id)).Scan(&state)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return ErrNotFound
	case err != nil:
		return err
	case state != "live":
		return &StateError{Run: id, State: State(state), Want: notEnded}
	}
	return f(tx)
}

// elsewhere is the error of a call for a run that has to be in another state.
func (c *Client) elsewhere(ctx context.Context, tx pgx.Tx, id RunID, want ...State) error {
	s, err := c.get(ctx, tx, id)
	if err != nil {
		return err
	}
	return &StateError{Run: id, State: s.State, Want: want}
}
