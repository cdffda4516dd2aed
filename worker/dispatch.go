package worker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/stepward/stepward/internal/engine"
	"github.com/stepward/stepward/internal/payload"
	"github.com/stepward/stepward/workflow"
)

// poll is how often the dispatcher looks without being asked to: tickets may be
// lost.
const (
	poll        = time.Second
	pollLongest = poll * 5 / 4
)

// jittered keeps workers that started together from looking together for ever.
func jittered() time.Duration { return poll + time.Duration(rand.Int64N(int64(pollLongest-poll))) }

// heldTurn is a run while this worker holds it.
type heldTurn struct {
	run     int64
	epoch   int
	session int64
	def     *engine.Definition
	claimed
	stop     context.CancelCauseFunc
	canceled chan struct{} // closed once, under worker.mu
	news     chan struct{} // something may have arrived for the run
	isCancel bool
	watched  atomic.Bool // a client waits for what it shows, or for its end
	paused   atomic.Bool
	ending   bool // its end is being committed; under worker.mu
}

// claimed is what a claim returns of a run.
type claimed struct {
	tenant, workflow, version string
	traceparent               *string
	tick                      *time.Time
	input                     []byte
	cancel                    bool
	priority                  int16
	waited                    float64 // seconds in ready
	seed                      int64
	limit                     string // its key: the end of the turn lets another run begin
}

// wake tells the dispatcher that runs may have become ready.
func (w *worker) wake() {
	w.limits.news.Store(true)
	w.look()
}

// look asks the dispatcher to claim.
func (w *worker) look() {
	select {
	case w.ring <- struct{}{}:
	default:
	}
}

// dispatch claims runs while ctx lasts. The turns get base, which outlives it.
func (w *worker) dispatch(ctx, base context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.ring:
		case <-timer.C:
		}
		if err := w.claim(ctx, base); err != nil && ctx.Err() == nil {
			w.log.WarnContext(ctx, "claim failed", "error", err)
		}
		timer.Reset(w.limits.next(jittered()))
	}
}

// settle waits, for a moment, while more turns are about to end than there are free
// places: their ends are being committed, and one claim for all costs little more
// than one for the first.
func (w *worker) settle() {
	if w.settles() {
		return
	}
	late := time.NewTimer(5 * time.Millisecond)
	defer late.Stop()
	for !w.settles() {
		select {
		case <-w.left:
		case <-late.C:
			return
		}
	}
}

func (w *worker) settles() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ending <= w.MaxRuns-len(w.turns)
}

// endsSoon notes that a turn's end is about to be committed.
func (w *worker) endsSoon(t *heldTurn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !t.ending {
		t.ending = true
		w.ending++
	}
}

// leaves forgets a turn.
func (w *worker) leaves(t *heldTurn) {
	w.mu.Lock()
	if w.turns[t.run] == t {
		delete(w.turns, t.run)
	}
	if t.limit != "" && !slices.Contains(w.freed, t.limit) {
		w.freed = append(w.freed, t.limit)
	}
	if t.ending {
		w.ending--
	}
	w.mu.Unlock()
	select {
	case w.left <- struct{}{}:
	default:
	}
	if w.hungry.Load() || t.limit != "" {
		w.look()
	}
}

// claim takes runs until the worker is full or none is left.
func (w *worker) claim(ctx, base context.Context) error {
	for ctx.Err() == nil && w.lease.slack() > 0 && len(w.wants.ids) > 0 {
		w.settle()
		free := w.MaxRuns - w.held()
		if free <= 0 {
			w.hungry.Store(true)
			return nil
		}
		n, more := 0, false
		w.limits.add(w.takeFreed())
		places := w.limits.share(free)
		if places > 0 {
			turns, cut, limited, err := w.claimSome(ctx, places)
			w.beginAll(base, turns)
			if err != nil {
				return err
			}
			n = len(turns)
			more = cut || n == places
			w.limits.wait = limited
		}
		if w.limits.wait && n < free {
			turns, cut, others, err := w.claimLimited(ctx, free-n)
			w.beginAll(base, turns)
			if err != nil {
				return err
			}
			n += len(turns)
			more = more || cut
			w.limits.alone = !others
			if others && places == 0 {
				continue // it is their turn
			}
		}
		if n == 0 || n < free && !more {
			w.hungry.Store(more)
			return nil
		}
	}
	return nil
}

