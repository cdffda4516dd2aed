// Package enqueue adds runs. It serves both the client and the worker, which
// adds the runs that other River clients asked for.
package enqueue

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"

	"github.com/stepward/stepward/internal/db"
	"github.com/stepward/stepward/internal/engine"
	"github.com/stepward/stepward/internal/payload"
)

// Queue is the River queue of all tickets.
const Queue = "stepward"

// Ticket is the River job that announces ready runs. Losing or doubling one is
// harmless: the run is claimed from table ready.
type Ticket struct {
	Run   int64 `json:"run,string,omitempty"` // when it announces a single one
	Count int   `json:"count"`
}

// Kind implements river.JobArgs.
func (Ticket) Kind() string { return "stepward_ticket" }

// InsertOpts implements river.JobArgsWithInsertOpts.
func (Ticket) InsertOpts() river.InsertOpts { return river.InsertOpts{Queue: Queue, MaxAttempts: 1} }

// Start is a River job that any River client, in any language, may insert into
// our River schema to start a run.
type Start struct {
	Workflow string          `json:"workflow"`
	Input    json.RawMessage `json:"input"`
	Tenant   string          `json:"tenant,omitempty"`
	Key      string          `json:"key,omitempty"` // idempotency key; defaults to the job's id

	// As in workflow.EnqueueOptions.
	Priority int        `json:"priority,omitempty"`
	Timeout  float64    `json:"timeout_seconds,omitempty"`
	Limit    StartLimit `json:"limit,omitzero"`

	Project     string `json:"project,omitempty"`
	Environment string `json:"environment,omitempty"`
}

// StartLimit is the Limit of a Start.
type StartLimit struct {
	Key         string  `json:"key"`
	Concurrency int     `json:"concurrency,omitempty"`
	Rate        int     `json:"rate,omitempty"`
	Per         float64 `json:"per_seconds,omitempty"` // defaults to 1
}

// Kind implements river.JobArgs.
func (Start) Kind() string { return "stepward_start" }

// InsertOpts implements river.JobArgsWithInsertOpts.
func (Start) InsertOpts() river.InsertOpts { return river.InsertOpts{Queue: Queue} }

// An Item is one run to add.
type Item struct {
	Tenant, Workflow, Key string
	Traceparent           string
	Input                 []byte // as it is stored: see Seal
	Priority              int16
	Attributes            []engine.Attribute
	Tick                  time.Time     // of the schedule that asks for it; zero otherwise
	Timeout               time.Duration // until the run has to end; 0: never
	Limit                 Limit
	Identity              engine.Identity

	// Kin is the run that starts this one, or that it is a fork of, whose place and
	// keys it has unless it has its own. A fork has none of the names of its secrets
	// that the other run has not.
	Kin  int64
	Fork bool

	// Pin is the requirement and Version the version of a run that shall not
	// have the newest. Zero: the newest.
	Pin     int32
	Version string

	hash, stored []byte // of workflow and input; what is stored of it
	box          *payload.Box
}

// What is said of a run, and what several may share.
type (
	Options = engine.Options
	Limit   = engine.Limit
)

// Set gives options to an item.
func (i *Item) Set(o Options) {
	i.Priority, i.Attributes, i.Timeout, i.Limit, i.Identity = o.Priority, o.Attributes, o.Timeout, o.Limit, o.Identity
}

// Seal turns Input into what is stored of it. It comes before Insert and outside
// of its transaction, as a large input is written apart, and a codec may take its
// time.
func (i *Item) Seal(ctx context.Context, box *payload.Box) (err error) {
	i.box = box
	if i.Key != "" {
		i.hash = i.sum()
		if i.stored, err = box.SealInline(ctx, i.hash); err != nil {
			return err
		}
	}
	stored, err := box.Seal(ctx, i.Input)
	if err == nil {
		i.Input = stored // else it is there for another try
	}
	return err
}

func (i *Item) sum() []byte {
	sum := sha256.Sum256(append([]byte(i.Workflow+"\x00"), i.Input...))
	return sum[:]
}

