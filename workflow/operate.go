package workflow

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime/debug"
	"sync"

	"github.com/jackc/pgx/v5"
)

// Terminate ends a run here and now, whatever its body does: nothing of it is
// called any more, not even what it gave to [Context].Finally. Its children are
// terminated, too. A worker that holds it can write nothing more, and stops its
// steps and sandboxes within about a second. [Run.Result] returns a
// *[RecordedError] whose Kind is "terminated", and which is an [ErrCanceled].
// Errors: [ErrNotFound], and a *[StateError] for a run that has ended.
func (c *Client) Terminate(ctx context.Context, id RunID) error {
	return c.locked(ctx, id, "terminate", func(tx pgx.Tx) error {
		e := &RecordedError{Message: "workflow: run terminated", Kind: "terminated"}
		_, err := tx.Exec(ctx, c.q.RunTerminate, int64(id), "client", e.encode(), c.q.Channel())
		return err
	})
}

// Pause holds a run up until [Client.Resume]: it is parked, with the reason
// "paused". One that is ready or waits is parked at once. Of one that a worker
// holds, no further step starts, within about a second; attempts that execute
// are let end and are recorded, and then it is parked. The wish is durable when
// Pause returns: see [RunStatus].PauseRequested. What is sent to a paused run is
// kept, and its times run on. Pausing twice is no error. Errors: [ErrNotFound],
// a *[StateError] for a run that has ended, and [ErrCanceled] for one that cleans
// up.
func (c *Client) Pause(ctx context.Context, id RunID) error {
	return c.locked(ctx, id, "pause", func(tx pgx.Tx) error {
		var canceled bool
		var told int
		if err := tx.QueryRow(ctx, c.q.RunPause, int64(id), "client", record(errPaused).encode(), c.q.Channel()).Scan(&canceled, &told); err != nil {
			return err
		}
		if canceled {
			return ErrCanceled
		}
		return nil
	})
}

// Resume makes a parked run ready again, after the reason was seen to, and takes
// back a pause that has not taken effect. Errors: [ErrNotFound], and
// a *[StateError] when it is neither parked nor to be paused.
func (c *Client) Resume(ctx context.Context, id RunID) error {
	return c.locked(ctx, id, "resume", func(tx pgx.Tx) error {
		var ready bool
		var told int
		err := tx.QueryRow(ctx, c.q.RunResume, int64(id), "client", c.q.Channel()).Scan(&ready, &told)
		if errors.Is(err, pgx.ErrNoRows) {
			return c.elsewhere(ctx, tx, id, StateParked)
		}
		if err != nil {
			return err
		}
		return c.announce(ctx, tx, id, ready)
	})
}

// Retry lets a run that failed or was canceled go on at the step that it failed
// with, whose attempts are counted anew. Results from before that are kept; what
// the body called when it knew of the failure, such as in [Context].Finally, is off the
// record and happens again if the body comes there; signals that it received then
// are there to be received again. The failure is that of the step named in the
// run's error or, if that names none, the last result, if it is a failure; and
// failures of which the body got to know together with it, such as those of other
// items of a [Map]. A run without one goes on with all that is recorded, for which a
// deploy may have another answer; so does one that was terminated, or was canceled
// while it was parked. What it has shown since the failure is shown
// again. A child that failed is not retried: the call starts another one, from its
// beginning, whose steps execute anew and with other idempotency keys.
// Events keep what is taken off the record.
// Errors: [ErrNotFound], a *[StateError] for a run that has neither failed nor was
// canceled, a *[ValueError] when the error of the run cannot be read.
func (c *Client) Retry(ctx context.Context, id RunID) error {
	return c.begin(ctx, id, "retry", func(tx pgx.Tx) error {
		var state string
		var recorded []byte
		err := tx.QueryRow(ctx, c.q.RunEnd, int64(id)).Scan(&state, &recorded)
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			return ErrNotFound
		case err != nil:
			return err
		case state != string(StateFailed) && state != string(StateCanceled):
			return c.elsewhere(ctx, tx, id, StateFailed, StateCanceled)
		}
		step := new(string) // of a run that was ended from outside, none
		if recorded != nil {
			if recorded, err = c.open(ctx, "error of the run", recorded); err != nil {
				return err
			}
			if e := decodeError(recorded); e.Kind != "terminated" {
				step = optional(e.Step)
			}
		}
		var calls *int
		if err := tx.QueryRow(ctx, c.q.RetrySteps, int64(id), step).Scan(&calls); err != nil {
			return err
		}
		if calls == nil {
			calls = new(math.MaxInt32)
		}
		if _, err := tx.Exec(ctx, c.q.RetryAttempts, int64(id), *calls); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, c.q.RunRetry, int64(id), "client"); err != nil {
			return err
		}
		return c.announce(ctx, tx, id, true)
	})
}