func (w *worker) beginAll(base context.Context, turns []*heldTurn) {
	for _, t := range turns {
		w.begin(base, t)
	}
}

// claimSome claims up to n runs without a limit; more says that there may be
// others, limited that there are some with a limit.
func (w *worker) claimSome(ctx context.Context, n int) (turns []*heldTurn, more, limited bool, err error) {
	answer, err := w.claimBy(ctx, w.q.Claim, n, w.served)
	for _, t := range answer {
		switch {
		case t.run != 0:
			turns, w.served = append(turns, t), t.tenant
		case t.epoch == 0:
			more = true
		default:
			limited = true
		}
	}
	return turns, more, limited, err
}

// claimBy executes a statement that claims up to n runs. It is not interrupted by
// ctx, so that what was claimed is known; a claim whose answer is lost is found
// by reconcile.
func (w *worker) claimBy(ctx context.Context, statement string, n int, arg any) ([]*heldTurn, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), w.LeaseTTL)
	defer cancel()
	session := w.lease.session()
	rows, err := w.Pool.Query(ctx, statement, session, w.wants.ids, w.wants.pins, w.wants.versions, n, arg)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (*heldTurn, error) {
		t := &heldTurn{session: session, canceled: make(chan struct{}), news: make(chan struct{}, 1)}
		return t, row.Scan(&t.run, &t.epoch, &t.tenant, &t.workflow, &t.version, &t.traceparent, &t.tick, &t.input, &t.cancel, &t.priority, &t.waited, &t.seed, &t.limit)
	})
}

// begin starts the turn of a claimed run.
func (w *worker) begin(base context.Context, t *heldTurn) {
	ctx, stop := context.WithCancelCause(base)
	t.stop = stop
	w.mu.Lock()
	w.turns[t.run] = t
	if t.cancel {
		t.setCanceled()
	}
	w.mu.Unlock()
	if w.lease.session() != t.session {
		stop(engine.ErrLeaseLost) // it was lost between the claim and now
	}
	w.tel.claimLatency.Record(ctx, t.waited)
	w.turnDone.Go(func() {
		defer stop(nil)
		w.turn(ctx, t)
		w.leaves(t)
	})
}

// setCanceled tells the turn that its run was canceled. worker.mu is held.
func (t *heldTurn) setCanceled() {
	if !t.isCancel {
		t.isCancel = true
		close(t.canceled)
	}
}

// hasNews tells the turn that holds a run to look.
func (t *heldTurn) hasNews() {
	select {
	case t.news <- struct{}{}:
	default:
	}
}

// cancelTurn passes a cancelation on to the turn that holds the run.
func (w *worker) cancelTurn(run int64, epoch int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if t := w.turns[run]; t != nil && t.epoch == epoch {
		t.setCanceled()
	}
}

