package workflow

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// A Why says why a run is not moving, or, in [Why.On], what one thing is that it
// waits for. Its String is one line.
type Why struct {
	// Cause is, of a run, "finished", "waiting", "parked", "held" (its worker
	// is at it), "silent" (its worker does not answer; another one takes over),
	// "undefined" (no worker has ever defined the workflow), "no_worker" (none
	// that lives has this version), "limit" (its Limit holds it back), "lacking" (the brokers of those that
	// have it cannot give its secrets, and they leave it to others for now), "full" (those that have it have no place) or
	// "claim" (it is about to be claimed). Of what a run waits for it is
	// "signal", "timer", "child", "step" (the next attempt of one) or "deadline"
	// (of a step).
	Cause string

	Run RunID  // that is asked about; of a child, the child
	Key string // of a call, of a limit, or the name of a signal; of a run that is parked, RunStatus.Reason

	// Since is when that began: when the run ended, was claimed, was parked,
	// became ready, or when the wait began. Until is when it ends by itself, of
	// a run by its deadline; zero if it does not.
	Since, Until time.Time

	Err *RecordedError // of a parked run; of a step, what its last attempt failed with
	On  []Why          // what the body waits for, at most 1,000 of each kind; a run that is held may have some, too

	Unblock string // what would let it go on; empty when that takes nothing, or nothing can

	text string // what String begins with
	top  bool   // it is about the run that was asked about
}

// String says it in one line.
func (w Why) String() string {
	s := w.text
	if w.top && !w.Since.IsZero() {
		s += " since " + stamp(w.Since)
	}
	if !w.Until.IsZero() {
		s += " until " + stamp(w.Until)
	}
	if len(w.On) > 0 {
		const shown = 3
		var names []string
		for _, on := range w.On[:min(shown, len(w.On))] {
			names = append(names, on.String())
		}
		if len(w.On) > shown {
			names = append(names, fmt.Sprintf("%d more", len(w.On)-shown))
		}
		s += ", for " + strings.Join(names, ", ")
	}
	switch {
	case w.Unblock != "" && w.top:
		s += "; " + w.Unblock
	case w.Unblock != "":
		s += " (" + w.Unblock + ")"
	}
	return s
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05Z") }

// Why says what a run waits for, since when, and what would unblock it. All is
// of one moment. The error is [ErrNotFound], or one of Postgres.
func (c *Client) Why(ctx context.Context, id RunID) (w Why, err error) {
	err = pgx.BeginTxFunc(ctx, c.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		w, err = c.why(ctx, tx, id)
		return err
	})
	if err != nil && !errors.Is(err, ErrNotFound) {
		err = fmt.Errorf("workflow: why %v: %w", id, c.explain(ctx, err))
	}
	return w, err
}

func (c *Client) why(ctx context.Context, tx pgx.Tx, id RunID) (Why, error) {
	s, err := c.get(ctx, tx, id)
	if err != nil {
		return Why{}, err
	}
	w := Why{Run: id, Since: s.Since, Until: s.Deadline, Err: s.Err, top: true}
	if !s.Finished.IsZero() {
		w.Cause, w.Since, w.text = "finished", s.Finished, "it ended as "+string(s.State)
		return w, nil
	}
	if w.On, err = c.blockers(ctx, tx, id); err != nil {
		return w, err
	}
	switch s.State {
	case StateParked:
		w.Cause, w.Key, w.On = "parked", s.Reason, nil
		w.text = fmt.Sprintf("it is parked, %s (%v)", s.Reason, s.Err)
		w.Unblock = cmp.Or(cures[s.Reason], "see to the reason, then Client.Resume")
		if !s.RetryAt.IsZero() {
			w.Unblock += "; a worker tries it again at " + stamp(s.RetryAt)
		}
	case StateWaiting:
		w.Cause, w.Since, w.text = "waiting", time.Time{}, "it waits"
		if len(w.On) > 0 {
			w.Since = w.On[0].Since
		}
	case StateRunning:
		err = c.whyHeld(ctx, tx, s, &w)
	default:
		err = c.whyReady(ctx, tx, s, &w)
	}
	if s.PauseRequested {
		w.text += " (it is paused, once what executes has ended)"
	}
	if s.CancelRequested {
		w.text += " (it was canceled and cleans up)"
	}
	return w, err
}

