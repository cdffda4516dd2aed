package workflow

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stepward/stepward/internal/engine"
)

// A State says where a run is.
type State string

// The states. The first four are of runs that have not ended.
const (
	StateReady     State = "ready"   // to be claimed by a worker
	StateRunning   State = "running" // held by a worker
	StateWaiting   State = "waiting" // for a time, a signal or a child
	StateParked    State = "parked"  // for a deploy or an operator, or for RunStatus.RetryAt; RunStatus.Reason says why
	StateCompleted State = "completed"
	StateFailed    State = "failed"
	StateCanceled  State = "canceled"
)

// notEnded are the states of runs that have not.
var notEnded = []State{StateReady, StateRunning, StateWaiting, StateParked}

// Ended reports whether a run in this state has completed, failed or was canceled.
func (s State) Ended() bool { return !slices.Contains(notEnded, s) }

// A RunStatus is a run as a query sees it.
type RunStatus struct {
	ID                RunID
	Parent            RunID // whose body waits for it; 0 if it is no child
	Tenant            string
	Workflow, Version string // Version is empty while no worker has defined the workflow
	State             State
	Priority          int            // see [EnqueueOptions]
	Limit             string         // key of its [Limit]
	Worker            string         // name of the worker that holds it
	Turns             int            // how often it was claimed or recovered
	CancelRequested   bool           // and not ended yet
	PauseRequested    bool           // and not parked yet
	Enqueued          time.Time      // or started by a body; to the millisecond
	Since             time.Time      // when it became ready or was parked, or until when it waits; zero otherwise
	Finished          time.Time      // zero until it has ended
	Deadline          time.Time      // when [EnqueueOptions].Timeout passes; zero if nothing is left to it: none was set, it has passed, or the run was canceled or has ended
	Reason            string         // of Parked: "nondeterminism", "undeclared_step", "no_backend", "image", "crashed", …
	RetryAt           time.Time      // of Parked: when a worker tries it again by itself; zero: a deploy or Client.Resume has to
	Err               *RecordedError // of Failed, Canceled and Parked
	Attributes        map[string]any // of string, int64, float64, bool and time.Time
}

// RunFilter selects runs. Zero fields select all.
type RunFilter struct {
	Tenant   *string
	Workflow string
	Version  string
	State    State
	Reason   string // of parked runs: RunStatus.Reason

	// Attributes are what the run's attributes must be, all of them. The first
	// that asks for an equal value is looked up in an index and costs what it
	// returns; without one, the first is, and costs what matches it.
	Attributes []AttributeFilter

	// Before continues a listing: only runs with a lower id than that of the
	// last one that was seen.
	Before RunID

	Limit int // how many at most; 0 is all
}

// Runs yields the runs that a filter selects, newest first, or the error that it
// ends with. It reads hundreds at a time, and holds no connection meanwhile:
// a run that is added later is not among them, and one that changes is yielded as
// it was when it was read. Listing by tenant uses an index; the others are filters
// on what is read. The error of a filter that cannot be is an *[OptionError].
func (c *Client) Runs(ctx context.Context, f RunFilter) iter.Seq2[RunStatus, error] {
	return func(yield func(RunStatus, error) bool) {
		if err := f.check(); err != nil {
			yield(RunStatus{}, fmt.Errorf("workflow: list runs: %w", err))
			return
		}
		for left, page := f.Limit, 100; ; page = min(2*page, 1000) {
			if f.Limit > 0 {
				page = min(page, left)
			}
			runs, err := c.page(ctx, f, page)
			if err != nil {
				yield(RunStatus{}, fmt.Errorf("workflow: list runs: %w", c.explain(ctx, err)))
				return
			}
			for _, s := range runs {
				if !yield(s, nil) {
					return
				}
				f.Before = s.ID
			}
			if left -= len(runs); len(runs) < page || left == 0 {
				return
			}
		}
	}
}

// check finds what a program has computed wrongly: a limit that is negative would
// select all runs.
func (f RunFilter) check() error {
	if err := checkFrom("RunFilter.Limit", int64(f.Limit)); err != nil {
		return err
	}
	tenant := ""
	if f.Tenant != nil {
		tenant = *f.Tenant
	}
	for _, o := range [][2]string{{"Tenant", tenant}, {"Workflow", f.Workflow}, {"Version", f.Version}, {"State", string(f.State)}, {"Reason", f.Reason}} {
		if err := checkText("RunFilter."+o[0], o[1]); err != nil {
			return err
		}
	}
	return nil
}

func (c *Client) page(ctx context.Context, f RunFilter, n int) ([]RunStatus, error) {
	if len(f.Attributes) > 0 {
		return c.find(ctx, f, n)
	}
	return c.list(ctx, c.pool, nil, optionalID(f.Before), f.Tenant, optional(f.Workflow), optional(f.Version), optional(string(f.State)), optional(f.Reason), n, nil)
}

// Get returns the status of one run, or [ErrNotFound].
func (c *Client) Get(ctx context.Context, id RunID) (RunStatus, error) {
	return c.get(ctx, c.pool, id)
}

// querier is a pool or a transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

func (c *Client) get(ctx context.Context, q querier, id RunID) (RunStatus, error) {
	runs, err := c.list(ctx, q, int64(id), nil, nil, nil, nil, nil, nil, 1, nil)
	if err != nil {
		return RunStatus{}, fmt.Errorf("workflow: get %v: %w", id, c.explain(ctx, err))
	}
	if len(runs) == 0 {
		return RunStatus{}, fmt.Errorf("%w: %v", ErrNotFound, id)
	}
	return runs[0], nil
}

