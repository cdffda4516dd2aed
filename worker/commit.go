package worker

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/stepward/stepward/internal/engine"
	"github.com/stepward/stepward/internal/payload"
)

// write is what one turn wants to be durable.
type write struct {
	t            *heldTurn
	engine.Batch             // sealed
	blobs        payload.Use // that it refers to
	again        bool        // an earlier try met a lock
}

// errLocked reports that nothing of a write is durable, as somebody else has locked
// its run. It is for the caller to try again: the other runs do not wait for it.
var errLocked = errors.New("worker: the run is locked")

// untilUnlocked calls f, which never waits for a lock, for as long as that returns
// errLocked.
func untilUnlocked(ctx context.Context, f func() error) error {
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, 250*time.Millisecond) {
		if err := f(); !errors.Is(err, errLocked) {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(pause):
		}
	}
}

func (x write) size() int {
	n := 0
	for _, c := range x.Checkpoints {
		n += len(c.Output) + len(c.Error) + 100
	}
	for _, f := range x.Failures {
		n += len(f.Error) + len(f.Details) + 100
	}
	for _, b := range x.Beats {
		n += len(b.Details) + 100
	}
	if x.End != nil {
		n += len(x.End.Output) + len(x.End.Error)
	}
	for _, e := range x.Entries {
		n += len(e.Payload) + 100
	}
	for _, p := range x.Progress {
		n += len(p.Value) + 100
	}
	n += 300*len(x.Attributes) + 100*len(x.Waits) + 16*(len(x.Dropped)+len(x.Cancel)) + 120*len(x.Received)
	return n
}

// commit makes the writes of several turns durable. It returns one error per
// write: nil, engine.ErrLeaseLost, errLocked, or what is wrong with its data.
//
// A batch that Postgres refuses for its data is halved until the culprit stands
// alone. When the answer to a commit is lost, the batch is sent again: a row that
// is there already is not written twice, and whether it is this turn's own is
// read back.
func (w *worker) commit(ctx context.Context, writes []write) ([]error, error) {
	errs := make([]error, len(writes))
	w.tel.batchSize.Record(ctx, int64(len(writes)))
	for from := 0; from < len(writes); { // one session at a time: there are two only while a lease is being lost
		to := from + 1
		for to < len(writes) && writes[to].t.session == writes[from].t.session {
			to++
		}
		w.commitRange(ctx, writes[from:to], errs[from:to])
		from = to
	}
	return errs, nil
}

func (w *worker) commitRange(ctx context.Context, writes []write, errs []error) {
	unsure := false // an earlier try may have gone through
	err := w.retry(ctx, writes[0].t, func(ctx context.Context) error {
		err := w.send(ctx, writes, errs, unsure)
		unsure = true
		if duplicate(err) { // an earlier try went through meanwhile: now its rows can be seen
			err = w.send(ctx, writes, errs, unsure)
		}
		return err
	})
	if err == nil {
		return
	}
	if refusesData(err) && len(writes) > 1 {
		half := len(writes) / 2
		w.commitRange(ctx, writes[:half], errs[:half])
		w.commitRange(ctx, writes[half:], errs[half:])
		return
	}
	if payload.Swept(err) {
		err = fmt.Errorf("%w: %w", engine.ErrHandBack, err) // what is not on record is done again
	}
	for i := range errs {
		errs[i] = err
	}
}

