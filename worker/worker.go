package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"

	"github.com/stepward/stepward/internal/batch"
	"github.com/stepward/stepward/internal/brokerlink"
	"github.com/stepward/stepward/internal/db"
	"github.com/stepward/stepward/internal/engine"
	"github.com/stepward/stepward/internal/enqueue"
	"github.com/stepward/stepward/internal/payload"
	"github.com/stepward/stepward/internal/program"
	"github.com/stepward/stepward/internal/warm"
	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/workflow"
)

// A StartError reports that Postgres could not be used within
// [Config.StartTimeout].
type StartError struct {
	After time.Duration
	Err   error
}

func (e *StartError) Error() string {
	return fmt.Sprintf("worker: postgres was not there within %v: %v", e.After, e.Err)
}

func (e *StartError) Unwrap() error { return e.Err }

// Run executes runs until ctx is done; then it drains and returns nil. Before,
// it returns an error when the Config or a definition is wrong (all that is
// wrong, joined), a *[StartError] when Postgres is absent, and a
// *[workflow.SchemaError] when the migrations are not applied. Once it
// works, an outage of Postgres does not end it. It catches no signals: give it a
// context from signal.NotifyContext.
func Run(ctx context.Context, cfg Config) error {
	for {
		if err := serve(ctx, cfg); !errors.Is(err, errMended) {
			return err
		}
		cfg.StartTimeout = math.MaxInt64 // it has worked: no outage ends it
	}
}

func serve(ctx context.Context, cfg Config) error {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return err
	}
	q, err := db.New(cfg.Schema)
	if err != nil {
		return err
	}
	w := &worker{
		Config: cfg, q: q, log: cfg.Logger.With("worker", cfg.Name),
		defs:      make(map[string]*engine.Definition),
		turns:     make(map[int64]*heldTurn),
		ring:      make(chan struct{}, 1),
		left:      make(chan struct{}, 1),
		noticed:   make(chan struct{}, 1),
		asked:     make(chan struct{}, 1),
		draining:  make(chan struct{}),
		steps:     make(chan struct{}, cfg.MaxSteps),
		sandboxes: make(chan struct{}, cfg.MaxSandboxes),
	}
	ctx = program.WithLogger(ctx, w.log) // a backend may have to build one
	for _, d := range cfg.Workflows {
		e := d.Engine()
		w.defs[e.Workflow+"@"+e.Version] = e
	}
	if w.tel, err = newTelemetry(cfg, w); err != nil {
		return err
	}
	defer w.tel.close()
	if err := w.openTxPool(); err != nil {
		return err
	}
	defer w.closeTxPool()
	w.box = &payload.Box{Codec: cfg.Codec, Store: cfg.Blobs, Pool: cfg.Pool, Q: q}
	w.commits = &batch.Group[write, error]{Run: w.commit, MaxItems: 512, MaxBytes: 4 << 20, Size: write.size}
	err = w.start(ctx, func(ctx context.Context) error {
		if err := db.Check(ctx, w.Pool, w.q); err != nil {
			return err
		}
		return w.Pool.QueryRow(ctx, w.q.Database).Scan(&w.database)
	})
	if err == nil {
		err = w.openBroker() // for a database that is there
	}
	if err == nil {
		defer w.broker.Close()
		w.chooseBackend(ctx)
		w.warm = w.newWarm()
		err = w.start(ctx, w.define)
	}
	if err == nil {
		err = w.start(ctx, w.register)
	}
	switch {
	case ctx.Err() != nil:
		if w.lease.session() != 0 {
			w.deregister(context.WithoutCancel(ctx))
		}
		return nil
	case err != nil:
		return err
	}
	return w.run(ctx)
}

