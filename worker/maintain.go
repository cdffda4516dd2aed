package worker

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stepward/stepward/internal/boottime"
	"github.com/stepward/stepward/internal/engine"
	"github.com/stepward/stepward/workflow"
)

// maxCrashes is how often in a row a run may take its worker down.
const maxCrashes = 5

// reapAfter is how long after its lease a worker is declared dead.
const reapAfter = 500 * time.Millisecond

// maintain does, about once a second, what any worker does for all: it frees the
// runs of dead workers and wakes those whose time has come. One failure never
// keeps the other parts from running.
func (w *worker) maintain(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	unknown := make(map[unknownTurn]time.Time)
	var unparked int64 // the session for which that is done
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.noticed:
			w.warn(ctx, "notices", w.notices(ctx))
			continue
		case <-w.asked:
			var err error
			unknown, err = w.reconcile(ctx, unknown)
			w.warn(ctx, "reconciling", err)
			continue
		case <-timer.C:
		}
		pause := jittered()
		w.warn(ctx, "notices", w.notices(ctx))
		due, tick, err := w.wakeTimers(ctx)
		w.warn(ctx, "timers", err)
		if tick != nil && *tick <= 0 {
			tick, err = w.tick(ctx)
			w.warn(ctx, "schedules", err)
		}
		for _, next := range []*time.Duration{due, tick} {
			if next != nil && *next > 0 {
				pause = min(pause, max(*next, 5*time.Millisecond))
			}
		}
		if boottime.Now() > time.Duration(w.lease.grace.Load()) && w.lease.slack() > 0 {
			w.warn(ctx, "reaping", w.reap(ctx))
		}
		if session := w.lease.session(); session != unparked {
			more, err := w.unpark(ctx, session)
			w.warn(ctx, "trying parked runs again", err)
			if more {
				pause = 0
			} else if err == nil {
				unparked = session
			}
		}
		unknown, err = w.reconcile(ctx, unknown)
		w.warn(ctx, "reconciling", err)
		if len(w.unservable) > 0 {
			w.warn(ctx, "parking", w.parkUnservable(ctx))
		}
		timer.Reset(pause)
	}
}

// unpark tries some of the runs again that this worker's program may have cured, and
// reports whether there may be more.
func (w *worker) unpark(ctx context.Context, session int64) (more bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, maintenanceTimeout)
	defer cancel()
	var n int
	if err := w.Pool.QueryRow(ctx, w.q.Unpark, w.offers().ids, w.actor(), session).Scan(&n); err != nil {
		return false, err
	}
	if n > 0 {
		w.wake()
	}
	return n == 500, nil
}

func (w *worker) warn(ctx context.Context, what string, err error) {
	if err != nil && ctx.Err() == nil {
		w.log.WarnContext(ctx, what+" failed", "error", err)
	}
}

// maintenanceTimeout bounds each statement of the maintenance.
const maintenanceTimeout = 5 * time.Second

// wakeTimers makes due runs ready, and returns when the next one is due, and
// when a schedule is; nil when there is none.
func (w *worker) wakeTimers(ctx context.Context) (run, schedule *time.Duration, err error) {
	for {
		try, cancel := context.WithTimeout(ctx, maintenanceTimeout)
		var n int
		var next, tick *float64
		var overdue bool
		err := w.Pool.QueryRow(try, w.q.TimerWake, w.actor()).Scan(&n, &next, &tick, &overdue)
		if err == nil && overdue {
			err = w.passDeadlines(try)
		}
		cancel()
		if err != nil {
			return nil, nil, err
		}
		if n > 0 {
			w.wake()
		}
		if n == 500 {
			continue
		}
		if next != nil {
			run = new(seconds(*next))
		}
		if tick != nil {
			schedule = new(seconds(*tick))
		}
		return run, schedule, nil
	}
}

// late is the error of a run that its deadline ends before its body could.
var late = []byte(`{"message":"the run did not end in time","kind":"timeout"}`)