// Repin moves a run that has not ended to another version of its workflow, which
// a worker has defined. The body of that version is replayed against what is
// recorded; if it does not fit, the run parks with a *[NonDeterminismError]. A
// run that is parked for something that another version may cure becomes ready.
// Errors: [ErrNotFound], a *[DefinitionError] when there is no such version, and a
// *[StateError] for a run that has ended or that a worker executes: Pause that,
// Repin it once it is parked, and Resume it.
func (c *Client) Repin(ctx context.Context, id RunID, version string) error {
	if err := checkText("version to repin to", version); err != nil {
		return err
	}
	return c.locked(ctx, id, "repin", func(tx pgx.Tx) error {
		var held, ready bool
		err := tx.QueryRow(ctx, c.q.RunRepin, int64(id), "client", version).Scan(&held, &ready)
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			s, err := c.get(ctx, tx, id)
			if err != nil {
				return err
			}
			return &DefinitionError{Workflow: s.Workflow, Reason: fmt.Sprintf("no worker has defined version %q", version)}
		case err != nil:
			return err
		case held:
			return c.elsewhere(ctx, tx, id, StateReady, StateWaiting, StateParked)
		}
		return c.announce(ctx, tx, id, ready)
	})
}

// Each calls do for every run that a filter selects, newest first, such as
//
//	n, err := client.Each(ctx, workflow.RunFilter{State: workflow.StateParked, Reason: "image"}, client.Resume)
//
// It returns for how many do succeeded. Runs that do refuses as they have got on
// meanwhile (a *[StateError] or [ErrNotFound]) are passed over; other errors are joined, and do not keep it from
// the rest. It ends early with ctx, or when runs cannot be listed. Calling it again
// does what is left. A few calls of do run at once; when one panics, so does Each.
func (c *Client) Each(ctx context.Context, f RunFilter, do func(context.Context, RunID) error) (int, error) {
	var (
		mu       sync.Mutex
		n        int
		errs     []error
		calls    sync.WaitGroup
		slots    = make(chan struct{}, eachAtOnce)
		panicked any // what do did
	)
	if do == nil {
		return 0, &OptionError{Option: "Each", Reason: "without a function"}
	}
	for s, err := range c.Runs(ctx, f) {
		slots <- struct{}{}
		if err == nil {
			err = context.Cause(ctx)
		}
		mu.Lock()
		stop := err != nil || panicked != nil
		if err != nil {
			errs = append(errs, err)
		}
		mu.Unlock()
		if stop {
			break
		}
		calls.Go(func() {
			defer func() { <-slots }()
			defer func() {
				if p := recover(); p != nil {
					mu.Lock()
					panicked = fmt.Sprintf("%v\n\n%s", p, debug.Stack())
					mu.Unlock()
				}
			}()
			err := do(ctx, s.ID)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				n++
			case !passedOver(err):
				errs = append(errs, err)
			}
		})
	}
	calls.Wait()
	if panicked != nil {
		panic(panicked) // where somebody can recover it
	}
	return n, errors.Join(errs...)
}

const eachAtOnce = 4

func passedOver(err error) bool {
	_, moved := errors.AsType[*StateError](err)
	return moved || errors.Is(err, ErrNotFound)
}