// turn runs one turn from claim to end.
func (w *worker) turn(ctx context.Context, t *heldTurn) {
	if t.traceparent != nil {
		ctx = propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{"traceparent": *t.traceparent})
	}
	ctx, span := w.tel.tracer.Start(ctx, "stepward.turn", trace.WithSpanKind(trace.SpanKindConsumer), trace.WithAttributes(
		attribute.String("stepward.run", workflow.RunID(t.run).String()),
		attribute.String("stepward.workflow", t.workflow), attribute.Int("stepward.epoch", t.epoch)))
	defer span.End()
	log := w.log.With("run", workflow.RunID(t.run).String(), "workflow", t.workflow)
	end := w.work(ctx, t)
	if !end.Final() && end.Kind != engine.Lost {
		if err := w.leave(ctx, t, end); err != nil {
			end = engine.End{Kind: engine.Lost, Err: err}
		}
	}
	if end.Err != nil {
		span.RecordError(end.Err)
		span.SetStatus(codes.Error, end.Err.Error())
	}
	switch {
	case end.Kind == engine.Failed, end.Kind == engine.Parked && end.Reason != "paused":
		log.WarnContext(ctx, "run "+endNames[end.Kind], "reason", end.Reason, "error", end.Err)
	case end.Kind == engine.Lost:
		log.WarnContext(ctx, "turn stopped: the lease is lost", "error", end.Err)
	default:
		log.DebugContext(ctx, "run "+endNames[end.Kind])
	}
	w.tel.turns.Add(ctx, 1, endAttribute(end.Kind))
}

var endNames = map[engine.EndKind]string{
	engine.Completed: "completed", engine.Failed: "failed", engine.Canceled: "canceled", engine.Timer: "waiting", engine.Renewed: "renewed",
	engine.Parked: "parked", engine.Released: "released", engine.Lost: "lost",
}

// work loads what earlier turns recorded and executes.
func (w *worker) work(ctx context.Context, t *heldTurn) engine.End {
	t.def = w.defs[t.workflow+"@"+t.version]
	if t.def == nil { // the claim asks for own versions only
		return engine.End{Kind: engine.Parked, Reason: "undefined", Err: fmt.Errorf("worker: no definition of %s@%s", t.workflow, t.version)}
	}
	h := &host{w, t}
	in := engine.Turn{
		Run: t.run, Epoch: t.epoch, Tenant: t.tenant, Seed: t.seed, Input: t.input, Attempts: make(map[int]engine.Attempts),
		Canceled: t.canceled, Draining: w.draining, Paused: t.paused.Load, News: t.news, Crowded: w.hungry.Load, Now: time.Now,
		MaxBytes: w.MaxBytes, Patience: patience, Sticky: sticky,
		Host: h, Open: h.open, Logger: w.log.With("run", workflow.RunID(t.run).String()),
	}
	if t.tick != nil {
		in.Tick = t.tick.UTC()
	}
	if t.epoch > 1 {
		if err := w.retry(ctx, t, func(ctx context.Context) error { return w.history(ctx, &in) }); err != nil {
			return engine.End{Kind: engine.Lost, Err: err}
		}
	}
	return t.def.Run(ctx, in)
}

const (
	// patience is the longest wait for a time that is spent in memory.
	patience = 5 * time.Second

	// sticky is how long a run stays in memory that waits for a signal or a
	// child, unless another run wants its place.
	sticky = 3 * time.Second
)