// worker is one call of Run.
type worker struct {
	Config
	q        *db.Queries
	database string // see statement Database
	log      *slog.Logger
	tel      *telemetry
	defs     map[string]*engine.Definition // by workflow@version

	backend      sandbox.Backend // nil when none works here
	capabilities sandbox.Capabilities
	backendErr   error // why backend is nil
	warm         *warm.Pool
	broker       *brokerlink.Link // nil: no step needs it
	wants        wants
	rest         wants        // without those whose steps have secrets
	revoked      atomic.Int64 // the session in which the broker has said that this worker is
	stranded     atomic.Int64 // that in which no broker could be started any more
	lacks        lacks
	unservable   []int32 // requirements of own definitions that this worker cannot meet
	box          *payload.Box
	commits      *batch.Group[write, error]
	lease        lease
	steps        chan struct{} // places for attempts
	sandboxes    chan struct{} // places for sandboxes
	txs          *pgxpool.Pool // of the transactions of steps: see openTxPool

	ring     chan struct{} // asks the dispatcher to look
	left     chan struct{} // receives when a turn has left
	noticed  chan struct{} // asks the maintenance to look for notices
	asked    chan struct{} // asks it to look what is wanted of the runs that are held
	river    *river.Client[pgx.Tx]
	hungry   atomic.Bool // the last claim left something behind
	served   string      // tenant of the last run that was claimed: the next one is another's; the dispatcher's own
	limits   limits      // the dispatcher's own
	draining chan struct{}
	stuck    atomic.Int64 // attempts that ended while their function goes on
	blocked  atomic.Int64 // bodies that wait for what is not durable

	mu       sync.Mutex
	turns    map[int64]*heldTurn
	ending   int      // of these, how many are about to leave
	freed    []string // limits whose turns have ended, each once
	turnDone sync.WaitGroup
}

// wants is what a claim may take: the requirement's id, and what to pin.
type wants struct {
	ids, pins []int32
	versions  []string
}

// offers is what this worker claims.
func (w *worker) offers() wants {
	if w.rests() || w.lacks.resting() {
		return w.rest
	}
	return w.wants
}

