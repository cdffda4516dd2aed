package worker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stepward/stepward/internal/engine"
)

// outward is what several turns show, as columns of a commit.
type outward struct {
	mRun                []int64
	mDone, mN           []int
	eRun, pRun, aRun    []int64
	eStream, eStep      []string
	eAttempt, eGuest    []int
	ePayload            [][]byte
	pName, aName        []string
	pValue, aValue      [][]byte
	pBody               []bool
	progress, attribute map[name]int // where it is in the columns: one statement writes a row once
}

type name struct {
	run  int64
	name string
}

func (o *outward) add(x write) {
	if x.Shown != (engine.Place{}) {
		o.mRun, o.mDone, o.mN = append(o.mRun, x.t.run), append(o.mDone, x.Shown.Done), append(o.mN, x.Shown.N)
	}
	for _, e := range x.Entries {
		o.eRun, o.eStream, o.eStep = append(o.eRun, x.t.run), append(o.eStream, e.Stream), append(o.eStep, e.Step)
		o.eAttempt, o.eGuest, o.ePayload = append(o.eAttempt, e.Attempt), append(o.eGuest, e.Guest), append(o.ePayload, e.Payload)
	}
	for _, p := range x.Progress {
		if i, ok := o.progress[name{x.t.run, p.Name}]; ok {
			o.pValue[i], o.pBody[i] = p.Value, p.Body
			continue
		}
		if o.progress == nil {
			o.progress = make(map[name]int)
		}
		o.progress[name{x.t.run, p.Name}] = len(o.pRun)
		o.pRun, o.pName = append(o.pRun, x.t.run), append(o.pName, p.Name)
		o.pValue, o.pBody = append(o.pValue, p.Value), append(o.pBody, p.Body)
	}
	for _, a := range x.Attributes {
		if i, ok := o.attribute[name{x.t.run, a.Name}]; ok {
			o.aValue[i] = a.Value
			continue
		}
		if o.attribute == nil {
			o.attribute = make(map[name]int)
		}
		o.attribute[name{x.t.run, a.Name}] = len(o.aRun)
		o.aRun, o.aName, o.aValue = append(o.aRun, x.t.run), append(o.aName, a.Name), append(o.aValue, a.Value)
	}
}

func (o *outward) columns() []any {
	return []any{o.mRun, o.mDone, o.mN, o.eRun, o.eStream, o.eStep, o.eAttempt, o.ePayload,
		o.pRun, o.pName, o.pValue, o.pBody, o.aRun, o.aName, o.aValue}
}

// Shown implements engine.Host.
func (h *host) Shown(ctx context.Context) (p engine.Place, err error) {
	err = h.w.retry(ctx, h.t, func(ctx context.Context) error {
		err := h.w.Pool.QueryRow(ctx, h.w.q.ShownGet, h.t.run).Scan(&p.Done, &p.N)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		return err
	})
	return p, err
}

// progressEvery is how often the progress of an attempt is written, at most. A
// step that ends sooner writes it with its checkpoint.
const progressEvery = 250 * time.Millisecond

// outlet implements engine.Outlet for one attempt.
type outlet struct {
	h       *host
	ctx     context.Context
	step    string
	attempt int

	writing sync.Mutex // held while a value is written; before mu
	mu      sync.Mutex
	closed  bool
	due     *time.Timer // nil: nothing is to be written
	values  map[string][]byte
}

// Append implements engine.Outlet.
func (o *outlet) Append(ctx context.Context, stream string, payload []byte) error {
	return o.appendNumbered(ctx, 0, stream, payload)
}

// appendNumbered appends an entry that a guest has given a number; 0: it has not.
func (o *outlet) appendNumbered(ctx context.Context, n int, stream string, payload []byte) error {
	o.mu.Lock()
	closed := o.closed
	o.mu.Unlock()
	if closed {
		return o.over()
	}
	return o.h.Write(ctx, engine.Batch{Entries: []engine.Entry{{Stream: stream, Step: o.step, Attempt: o.attempt, Payload: payload, Guest: n}}})
}

// Progress implements engine.Outlet.
func (o *outlet) Progress(name string, value []byte) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return o.over()
	}
	if o.values == nil {
		o.values = make(map[string][]byte)
	}
	o.values[name] = value
	if o.due == nil {
		o.due = time.AfterFunc(progressEvery, o.flush)
	}
	return nil
}

func (o *outlet) over() error {
	return fmt.Errorf("worker: attempt %d of step %s has ended", o.attempt, o.step)
}

// flush writes what was set since the last time.
func (o *outlet) flush() {
	o.writing.Lock()
	defer o.writing.Unlock()
	values := o.take(false)
	if len(values) == 0 {
		return
	}
	if err := o.h.Write(o.ctx, engine.Batch{Progress: values}); err != nil {
		o.h.w.log.WarnContext(o.ctx, "progress was not written", "step", o.step, "error", err)
	}
}

// close ends the outlet. It returns what is left to be written with the
// checkpoint; when there is none, it is written here.
func (o *outlet) close(checkpoint bool) []engine.Progress {
	o.mu.Lock()
	unused := o.values == nil
	o.closed = true
	o.mu.Unlock()
	if unused {
		return nil
	}
	if !checkpoint {
		o.flush()
	}
	o.writing.Lock() // what is under way comes first
	defer o.writing.Unlock()
	return o.take(true)
}

func (o *outlet) take(last bool) (values []engine.Progress) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.due != nil && last {
		o.due.Stop()
	}
	o.due = nil
	for _, name := range slices.Sorted(maps.Keys(o.values)) {
		values = append(values, engine.Progress{Name: name, Value: o.values[name]})
	}
	clear(o.values)
	return values
}