// passDeadlines cancels runs whose deadline has passed.
func (w *worker) passDeadlines(ctx context.Context) error {
	var woken, notices bool
	var told int
	err := pgx.BeginFunc(ctx, w.Pool, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, w.q.DeadlineTake)
		if err != nil {
			return err
		}
		runs, err := pgx.CollectRows(rows, pgx.RowTo[int64])
		if err != nil || len(runs) == 0 {
			return err
		}
		return tx.QueryRow(ctx, w.q.DeadlinePass, runs, w.actor(), late, w.q.Channel()).Scan(&woken, &notices, &told)
	})
	if err != nil {
		return err
	}
	if woken {
		w.wake()
	}
	if notices {
		w.notify()
	}
	return nil
}

// reap declares workers dead whose lease has run out, and frees their runs.
func (w *worker) reap(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, maintenanceTimeout)
	defer cancel()
	rows, err := w.Pool.Query(ctx, w.q.WorkerReap, reapAfter.Seconds())
	if err != nil {
		return err
	}
	var session int64
	var name string
	dead, err := pgx.ForEachRow(rows, []any{&session, &name}, func() error {
		w.log.WarnContext(ctx, "a worker is dead: its lease has run out", "dead", name, "dead_session", fmt.Sprintf("%x", session))
		return nil
	})
	if err != nil {
		return err
	}
	if dead.RowsAffected() > 0 { // it may be the one that runs were left to
		if w.lacks.forget() {
			w.exec(ctx, w.q.WorkerMended, w.lease.session(), []string{}, nil)
		}
		w.wake()
	}
	for n := pageOfTurns; n == pageOfTurns; {
		rows, err := w.Pool.Query(ctx, w.q.TurnReap, pageOfTurns, maxCrashes, w.actor(), pausedDetail)
		if err != nil {
			return err
		}
		var run int64
		var crashes int
		n = 0
		_, err = pgx.ForEachRow(rows, []any{&run, &crashes}, func() error {
			n++
			w.log.InfoContext(ctx, "run recovered from a dead worker", "run", workflow.RunID(run).String(), "crashes", crashes)
			return nil
		})
		if err != nil {
			return err
		}
		if n > 0 {
			w.tel.recovered.Add(ctx, int64(n))
			w.wake()
		}
	}
	return nil
}

const pageOfTurns = 1000

// unknownTurn is a turn on record that is not in memory.
type unknownTurn struct {
	run   int64
	epoch int
}

// reconcile compares the turns on record with those in memory: it passes on that
// a run was canceled, paused or resumed, stops the turn of one that is not this
// worker's any more, as it was terminated, and hands back a run whose claim was
// committed while its answer got lost. Such a run stays unknown; one that was just
// claimed, or has just ended, is so for a moment.
func (w *worker) reconcile(ctx context.Context, unknown map[unknownTurn]time.Time) (map[unknownTurn]time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, maintenanceTimeout)
	defer cancel()
	session := w.lease.session()
	gone := make(map[int64]*heldTurn) // those that are not on record
	w.mu.Lock()
	for run, t := range w.turns {
		if t.session == session {
			gone[run] = t
		}
	}
	w.mu.Unlock()
	rows, err := w.Pool.Query(ctx, w.q.TurnList, session)
	if err != nil {
		return unknown, err
	}
	found := make(map[unknownTurn]time.Time)
	var run int64
	var epoch int
	var canceled, paused, news bool
	_, err = pgx.ForEachRow(rows, []any{&run, &epoch, &canceled, &paused, &news}, func() error {
		if t := gone[run]; t != nil && t.epoch == epoch {
			delete(gone, run)
		}
		w.mu.Lock()
		t := w.turns[run]
		if t != nil && t.epoch == epoch && canceled {
			t.setCanceled()
		}
		if t != nil && t.epoch == epoch && t.paused.Swap(paused) != paused {
			t.hasNews()
		}
		if t != nil && news {
			t.hasNews()
		}
		w.mu.Unlock()
		if t == nil {
			key := unknownTurn{run, epoch}
			found[key] = time.Now()
			if since, ok := unknown[key]; ok {
				found[key] = since
			}
		}
		return nil
	})
	if err != nil {
		return unknown, err
	}
	for _, t := range gone { // one that has just ended does not mind
		t.stop(engine.ErrLeaseLost)
	}
	for key, since := range found {
		if time.Since(since) < w.LeaseTTL/4 {
			continue
		}
		w.log.WarnContext(ctx, "handing back a run whose claim got lost", "run", workflow.RunID(key.run).String())
		if err := w.leave(ctx, &heldTurn{run: key.run, epoch: key.epoch, session: session}, engine.End{Kind: engine.Released}); err != nil {
			return found, err
		}
		w.wake()
	}
	return found, nil
}