// history reads what earlier turns left behind: checkpoints, a page at a time,
// attempts and waits.
func (w *worker) history(ctx context.Context, in *engine.Turn) error {
	const page = 1000
	var steps []engine.Checkpoint
	for after, n := -1, page; n == page; {
		rows, err := w.Pool.Query(ctx, w.q.StepHistory, in.Run, after, page)
		if err != nil {
			return err
		}
		var c engine.Checkpoint
		var hash int64
		n = 0
		_, err = pgx.ForEachRow(rows, []any{&c.Seq, &c.Done, &c.Key, &c.Attempt, &hash, &c.Output, &c.Error}, func() error {
			c.InputHash = uint64(hash)
			steps = append(steps, c)
			c.Output, c.Error = nil, nil
			after = c.Seq
			n++
			return nil
		})
		if err != nil {
			return err
		}
	}
	attempts := make(map[int]engine.Attempts)
	rows, err := w.Pool.Query(ctx, w.q.AttemptHistory, in.Run)
	if err != nil {
		return err
	}
	var seq int
	var a engine.Attempts
	var left float64
	_, err = pgx.ForEachRow(rows, []any{&seq, &a.Last, &a.Failed, &left, &a.Details}, func() error {
		a.Wait = max(seconds(left), 0)
		attempts[seq] = a
		a.Details = nil
		return nil
	})
	if err != nil {
		return err
	}
	waits := make(map[int]engine.Wait)
	if rows, err = w.Pool.Query(ctx, w.q.WaitList, in.Run); err != nil {
		return err
	}
	var x engine.Wait
	_, err = pgx.ForEachRow(rows, []any{&x.Seq, &x.Key, &left, &x.Signal, &x.Child}, func() error {
		x.Left = seconds(left)
		waits[x.Seq] = x
		return nil
	})
	in.Steps, in.Attempts, in.Waits = steps, attempts, waits
	return err
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// leave records why a run leaves this worker without having ended.
func (w *worker) leave(ctx context.Context, t *heldTurn, end engine.End) error {
	h := &host{w, t}
	x, err := h.seal(context.WithoutCancel(ctx), engine.Batch{End: &end})
	var park *engine.ParkError
	switch {
	case err == nil:
		end = *x.End
	case errors.As(err, &park): // nothing can be encoded: of an error that would say more, only this is stored
		end = engine.End{Kind: engine.Parked, Reason: cmp.Or(end.Reason, park.Reason), Error: plainError(park.Err), Err: park.Err}
	default:
		return err
	}
	err = w.retry(context.WithoutCancel(ctx), t, func(ctx context.Context) error {
		var dest string
		var err error
		switch end.Kind {
		case engine.Renewed:
			err = w.Pool.QueryRow(ctx, w.q.TurnRenew, t.session, t.run, t.epoch, end.Output, w.actor(), payload.BlobKey(end.Output), pausedDetail).Scan(&dest)
		case engine.Timer:
			dest, err = w.leaveToWait(ctx, t, end)
		default:
			dest, err = w.leaveTo(ctx, w.Pool, t, end, nil, true)
		}
		if errors.Is(err, pgx.ErrNoRows) {
			return engine.ErrLeaseLost // or an earlier try went through; both end the turn
		}
		if err == nil && dest == "ready" {
			w.wake()
		}
		return err
	})
	return err
}

// pausedDetail is the record of a run that is parked because it was paused.
var pausedDetail = []byte(`{"message":"workflow: run paused"}`)

// querier is a pool or a transaction.
type querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

func (w *worker) leaveTo(ctx context.Context, q querier, t *heldTurn, end engine.End, delay *float64, waits bool) (dest string, err error) {
	to := map[engine.EndKind]string{engine.Timer: "timer", engine.Parked: "parked", engine.Released: "ready"}[end.Kind]
	detail := end.Error
	if detail == nil {
		detail = pausedDetail
	}
	err = q.QueryRow(ctx, w.q.TurnLeave, t.session, t.run, t.epoch, to, delay, end.Reason, detail, w.actor(), waits, late, end.Aware).Scan(&dest)
	return dest, err
}

// leaveToWait lets a run wait in Postgres, unless what it waits for has arrived:
// who sends locks the run as well, so one of the two sees the other.
func (w *worker) leaveToWait(ctx context.Context, t *heldTurn, end engine.End) (dest string, err error) {
	err = pgx.BeginFunc(ctx, w.Pool, func(tx pgx.Tx) error {
		var waits bool
		if _, err := tx.Exec(ctx, w.q.TurnLock, t.run); err != nil {
			return err
		}
		if err := tx.QueryRow(ctx, w.q.TurnWaits, t.run).Scan(&waits); err != nil {
			return err
		}
		var due *float64
		if end.Delay >= 0 {
			due = new(end.Delay.Seconds())
		}
		dest, err = w.leaveTo(ctx, tx, t, end, due, waits)
		return err
	})
	return dest, err
}