// start does what a start needs of Postgres. It is repeated while Postgres is
// not there, or does not answer, for StartTimeout at most.
func (w *worker) start(ctx context.Context, what func(context.Context) error) error {
	start := time.Now()
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		try, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := what(try)
		cancel()
		var version *db.SchemaError
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.As(err, &version) || !transient(err):
			return err
		case time.Since(start)+pause > w.StartTimeout:
			return &StartError{After: w.StartTimeout, Err: err}
		}
		w.log.WarnContext(ctx, "waiting for postgres", "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

func (w *worker) backends() []sandbox.Backend {
	if w.Backends == nil {
		return defaultBackends()
	}
	return w.Backends
}

// chooseBackend takes the first backend that works here, if any step needs one.
func (w *worker) chooseBackend(ctx context.Context) {
	needed := false
	for _, d := range w.defs {
		needed = needed || needsSandbox(d)
	}
	if !needed {
		return
	}
	backends := w.backends()
	errs := []error{errors.New("worker: Config.Backends is empty")}
	if len(backends) > 0 {
		errs = nil
	}
	for _, b := range backends {
		caps, err := b.Probe(ctx)
		if err == nil {
			w.backend, w.capabilities = b, caps
			w.log.InfoContext(ctx, "sandbox backend", "backend", b.Name(), "capabilities", fmt.Sprintf("%+v", caps))
			return
		}
		errs = append(errs, err)
	}
	if ctx.Err() != nil {
		return
	}
	w.backendErr = asUser(errors.Join(errs...))
	w.log.ErrorContext(ctx, "no sandbox backend works here: workflows with sandboxed steps are left to other workers", "error", w.backendErr)
}

// errMended ends a worker that had no backend when it started, and now would have one: it starts anew, as what it takes up follows
// from that.
var errMended = errors.New("worker: a sandbox backend works now")

// mends returns true as soon as one of the backends works, and false when ctx is done. It asks less and less often,
// at least once a minute, and says when it is something else that is wrong.
func (w *worker) mends(ctx context.Context) bool {
	told := w.backendErr.Error()
	for pause := time.Second; ; pause = min(2*pause, time.Minute) {
		select {
		case <-ctx.Done():
			return false
		case <-time.After(pause):
		}
		var errs []error
		for _, b := range w.backends() {
			_, err := b.Probe(ctx)
			if err == nil {
				w.log.InfoContext(ctx, "a sandbox backend works now: the worker drains, and starts anew", "backend", b.Name())
				return true
			}
			errs = append(errs, err)
		}
		if err := asUser(errors.Join(errs...)); err != nil && ctx.Err() == nil && err.Error() != told {
			told = err.Error()
			w.log.ErrorContext(ctx, "still no sandbox backend works here", "error", err)
		}
	}
}

// run serves until ctx is done, and drains.
func (w *worker) run(ctx context.Context) error {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	base, stop := context.WithCancel(context.WithoutCancel(ctx)) // outlives ctx, for the drain
	defer stop()
	err := w.start(ctx, func(context.Context) (err error) { w.river, err = w.startRiver(base); return err })
	if err != nil {
		w.deregister(base)
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	var loops sync.WaitGroup
	loops.Go(func() { w.keepLease(base) })
	loops.Go(func() { w.maintain(base) })
	loops.Go(func() { w.sweep(base) })
	if w.warm != nil {
		loops.Go(func() { w.warm.Run(base, w.kinds()) })
	}
	dispatching, stopDispatching := context.WithCancel(ctx)
	defer stopDispatching()
	var dispatcher sync.WaitGroup
	dispatcher.Go(func() { w.dispatch(dispatching, base) })
	if w.backendErr != nil {
		loops.Go(func() {
			if w.mends(ctx) {
				end(errMended)
			}
		})
	}
	w.Health.attach(w)
	w.log.InfoContext(ctx, "worker started", "session", fmt.Sprintf("%x", w.lease.session()), "workflows", len(w.defs))

	<-ctx.Done()
	w.log.InfoContext(base, "draining", "timeout", w.DrainTimeout)
	dispatcher.Wait()
	w.exec(base, w.q.WorkerState, w.lease.session(), "draining")
	close(w.draining)
	w.drain()
	stopRiver, cancel := context.WithTimeout(base, 5*time.Second)
	defer cancel()
	if err := w.river.StopAndCancel(stopRiver); err != nil {
		w.log.WarnContext(base, "river did not stop", "error", err)
	}
	stop()
	loops.Wait() // one of them uses the heartbeat's connection
	w.deregister(context.WithoutCancel(ctx))
	w.Health.attach(nil)
	w.log.InfoContext(ctx, "worker stopped")
	if err := context.Cause(ctx); errors.Is(err, errMended) {
		return err
	}
	return nil
}

// drain waits for the turns, then interrupts them.
func (w *worker) drain() {
	done := make(chan struct{})
	go func() { w.turnDone.Wait(); close(done) }()
	timer := time.NewTimer(w.DrainTimeout)
	defer timer.Stop()
	select {
	case <-done:
		return
	case <-timer.C:
	}
	w.cancelTurns(engine.ErrHandBack)
	timer.Reset(w.LeaseTTL)
	select {
	case <-done:
	case <-timer.C: // bodies that do not listen: the reaper frees their runs
		w.log.Error("turns did not end, their runs are left to the reaper", "turns", w.held())
	}
}

func (w *worker) held() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.turns)
}

// cancelTurns ends the context of every turn.
func (w *worker) cancelTurns(cause error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, t := range w.turns {
		t.stop(cause)
	}
}

// exec runs a statement whose failure is only worth a log line.
func (w *worker) exec(ctx context.Context, sql string, args ...any) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if _, err := w.Pool.Exec(ctx, sql, args...); err != nil {
		w.log.WarnContext(ctx, "statement failed", "error", err)
	}
}

// define writes the definitions down and learns what to claim.
func (w *worker) define(ctx context.Context) error {
	err := pgx.BeginFunc(ctx, w.Pool, func(tx pgx.Tx) error { return w.defineTx(ctx, tx) })
	if err != nil {
		return fmt.Errorf("worker: write the definitions: %w", err)
	}
	ids := w.wants.ids
	w.tel.claimable.Store(&ids)
	return nil
}