// cures say what unblocks a parked run, by reason.
var cures = map[string]string{
	"bad_call":        "deploy a body that passes what its calls can take",
	"bad_name":        "deploy a body whose branches and patches have good names",
	"broker":          "see to what keeps the broker of secrets from starting, then Client.Resume",
	"crashed":         "find out why its workers died, then Client.Resume",
	"goexit":          "deploy a body that does not end its goroutine",
	"goroutine":       "deploy a body that starts no goroutines",
	"identity":        "see to the tenant's profiles, to what is revoked and to the broker, then Client.Resume",
	"image":           "make the image available, then Client.Resume",
	"level":           "start a worker whose broker can promise the level that the key demands, or lower its MinLevel, then Client.Resume",
	"mode":            "deploy steps whose modes can be executed",
	"no_backend":      "start a worker that has a sandbox backend; one that runs looks for it again within a minute",
	"nondeterminism":  "deploy a body that fits what is recorded",
	"panic":           "deploy a body that does not panic",
	"paused":          "Client.Resume",
	"program":         "give the worker a program for sandboxes, then Client.Resume",
	"spinning":        "deploy a body that returns when its calls cannot succeed, and waits with Sleep or Receive",
	"store":           "see to the store of secrets: set it up if it is empty or not there, restore it from a backup if it is corrupt; then Client.Resume",
	"storage":         "see to what Postgres or the BlobStore refused, then Client.Resume",
	"too_many":        "deploy a body that has fewer calls under way at once, or hands a part of them to child runs, and shows less at once",
	"undeclared_step": "list the step in Options.Steps and deploy",
	"unreadable":      "see to what keeps the Codec or the BlobStore from answering, then Client.Resume",
	"undecodable":     "deploy types that the recorded value fits, or Client.Fork from the call that has it",
	"unencodable":     "see to the Codec or the BlobStore, then Client.Resume",
	"unsupported":     "start a worker whose backend can enforce what the step requires",
}

