// Package tick enqueues the runs of schedules. It serves the worker, which
// does what is due, and the client, which changes schedules.
//
// A schedule is a row, and its lock is the right to tick: in the transaction
// that holds it, runs are added and the row moves on to the next tick. So no
// tick is lost or doubled, whoever does it, and wherever that dies.
package tick

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stepward/stepward/internal/db"
	"github.com/stepward/stepward/internal/enqueue"
	"github.com/stepward/stepward/internal/schedule"
)

// A Row is a schedule whose row is locked by the transaction that read it.
type Row struct {
	Name, Tenant, Workflow string
	Input                  []byte
	Spec                   string // JSON
	Runs                   enqueue.Options
	Paused                 bool
	Tick, Due, Buffered    *time.Time
	Live                   []int64 // runs that have not ended
	Skipped, Missed        int64
	Now                    time.Time // of the database
	Early                  bool      // for Run: what waits for its jitter is due
}

// Due locks schedules that have something to do and that nobody else has
// locked, at most limit, and none of those named.
func Due(ctx context.Context, tx pgx.Tx, q *db.Queries, limit int, except []string) ([]Row, error) {
	if except == nil {
		except = []string{}
	}
	return read(ctx, tx, q, q.ScheduleDue, limit, except)
}

// Lock locks one schedule. ok is false when it does not exist.
func Lock(ctx context.Context, tx pgx.Tx, q *db.Queries, name string) (r Row, ok bool, err error) {
	rows, err := read(ctx, tx, q, q.ScheduleLock, name)
	if err != nil || len(rows) == 0 {
		return r, false, err
	}
	return rows[0], true, nil
}

func read(ctx context.Context, tx pgx.Tx, q *db.Queries, sql string, args ...any) ([]Row, error) {
	found, err := tx.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	var runs []int64
	rows, err := pgx.CollectRows(found, func(row pgx.CollectableRow) (r Row, err error) {
		var setting string
		err = row.Scan(&r.Name, &r.Tenant, &r.Workflow, &r.Input, &r.Spec, &r.Paused, &r.Tick, &r.Due, &r.Buffered, &r.Live,
			&r.Skipped, &r.Missed, &r.Now, &setting, &r.Runs)
		runs = append(runs, r.Live...)
		return r, err
	})
	if err != nil || len(runs) == 0 {
		return rows, err
	}
	if found, err = tx.Query(ctx, q.ScheduleLive, runs); err != nil {
		return nil, err
	}
	live, err := pgx.CollectRows(found, pgx.RowTo[int64])
	for i := range rows {
		rows[i].Live = slices.DeleteFunc(rows[i].Live, func(run int64) bool { return !slices.Contains(live, run) })
	}
	return rows, err
}

// Timetable reads when the schedule ticks. Its Spec is one that this program may
// not know.
func (r Row) Timetable() (*schedule.Timetable, error) {
	var s schedule.Spec
	if err := json.Unmarshal([]byte(r.Spec), &s); err != nil {
		return nil, err
	}
	return schedule.Parse(s)
}

// A Done says what became of a schedule.
type Done struct {
	Name            string
	Next            time.Duration   // until it is due again; not positive: at once, or never
	Late            []time.Duration // of each tick that was enqueued: since it was due
	Skipped, Missed int64           // ticks that were left out now
	Problem         string          // why nothing was done; empty otherwise
}

// Run does what is due of the schedules. It returns what became of them, in
// their order, and of the runs, which it does not announce.
func Run(ctx context.Context, tx pgx.Tx, q *db.Queries, rows []Row, actor string) ([]Done, []enqueue.Result, error) {
	done := make([]Done, len(rows))
	plans := make([]schedule.Plan, len(rows))
	var items []enqueue.Item
	for i, r := range rows {
		done[i] = Done{Name: r.Name}
		table, err := r.Timetable()
		if err != nil {
			done[i].Problem = err.Error()
			continue
		}
		if r.Early {
			table.Jitter = 0
		}
		p := table.Plan(r.Name, r.state(), r.Now)
		plans[i] = p
		done[i].Skipped, done[i].Missed = p.State.Skipped-r.Skipped, p.State.Missed-r.Missed
		if !p.State.Due.IsZero() {
			done[i].Next = p.State.Due.Sub(r.Now)
		}
		for _, tick := range p.Enqueue {
			items = append(items, r.item(tick))
			done[i].Late = append(done[i].Late, r.Now.Sub(table.Due(r.Name, tick)))
		}
	}
	var results []enqueue.Result
	if len(items) > 0 {
		var err error
		if results, err = enqueue.Insert(ctx, tx, q, items); err != nil {
			return nil, nil, err
		}
	}
	var moves []move
	at := 0
	for i, r := range rows {
		from := at
		at += len(plans[i].Enqueue)
		if done[i].Problem != "" {
			continue
		}
		m := r.move()
		m.Tick, m.Due, m.Buffered = optional(plans[i].State.Tick), optional(plans[i].State.Due), optional(plans[i].State.Buffered)
		m.Skipped, m.Missed = plans[i].State.Skipped, plans[i].State.Missed
		if plans[i].Cancel {
			m.Cancel = r.Live
		}
		if err := m.add(items[from:at], results[from:at]); err != nil {
			done[i].Problem = err.Error()
			continue
		}
		if !plans[i].State.Busy {
			m.Live = nil
		}
		moves = append(moves, m)
	}
	return done, results, advance(ctx, tx, q, moves, actor)
}