// defineTx writes in one order, whatever order the Config has: workers that
// start together with the same workflows would wait for each other otherwise.
func (w *worker) defineTx(ctx context.Context, tx pgx.Tx) error {
	var needs []enqueue.Need // of definition i at 2i; its workflow's while undefined at 2i+1
	for _, d := range w.Workflows {
		e := d.Engine()
		needs = append(needs, need(e), enqueue.Need{Workflow: e.Workflow})
	}
	ids, err := enqueue.Requirements(ctx, tx, w.q, needs)
	if err != nil {
		return err
	}
	order := make([]int, len(w.Workflows))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(i, j int) int { return needs[2*i].Compare(needs[2*j]) })
	for _, i := range order {
		if err := w.defineOne(ctx, tx, w.Workflows[i].Engine(), ids[2*i], i); err != nil {
			return err
		}
	}
	w.wants, w.rest, w.unservable = wants{}, wants{}, nil
	var secret []int32
	for i, d := range w.Workflows {
		e, id, undefined := d.Engine(), ids[2*i], ids[2*i+1]
		if needsSandbox(e) && w.backend == nil {
			w.unservable = append(w.unservable, id, undefined)
			continue
		}
		rows, err := tx.Query(ctx, w.q.RequirementsOf, e.Workflow, e.Version)
		if err != nil {
			return err
		}
		earlier, err := pgx.CollectRows(rows, pgx.RowTo[int32]) // what this version needed before its steps were changed
		if err != nil {
			return err
		}
		for _, old := range earlier {
			w.wants.add(old, id, e.Version)
		}
		w.wants.remove(undefined) // of several versions, the one listed last takes it
		w.wants.add(undefined, id, e.Version)
		if needsBroker(e) {
			secret = append(secret, id)
		}
	}
	for i, pin := range w.wants.pins {
		if !slices.Contains(secret, pin) {
			w.rest.add(w.wants.ids[i], pin, w.wants.versions[i])
		}
	}
	return nil
}

// need is what a worker must offer to execute a definition.
func need(e *engine.Definition) enqueue.Need {
	n := enqueue.Need{Workflow: e.Workflow, Version: e.Version, Modes: []string{}}
	for _, s := range e.Steps {
		if mode := workflow.Mode(s.Mode).String(); !slices.Contains(n.Modes, mode) {
			n.Modes = append(n.Modes, mode)
		}
	}
	slices.Sort(n.Modes)
	return n
}

// defineOne writes a definition down; place is that in the Config, where the
// newest of several versions comes last.
func (w *worker) defineOne(ctx context.Context, tx pgx.Tx, e *engine.Definition, requirement int32, place int) error {
	type step struct {
		Name    string       `json:"name"`
		Mode    string       `json:"mode"`
		Tool    bool         `json:"tool,omitempty"`
		Spec    sandbox.Spec `json:"sandbox"`
		Secrets []string     `json:"secrets,omitempty"`

		Timeout time.Duration `json:"timeout_ns,omitempty"` // for the broker: what is made for an attempt ends with it
	}
	steps := []step{}
	for _, s := range e.Steps {
		steps = append(steps, step{Name: s.Name, Mode: workflow.Mode(s.Mode).String(), Tool: s.Tool, Spec: s.Spec, Secrets: s.Secrets, Timeout: s.Timeout})
	}
	data, err := json.Marshal(steps)
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, w.q.DefinitionInsert, e.Workflow, e.Version, requirement, data, place)
	return err
}

func (v *wants) add(id, pin int32, version string) {
	v.ids, v.pins, v.versions = append(v.ids, id), append(v.pins, pin), append(v.versions, version)
}

func (v *wants) remove(id int32) {
	if i := slices.Index(v.ids, id); i >= 0 {
		v.ids, v.pins, v.versions = slices.Delete(v.ids, i, i+1), slices.Delete(v.pins, i, i+1), slices.Delete(v.versions, i, i+1)
	}
}