func (c *Client) list(ctx context.Context, q querier, args ...any) ([]RunStatus, error) {
	rows, err := q.Query(ctx, c.q.RunList, args...)
	if err != nil {
		return nil, err
	}
	var errs [][]byte // stored; opened when the connection is free again
	runs, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (RunStatus, error) {
		var (
			s                                        RunStatus
			state                                    string
			finished, readySince, wakeAt, parkedFrom *time.Time
			retryAt, deadline                        *time.Time
			session, timer                           *int64
			worker, reason                           *string
			recorded, detail                         []byte
			names                                    []string
			values                                   [][]byte
		)
		err := row.Scan(&s.ID, &s.Parent, &s.Tenant, &s.Workflow, &s.Version, &state, &s.Turns, &s.CancelRequested, &s.PauseRequested, &finished, &recorded, &s.Priority, &s.Limit,
			&session, &worker, &readySince, &timer, &wakeAt, &reason, &detail, &parkedFrom, &retryAt, &deadline, &names, &values)
		if err != nil {
			return s, err
		}
		s.Enqueued = s.ID.Time()
		if deadline != nil {
			s.Deadline = *deadline
		}
		for i, name := range names {
			if s.Attributes == nil {
				s.Attributes = make(map[string]any, len(names))
			}
			s.Attributes[name] = engine.DecodeAttribute(values[i])
		}
		switch {
		case state != "live":
			s.State, s.CancelRequested, s.PauseRequested = State(state), false, false
			if finished != nil {
				s.Finished = *finished
			}
		case parkedFrom != nil:
			s.PauseRequested = false
			s.State, s.Since, s.Reason = StateParked, *parkedFrom, *reason
			if retryAt != nil {
				s.RetryAt = *retryAt
			}
			recorded = detail
		case timer != nil:
			s.State = StateWaiting
			if wakeAt != nil {
				s.Since = *wakeAt
			}
		case session != nil:
			s.State = StateRunning
			if worker != nil {
				s.Worker = *worker
			}
		default:
			s.State = StateReady
			if readySince != nil {
				s.Since = *readySince
			}
		}
		errs = append(errs, recorded)
		return s, nil
	})
	for i := range runs {
		runs[i].Err = c.openError(ctx, errs[i])
	}
	return runs, err
}

// A StepStatus is a recorded step, or an attempt that failed or was dispatched
// into a sandbox.
type StepStatus struct {
	Seq      int    // place in the program order of the run, from 1
	Step     string // key: name, and occurrence or index
	Mode     Mode
	Attempt  int
	Recorded bool // it is the step's result; otherwise an attempt that is not
	Started  time.Time
	Elapsed  time.Duration  // of the attempt; zero while it goes on
	Worker   string         // name of the worker, while that is on record
	Backend  string         // of the sandbox; empty for a bare step
	Sandbox  string         // its id
	Output   []byte         // JSON, of a recorded step that succeeded
	Err      *RecordedError // of an attempt that failed
	RetryAt  time.Time      // when the next attempt may start

	// What the attempt last said with [Heartbeat], as JSON, and when. Nil and zero
	// if that was not written, as when the attempt ended before.
	Details   []byte
	Heartbeat time.Time
}

// Steps lists the steps of a run, by Seq and Attempt, after the Seq given, at
// most 1,000: 0 is from the first. The error is [ErrNotFound], a *[ValueError] or, of a
// negative Seq, an *[OptionError].
func (c *Client) Steps(ctx context.Context, id RunID, afterSeq int) ([]StepStatus, error) {
	if err := checkFrom("afterSeq of Steps", int64(afterSeq)); err != nil {
		return nil, err
	}
	rows, err := c.pool.Query(ctx, c.q.StepList, int64(id), afterSeq, 1000)
	if err != nil {
		return nil, fmt.Errorf("workflow: list steps of %v: %w", id, c.explain(ctx, err))
	}
	var errs [][]byte
	steps, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (StepStatus, error) {
		var (
			s                StepStatus
			epoch            int
			elapsed          *float32
			recorded         []byte
			backend, sandbox *string
			retryAt, beatAt  *time.Time
		)
		err := row.Scan(&s.Seq, &s.Step, &s.Mode, &s.Attempt, &epoch, &s.Started, &elapsed, &s.Output, &recorded, &s.Recorded,
			&backend, &sandbox, &s.Worker, &retryAt, &s.Details, &beatAt)
		if elapsed != nil {
			s.Elapsed = time.Duration(float64(*elapsed) * float64(time.Second))
		}
		errs = append(errs, recorded)
		if backend != nil {
			s.Backend, s.Sandbox = *backend, *sandbox
		}
		if retryAt != nil {
			s.RetryAt = *retryAt
		}
		if beatAt != nil {
			s.Heartbeat = *beatAt
		}
		return s, err
	})
	if err != nil {
		return nil, fmt.Errorf("workflow: list steps of %v: %w", id, c.explain(ctx, err))
	}
	if len(steps) == 0 { // of no run, or of one that has none yet
		_, err := c.Get(ctx, id)
		return nil, err
	}
	for i := range steps {
		steps[i].Err = c.openError(ctx, errs[i])
		if steps[i].Output, err = c.open(ctx, "output of step "+steps[i].Step, steps[i].Output); err != nil {
			return nil, err
		}
		if steps[i].Details, err = c.open(ctx, "details of step "+steps[i].Step, steps[i].Details); err != nil {
			return nil, err
		}
	}
	return steps, nil
}

// checkFrom refuses a place or a number that a program has computed wrongly.
func checkFrom(what string, n int64) error {
	if n < 0 {
		return &OptionError{Option: what, Reason: fmt.Sprintf("%d is negative", n)}
	}
	return nil
}

func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func optionalID(id RunID) *int64 {
	if id == 0 {
		return nil
	}
	v := int64(id)
	return &v
}