// parkUnservable parks the runs of own workflows that neither this worker nor
// any other can execute.
func (w *worker) parkUnservable(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, maintenanceTimeout)
	defer cancel()
	detail, err := json.Marshal(map[string]string{"message": fmt.Sprintf("no live worker has a sandbox backend; on %s: %v", w.Name, w.backendErr), "kind": "no_backend"})
	if err != nil {
		return err
	}
	rows, err := w.Pool.Query(ctx, w.q.ParkUnservable, w.unservable, detail, w.actor())
	if err != nil {
		return err
	}
	runs, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	for _, run := range runs {
		w.log.ErrorContext(ctx, "run parked: no live worker has a sandbox backend", "run", workflow.RunID(run).String(), "error", w.backendErr)
	}
	return err
}

// sweepEvery is how often each worker looks for sandboxes without an owner.
const sweepEvery = 15 * time.Second

// sweepAtOnce is how many of them it removes at a time: a pod takes a second to end.
const sweepAtOnce = 16

// sweep removes sandboxes whose worker is gone and with which no other goes on, runs that are old enough, blobs that nothing refers to, and
// rows of workers that ended long ago.
func (w *worker) sweep(ctx context.Context) {
	var expiry expiry
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		if w.backend != nil {
			w.warn(ctx, "sweeping sandboxes", w.sweepOnce(ctx))
		}
		if w.Retention.any() && boottime.Now() > expiry.next {
			w.warn(ctx, "deleting old runs", w.expire(ctx, &expiry))
		}
		w.warn(ctx, "sweeping blobs", w.sweepBlobs(ctx))
		w.exec(ctx, w.q.WorkerForget)
		timer.Reset(sweepEvery)
	}
}

func (w *worker) sweepOnce(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, sweepEvery)
	defer cancel()
	listed, err := w.backend.List(ctx, w.q.Schema)
	if err != nil {
		return err
	}
	if _, err := w.Pool.Exec(ctx, w.q.SandboxSweep, w.backend.Name(), w.actor(), sweepAfter.Seconds()); err != nil {
		return err
	}
	ids, sessions := make([]string, 0, len(listed)), make([]int64, 0, len(listed))
	for _, l := range listed {
		if l.Labels.Database == w.database { // workers of another one with such a schema may have the same engine
			ids, sessions = append(ids, l.ID), append(sessions, l.Labels.Session)
		}
	}
	rows, err := w.Pool.Query(ctx, w.q.SandboxOwned, ids, sessions)
	if err != nil {
		return err
	}
	owned, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	ids = slices.DeleteFunc(ids, func(id string) bool { return slices.Contains(owned, id) })
	// Some may take as long as they are let, on a node that is gone: in another order each
	// time, and many at once, they hold nobody up for good.
	rand.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
	var removing sync.WaitGroup
	defer removing.Wait()
	free := make(chan struct{}, sweepAtOnce)
	for _, id := range ids {
		select {
		case free <- struct{}{}:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		removing.Go(func() {
			w.log.InfoContext(ctx, "removing the sandbox of a dead worker", "sandbox", id)
			w.warn(ctx, "removing sandbox "+id, w.backend.Destroy(ctx, id))
			<-free
		})
	}
	return nil
}