// same reports whether a stored hash is that of the item.
func (i *Item) same(ctx context.Context, stored []byte) (bool, error) {
	hash := stored
	if len(stored) != sha256.Size { // a bare hash may begin with any byte
		var err error
		if hash, err = i.box.Open(ctx, stored); err != nil {
			return false, err
		}
	}
	return bytes.Equal(hash, i.hash), nil
}

// A Result says what became of an item.
type Result struct {
	Run      int64
	Existing bool  // the key had been used before, for this workflow and input
	Err      error // *ConflictError, *ModeError, *payload.OpenError or *identity.KeyError
}

// A ConflictError reports a key that was used with another workflow or input.
type ConflictError struct{ Run int64 }

func (e *ConflictError) Error() string { return fmt.Sprintf("key belongs to run %d", e.Run) }

// A ModeError reports a mode that nothing can execute.
type ModeError struct{ Mode string }

func (e *ModeError) Error() string { return "mode " + e.Mode + " cannot be executed yet" }

// Insert adds runs in tx, each with its ready row. It does not announce them.
func Insert(ctx context.Context, tx pgx.Tx, q *db.Queries, items []Item) ([]Result, error) {
	return new(Memory).Insert(ctx, tx, q, items)
}

// Insert is that of the package, with one round trip less for runs whose steps list secrets as the memory has it.
func (m *Memory) Insert(ctx context.Context, tx pgx.Tx, q *db.Queries, items []Item) ([]Result, error) {
	defs, all, view, err := m.look(ctx, tx, q, items)
	if err != nil {
		return nil, err
	}
	var (
		tenants, workflows, versions []string
		requirements                 []int32
		traces, keys                 []*string
		inputs, hashes               [][]byte
		priorities                   []*int16
		ticks                        []*time.Time
		timeouts                     []*float64
		bodies                       [][]byte
		places                       []int
		aPlaces                      []int64
		aNames                       []string
		aValues                      [][]byte
	)
	results := make([]Result, len(items))
	bound, err := bind(view, all, results)
	if err != nil {
		return nil, err
	}
	for i := range items {
		it := &items[i]
		d := defs[it.Workflow]
		if it.Pin != 0 {
			d = definition{version: it.Version, requirement: it.Pin}
		}
		if d.mode != "" {
			results[i].Err = &ModeError{Mode: d.mode}
		}
		if results[i].Err != nil {
			continue
		}
		if it.Key != "" && it.hash == nil {
			it.hash = it.sum()
			it.stored = it.hash
		}
		places = append(places, i)
		tenants, workflows, versions = append(tenants, it.Tenant), append(workflows, it.Workflow), append(versions, d.version)
		requirements, inputs = append(requirements, d.requirement), append(inputs, it.Input)
		traces, keys = append(traces, optional(it.Traceparent)), append(keys, optional(it.Key))
		hashes, priorities = append(hashes, it.stored), append(priorities, nil)
		ticks, timeouts, bodies = append(ticks, nil), append(timeouts, nil), append(bodies, bound[i])
		if it.Priority != 0 {
			priorities[len(priorities)-1] = &it.Priority
		}
		if !it.Tick.IsZero() {
			ticks[len(ticks)-1] = &it.Tick
		}
		if it.Timeout > 0 {
			timeouts[len(timeouts)-1] = new(it.Timeout.Seconds())
		}
		for _, a := range it.Attributes {
			aPlaces, aNames, aValues = append(aPlaces, int64(len(places))), append(aNames, a.Name), append(aValues, a.Value)
		}
	}
	if len(places) == 0 {
		return results, nil
	}
	limits, err := putLimits(ctx, tx, q, items, places)
	if err != nil {
		return nil, err
	}
	rows, err := tx.Query(ctx, q.RunInsert, tenants, workflows, versions, requirements, traces, inputs, keys, hashes, priorities, aPlaces, aNames, aValues, ticks, timeouts, limits, bodies)
	if err != nil {
		return nil, err
	}
	n := 0
	var added bool
	var id int64
	var blobs payload.Use
	_, err = pgx.ForEachRow(rows, []any{&id, &added}, func() error {
		results[places[n]] = Result{Run: id, Existing: !added}
		if added {
			blobs.Add(id, items[places[n]].Input)
		}
		n++
		return nil
	})
	if err != nil {
		return nil, err
	}
	if err := blobs.Write(ctx, tx, q.BlobUse, false); err != nil {
		return nil, err
	}
	if err := existing(ctx, tx, q, items, results, places); err != nil {
		return nil, err
	}
	return results, nil
}