// Trigger adds a run now. It is one that later ticks must not overlap.
func Trigger(ctx context.Context, tx pgx.Tx, q *db.Queries, r Row, actor string) ([]enqueue.Result, error) {
	item := r.item(r.Now)
	item.Key = "" // no tick's: that of its second may come as well
	return r.insert(ctx, tx, q, []enqueue.Item{item}, true, actor)
}

// Backfill adds runs for those of the ticks that have none, and leaves the
// schedule as it is.
func Backfill(ctx context.Context, tx pgx.Tx, q *db.Queries, r Row, ticks []time.Time, actor string) ([]enqueue.Result, error) {
	var items []enqueue.Item
	for _, tick := range ticks {
		items = append(items, r.item(tick))
	}
	return r.insert(ctx, tx, q, items, false, actor)
}

// insert adds runs whatever the schedule says. Its next tick stays; last makes
// the run its last one.
func (r Row) insert(ctx context.Context, tx pgx.Tx, q *db.Queries, items []enqueue.Item, last bool, actor string) ([]enqueue.Result, error) {
	results, err := enqueue.Insert(ctx, tx, q, items)
	if err != nil {
		return nil, err
	}
	m := r.move()
	if err := m.add(items, results); err != nil {
		return nil, err
	}
	if !last {
		m.Live, m.LastTick, m.LastRun = r.Live, nil, nil
	}
	return results, advance(ctx, tx, q, []move{m}, actor)
}

func (r Row) item(tick time.Time) enqueue.Item {
	item := enqueue.Item{Tenant: r.Tenant, Workflow: r.Workflow, Input: r.Input, Key: schedule.Key(r.Name, tick), Tick: tick}
	item.Set(r.Runs)
	return item
}

func (r Row) state() schedule.State {
	s := schedule.State{Busy: len(r.Live) > 0, Skipped: r.Skipped, Missed: r.Missed}
	for _, t := range []struct {
		to   *time.Time
		from *time.Time
	}{{&s.Tick, r.Tick}, {&s.Due, r.Due}, {&s.Buffered, r.Buffered}} {
		if t.from != nil {
			*t.to = t.from.UTC()
		}
	}
	return s
}

// A move is what ScheduleAdvance reads.
type move struct {
	Name     string      `json:"name"`
	Tick     *time.Time  `json:"tick_at"`
	Due      *time.Time  `json:"due_at"`
	Buffered *time.Time  `json:"buffered_at"`
	Live     []int64     `json:"live"`
	Skipped  int64       `json:"skipped"`
	Missed   int64       `json:"missed"`
	LastTick *time.Time  `json:"last_tick"`
	LastRun  *int64      `json:"last_run"`
	Runs     []int64     `json:"runs"`
	Ticks    []time.Time `json:"ticks"`
	Cancel   []int64     `json:"cancel"`
}

func (r Row) move() move {
	return move{Name: r.Name, Tick: r.Tick, Due: r.Due, Buffered: r.Buffered, Live: r.Live, Skipped: r.Skipped, Missed: r.Missed}
}

// add notes the runs of ticks. One that a tick had already, with whichever
// input, is its run.
func (m *move) add(items []enqueue.Item, results []enqueue.Result) error {
	m.Live = slices.Clone(m.Live)
	for i, res := range results {
		var earlier *enqueue.ConflictError
		switch {
		case errors.As(res.Err, &earlier):
			res.Run = earlier.Run
		case res.Err != nil:
			return res.Err
		case !res.Existing:
			m.Runs, m.Ticks = append(m.Runs, res.Run), append(m.Ticks, items[i].Tick)
		}
		m.Live = append(m.Live, res.Run)
		m.LastTick, m.LastRun = &items[i].Tick, &res.Run
	}
	return nil
}

func advance(ctx context.Context, tx pgx.Tx, q *db.Queries, moves []move, actor string) error {
	if len(moves) == 0 {
		return nil
	}
	data, err := json.Marshal(moves)
	if err != nil {
		return err
	}
	tag, err := tx.Exec(ctx, q.ScheduleAdvance, string(data), actor)
	if err == nil && tag.RowsAffected() != int64(len(moves)) {
		err = fmt.Errorf("%d of %d schedules moved on", tag.RowsAffected(), len(moves))
	}
	return err
}

func optional(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