// blockers reads what the body waits for, and which steps wait for an attempt.
func (c *Client) blockers(ctx context.Context, tx pgx.Tx, id RunID) (on []Why, err error) {
	rows, err := tx.Query(ctx, c.q.WhyWaits, int64(id))
	if err != nil {
		return nil, err
	}
	var w Why
	var signal string
	var until *time.Time
	var recorded []byte
	_, err = pgx.ForEachRow(rows, []any{&w.Key, &signal, &w.Run, &until, &w.Since}, func() error {
		w.Cause, w.text, w.Unblock, w.Until = "timer", w.Key, "", time.Time{}
		switch {
		case signal != "":
			w.Cause, w.Key, w.text, w.Unblock = "signal", signal, "signal "+signal, "send it"
		case w.Run != 0:
			w.Cause, w.text, w.Unblock = "child", w.Key+" "+w.Run.String(), "see Client.Why of that run"
		case !strings.Contains(w.Key, ":"):
			w.Cause, w.text = "deadline", "the deadline of step "+w.Key
		}
		if until != nil {
			w.Until = *until
		}
		on = append(on, w)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if rows, err = tx.Query(ctx, c.q.WhyAttempts, int64(id)); err != nil {
		return nil, err
	}
	w = Why{Cause: "step"}
	_, err = pgx.ForEachRow(rows, []any{&w.Key, &w.Since, &w.Until, &recorded}, func() error {
		w.Err = c.openError(ctx, recorded)
		w.text = fmt.Sprintf("step %s, whose last attempt failed (%v)", w.Key, w.Err)
		on = append(on, w)
		return nil
	})
	return on, err
}

// whyHeld is about a run that a worker holds.
func (c *Client) whyHeld(ctx context.Context, tx pgx.Tx, s RunStatus, w *Why) error {
	var alive bool
	if err := tx.QueryRow(ctx, c.q.WhyHolder, int64(s.ID)).Scan(&w.Since, &alive); err != nil {
		return err
	}
	w.Cause, w.text = "held", "worker "+s.Worker+" holds it"
	if !alive {
		w.Cause, w.text = "silent", "worker "+s.Worker+", whose lease has run out, holds it"
		w.Unblock = "another worker takes over within seconds, if one lives"
	}
	return nil
}

// whyReady is about a run that nobody has claimed.
func (c *Client) whyReady(ctx context.Context, tx pgx.Tx, s RunStatus, w *Why) error {
	rows, err := tx.Query(ctx, c.q.WhyWorkers, int64(s.ID))
	if err != nil {
		return err
	}
	var name, free, lack, passed string
	var names []string
	var places, taken, allPlaces, allTaken int
	var until *time.Time
	_, err = pgx.ForEachRow(rows, []any{&name, &places, &taken, &until, &lack}, func() error {
		if until != nil {
			passed += fmt.Sprintf(", worker %s leaves it to others until %s (%s)", name, stamp(*until), lacking(lack))
			return nil
		}
		names = append(names, name)
		allPlaces, allTaken = allPlaces+places, allTaken+taken
		if taken < places {
			free = name
		}
		return nil
	})
	if err != nil {
		return err
	}
	what := s.Workflow + "@" + s.Version
	if len(names)+len(passed) > 0 && s.Limit != "" {
		if held, err := c.whyLimited(ctx, tx, s, w); err != nil || held {
			return err
		}
	}
	ready := "it is ready" + passed
	switch {
	case len(names) == 0 && passed != "":
		w.Cause, w.text = "lacking", ready
		w.Unblock = "see to the brokers of these workers, or start one whose broker can give it; they try again then"
	case len(names) == 0 && s.Version == "":
		w.Cause, w.text = "undefined", "it is ready, and no worker has defined "+s.Workflow
		w.Unblock = "start a worker that lists it in Config.Workflows"
	case len(names) == 0:
		w.Cause, w.text = "no_worker", "it is ready, and no live worker has "+what
		w.Unblock = "start a worker that lists this version in Config.Workflows, or Client.Repin"
	case free == "":
		w.Cause, w.text = "full", fmt.Sprintf("%s, and %s, with %s, hold %d of %d runs", ready, strings.Join(names, ", "), what, allTaken, allPlaces)
		w.Unblock = "wait for a place, or start another worker"
	default:
		w.Cause, w.text = "claim", ready+", and worker "+free+" is about to claim it"
	}
	return err
}

// lacking says what a worker's broker cannot do.
func lacking(lack string) string {
	switch reason, key, _ := strings.Cut(lack, " "); reason {
	case "store":
		return "its broker has not the store of " + key
	case "level":
		return "its broker cannot promise the level of " + key
	}
	return "its broker does not start"
}

// whyLimited is about a run that has a limit, and reports whether that holds it
// back.
func (c *Client) whyLimited(ctx context.Context, tx pgx.Tx, s RunStatus, w *Why) (bool, error) {
	var l Limit
	var used int
	var per, wait float64
	if err := tx.QueryRow(ctx, c.q.LimitUse, s.Limit).Scan(&l.Concurrency, &used, &l.Rate, &per, &wait); err != nil {
		return false, err
	}
	switch {
	case l.Concurrency > 0 && used >= l.Concurrency:
		w.text = fmt.Sprintf("it is ready, and limit %s has %d of %d in use", s.Limit, used, l.Concurrency)
		w.Unblock = "wait until one of them ends or waits"
	case wait > 0 && s.Turns == 0:
		w.text = fmt.Sprintf("it is ready, and limit %s lets %d begin in %v", s.Limit, l.Rate, time.Duration(per*float64(time.Second)))
		w.Unblock = fmt.Sprintf("wait, for %v at least", time.Duration(wait*float64(time.Second)).Round(time.Millisecond))
	default:
		return false, nil
	}
	w.Cause, w.Key = "limit", s.Limit
	return true, nil
}