// putLimits writes down the limits that items name, and returns their keys.
func putLimits(ctx context.Context, tx pgx.Tx, q *db.Queries, items []Item, places []int) ([]*string, error) {
	of := make([]*string, len(places))
	newest := make(map[string]Limit)
	for j, i := range places {
		if l := items[i].Limit; l.Key != "" {
			of[j], newest[l.Key] = &items[i].Limit.Key, l
		}
	}
	if len(newest) == 0 {
		return of, nil
	}
	var keys []string
	var concurrency, rate []int
	var per []float64
	for _, key := range slices.Sorted(maps.Keys(newest)) {
		l := newest[key]
		keys, concurrency, rate, per = append(keys, key), append(concurrency, l.Concurrency), append(rate, l.Rate), append(per, l.Per.Seconds())
	}
	_, err := tx.Exec(ctx, q.LimitPut, keys, concurrency, rate, per)
	return of, err
}

// existing looks up the runs that keys belong to.
func existing(ctx context.Context, tx pgx.Tx, q *db.Queries, items []Item, results []Result, places []int) error {
	var tenants, keys []string
	var taken []int
	for _, i := range places {
		if results[i].Existing {
			tenants, keys, taken = append(tenants, items[i].Tenant), append(keys, items[i].Key), append(taken, i)
		}
	}
	if len(taken) == 0 {
		return nil
	}
	rows, err := tx.Query(ctx, q.IdempotencyGet, tenants, keys)
	if err != nil {
		return err
	}
	var run int64
	var hash []byte
	n := 0
	_, err = pgx.ForEachRow(rows, []any{&run, &hash}, func() error {
		i := taken[n]
		results[i].Run = run
		same, err := items[i].same(ctx, hash)
		switch {
		case err != nil:
			results[i] = Result{Err: err}
		case !same:
			results[i] = Result{Err: &ConflictError{Run: run}}
		}
		n++
		return nil
	})
	if err == nil && n != len(taken) {
		err = fmt.Errorf("%d of %d keys are gone", len(taken)-n, len(taken))
	}
	return err
}

// Announcement returns the ticket for what Insert added; ok is false when that
// is nothing.
func Announcement(results []Result) (t Ticket, ok bool) {
	for _, r := range results {
		if r.Err == nil && !r.Existing {
			t.Count++
			t.Run = r.Run
		}
	}
	if t.Count != 1 {
		t.Run = 0
	}
	return t, t.Count > 0
}

type definition struct {
	version     string
	requirement int32
	mode        string // the first that nothing can execute
	steps       []byte // JSON, if some have secrets
}

// executable are the modes of steps that workers execute.
var executable = []string{"bare", "sandboxed", "identity"}

// newest looks up the newest definition of each workflow when the batch is sent. Some may have none.
func newest(b *pgx.Batch, q *db.Queries, names []string) map[string]definition {
	defs := make(map[string]definition)
	b.Queue(q.DefinitionNewest, names).Query(func(rows pgx.Rows) error {
		var name string
		var d definition
		var modes []string
		_, err := pgx.ForEachRow(rows, []any{&name, &d.version, &d.requirement, &modes, &d.steps}, func() error {
			d.mode = ""
			for _, m := range modes {
				if !slices.Contains(executable, m) {
					d.mode = m
				}
			}
			defs[name] = d
			d.steps = nil
			return nil
		})
		return err
	})
	return defs
}

// undefined gives a requirement of its own to each workflow that no worker has defined: its runs wait.
func undefined(ctx context.Context, tx pgx.Tx, q *db.Queries, names []string, defs map[string]definition) error {
	var unknown []Need
	for _, name := range names {
		if _, ok := defs[name]; !ok {
			unknown = append(unknown, Need{Workflow: name})
		}
	}
	ids, err := Requirements(ctx, tx, q, unknown)
	if err != nil {
		return err
	}
	for i, n := range unknown {
		defs[n.Workflow] = definition{requirement: ids[i]}
	}
	return nil
}

func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