// send executes the statement once and sorts out what came back.
func (w *worker) send(ctx context.Context, writes []write, errs []error, unsure bool) error {
	rows, err := w.Pool.Query(ctx, w.q.Commit, arguments(writes, w.q.WatchChannel())...)
	if err != nil {
		return err
	}
	held := make(map[int64]int) // checkpoints inserted, per run
	var run int64
	var cancel, notices bool
	var n int
	var told *bool
	var canceled []int64
	_, err = pgx.ForEachRow(rows, []any{&run, &cancel, &notices, &n, &told}, func() error {
		held[run] = n
		if cancel {
			canceled = append(canceled, run)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if notices {
		w.notify()
	}
	wanted := make(map[int64]int)
	for _, x := range writes {
		wanted[x.t.run] += len(x.Checkpoints)
	}
	for i, x := range writes {
		n, ok := held[x.t.run]
		errs[i] = nil
		if n < 0 {
			errs[i] = errLocked
			continue
		}
		if ok && (n == wanted[x.t.run] || len(x.Checkpoints) == 0) {
			continue
		}
		// Not held any more, or a row was there already: after a lost answer
		// that may be this turn's own doing.
		mine := false
		if ok || unsure || x.again {
			if mine, err = w.outcome(ctx, w.Pool, x); err != nil {
				return err
			}
		}
		if !mine {
			errs[i] = engine.ErrLeaseLost
		}
	}
	for _, run := range canceled {
		for _, x := range writes {
			if x.t.run == run {
				w.cancelTurn(run, x.t.epoch)
			}
		}
	}
	return nil
}

// outcome reports whether a write is in Postgres already.
func (w *worker) outcome(ctx context.Context, q querier, x write) (bool, error) {
	var seqs, attempts []int
	for _, c := range x.Checkpoints {
		seqs, attempts = append(seqs, c.Seq), append(attempts, c.Attempt)
	}
	if x.End == nil && len(seqs) == 0 {
		return false, nil // failures alone say nothing of the lease
	}
	var state string
	var mine bool
	var n int
	err := q.QueryRow(ctx, w.q.CommitOutcome, x.t.run, seqs, x.t.session, x.t.epoch, attempts).Scan(&state, &mine, &n)
	if err != nil {
		return false, err
	}
	return n == len(seqs) && (x.End == nil || mine && state == endNames[x.End.Kind]), nil
}

// arguments turns writes into the columns of the statement, which tells watchers
// through the channel.
func arguments(writes []write, channel string) []any {
	var (
		runs                          []int64
		epochs                        []int
		cRun, cHash, aRun             []int64
		cSeq, cAttempt, cEpoch, cMode []int
		cKey, aKey, eState            []string
		cAgo, aAgo                    []float64
		aDelay                        []*float64
		cElapsed                      []float32
		aElapsed                      []*float32
		cOutput, cError               [][]byte
		aError, aDetails              [][]byte
		aSeq, aAttempt, aEpoch, aMode []int
		aSandbox                      []*string
		eRun                          []int64
		eOutput, eError               [][]byte
		cDone                         []int
		wRun, dRun, sRun, sID         []int64
		wSeq, dSeq                    []int
		wKey, sName                   []string
		wLeft                         []*float64
		wSignal                       []*string
		nRun, nChild, bRun            []int64
		bKey                          []string
		told                          []int64
		out                           outward
	)
	now := time.Now()
	for _, x := range writes {
		runs, epochs = append(runs, x.t.run), append(epochs, x.t.epoch)
		for _, c := range x.Checkpoints {
			cRun, cSeq, cKey, cAttempt = append(cRun, x.t.run), append(cSeq, c.Seq), append(cKey, c.Key), append(cAttempt, c.Attempt)
			cEpoch, cMode, cAgo = append(cEpoch, x.t.epoch), append(cMode, c.Mode), append(cAgo, now.Sub(c.Started).Seconds())
			cElapsed, cHash = append(cElapsed, float32(c.Elapsed.Seconds())), append(cHash, int64(c.InputHash))
			if c.Error != nil || c.Seq == 0 || c.Calls > 0 {
				c.Output = strconv.AppendInt(nil, int64(c.Calls), 10)
			}
			cOutput, cError, cDone = append(cOutput, c.Output), append(cError, c.Error), append(cDone, c.Done)
		}
		for _, f := range x.Failures {
			aRun, aSeq, aKey, aAttempt = append(aRun, x.t.run), append(aSeq, f.Seq), append(aKey, f.Key), append(aAttempt, f.Attempt)
			aEpoch, aMode, aAgo = append(aEpoch, x.t.epoch), append(aMode, f.Mode), append(aAgo, now.Sub(f.Started).Seconds())
			aElapsed, aSandbox = append(aElapsed, new(float32(f.Elapsed.Seconds()))), append(aSandbox, nil)
			aError, aDelay, aDetails = append(aError, f.Error), append(aDelay, new(f.Delay.Seconds())), append(aDetails, f.Details)
			if f.Orphan {
				aDelay[len(aDelay)-1] = nil
			}
		}
		for _, b := range x.Beats {
			aRun, aSeq, aKey, aAttempt = append(aRun, x.t.run), append(aSeq, b.Seq), append(aKey, b.Key), append(aAttempt, b.Attempt)
			aEpoch, aMode, aAgo = append(aEpoch, x.t.epoch), append(aMode, b.Mode), append(aAgo, now.Sub(b.Started).Seconds())
			aElapsed, aSandbox = append(aElapsed, nil), append(aSandbox, nil)
			aError, aDelay, aDetails = append(aError, nil), append(aDelay, nil), append(aDetails, b.Details)
		}
		for _, a := range x.Waits {
			wRun, wSeq, wKey, wSignal = append(wRun, x.t.run), append(wSeq, a.Seq), append(wKey, a.Key), append(wSignal, optional(a.Signal))
			wLeft = append(wLeft, nil)
			if a.Left != engine.Never {
				wLeft[len(wLeft)-1] = new(a.Left.Seconds())
			}
		}
		for _, seq := range x.Dropped {
			dRun, dSeq = append(dRun, x.t.run), append(dSeq, seq)
		}
		for _, s := range x.Received {
			sRun, sID, sName = append(sRun, x.t.run), append(sID, s.ID), append(sName, s.Name)
		}
		for _, id := range x.Cancel {
			nRun, nChild = append(nRun, x.t.run), append(nChild, id)
		}
		bRun, bKey = append(bRun, x.blobs.Runs...), append(bKey, x.blobs.Keys...)
		if x.t.watched.Load() && (x.End != nil || len(x.Entries) > 0 || len(x.Progress) > 0) {
			told = append(told, x.t.run)
		}
		out.add(x)
		if x.End != nil {
			eRun, eState = append(eRun, x.t.run), append(eState, endNames[x.End.Kind])
			eOutput, eError = append(eOutput, x.End.Output), append(eError, x.End.Error)
		}
	}
	args := []any{writes[0].t.session, runs, epochs,
		cRun, cSeq, cKey, cAttempt, cEpoch, cMode, cAgo, cElapsed, cHash, cOutput, cError,
		aRun, aSeq, aKey, aAttempt, aEpoch, aMode, aAgo, aElapsed, aSandbox, aError, aDelay,
		eRun, eState, eOutput, eError,
		cDone, wRun, wSeq, wKey, wLeft, wSignal, dRun, dSeq, sRun, sID, nRun, nChild, bRun, bKey}
	return append(append(args, out.columns()...), told, aDetails, channel, out.eGuest, sName)
}

func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// refusesData reports whether Postgres will never take these rows: data errors,
// constraint violations, and values over its limits.
func refusesData(err error) bool {
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) {
		return false
	}
	switch pgErr.Code[:2] {
	case "22", "23", "54":
		return true
	}
	return false
}

func duplicate(err error) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && pgErr.Code == "23505"
}

// retry calls f until it succeeds, for as long as the turn's session holds its
// lease. Only what time may cure is tried again; every try has a deadline.
func (w *worker) retry(ctx context.Context, t *heldTurn, f func(context.Context) error) error {
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		if w.lease.session() != t.session || w.lease.slack() <= 0 {
			return engine.ErrLeaseLost
		}
		try, cancel := context.WithTimeout(ctx, w.lease.slack())
		err := f(try)
		cancel()
		if err == nil || ctx.Err() != nil || errors.Is(err, engine.ErrLeaseLost) || !transient(err) {
			return err
		}
		if locked(err) {
			pause = min(pause, 250*time.Millisecond)
		} else {
			w.log.WarnContext(ctx, "trying again", "error", err)
		}
		select {
		case <-ctx.Done():
		case <-w.lease.ended():
		case <-time.After(pause):
		}
	}
}

// locked reports whether somebody else has locked what a statement does not wait
// for.
func locked(err error) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && pgErr.Code == "55P03"
}

// transient reports whether the same statement may succeed later.
func transient(err error) bool {
	var pgErr *pgconn.PgError
	var fault *engine.Fault
	var park *engine.ParkError
	switch {
	case errors.As(err, &fault), errors.As(err, &park):
		return false // what was asked for cannot be done
	case !errors.As(err, &pgErr):
		return true // the connection, or the deadline
	}
	switch pgErr.Code[:2] {
	case "08", "40", "53", "55", "57", "58", "XX":
		return true
	}
	return pgErr.Code == "0A000" || pgErr.Code == "25006" // a cached plan; a standby after a failover
}
