package broker

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stepward/stepward/audit"
)

// lease is what a store gave out until it is told otherwise.
type lease struct {
	Scheme string    `json:"scheme"`
	ID     string    `json:"id"`
	Name   string    `json:"name"`            // of the secret
	Until  time.Time `json:"until"`           // its store was asked to have it end by itself then
	State  string    `json:"state,omitempty"` // what came of asking for its end; empty: nobody was asked
}

// What came of asking for the end of leases: see stepward.issue.
const (
	leaseHeld        = "held"
	leasePending     = "pending"
	leaseRevoked     = "revoked"
	leaseUnsupported = "unsupported"
)

// stateOf is that of all leases of an envelope, and whether all are over, as far as a broker can do anything about it.
func stateOf(leases []lease) (state string, over bool) {
	state = leaseRevoked
	rank := map[string]int{leaseRevoked: 0, leaseUnsupported: 1, leaseHeld: 2, leasePending: 3}
	for _, l := range leases {
		if l.State == "" {
			l.State = leaseHeld
		}
		if rank[l.State] > rank[state] {
			state = l.State
		}
	}
	return state, rank[state] < rank[leaseHeld]
}

// How often the broker looks for what nobody has closed, and for leases that are not over; and how many leases of one
// store are ended at a time.
var sweepEvery = 5 * time.Second

const leasesAtOnce = 4

// wake has leases ended soon.
func (b *broker) wake() {
	select {
	case b.closed <- struct{}{}:
	default:
	}
}

// sweep closes what is left open by workers that are gone, until ctx is done.
func (b *broker) sweep(ctx context.Context) { b.regularly(ctx, nil, b.closeLeft) }

// endings ends leases, until ctx is done. No store that hangs is in the way of sweep.
func (b *broker) endings(ctx context.Context) { b.regularly(ctx, b.closed, b.endLeases) }

func (b *broker) regularly(ctx context.Context, wake <-chan struct{}, f func(context.Context) error) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		if err := f(ctx); err != nil && ctx.Err() == nil {
			b.Logger.WarnContext(ctx, "what was issued could not be looked through", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-wake:
		}
	}
}

func (b *broker) closeLeft(ctx context.Context) error {
	var n int
	err := b.Pool.QueryRow(ctx, b.q.IssueSweep, b.actor).Scan(&n)
	if n > 0 {
		b.wake()
	}
	return err
}

// due is an envelope whose leases are to be ended.
type due struct {
	ID, Leases []byte
	State      string
	Long       bool // for minutes
}

func (d due) about() string { return "leases " + hex.EncodeToString(d.ID) }

// turns are the places in which stores are asked, and until when anybody is.
type turns struct {
	begin  context.Context //nolint:containedctx // of the turn
	places map[string]chan struct{}
}

// endLeases gives what was closed a turn. Nobody is asked later than Timeout after its begin: what one store that hangs was not
// asked for by then has another turn, after that of others'.
func (b *broker) endLeases(ctx context.Context) error {
	rows, err := b.Pool.Query(ctx, b.q.IssueLeases)
	if err != nil {
		return err
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[due])
	if err != nil {
		return err
	}
	begin, cancel := context.WithTimeout(ctx, b.Timeout)
	defer cancel()
	t := turns{begin, map[string]chan struct{}{}}
	for scheme := range b.Stores {
		t.places[scheme] = make(chan struct{}, leasesAtOnce)
	}
	errs := make([]error, len(all))
	var each sync.WaitGroup
	for i, d := range all {
		each.Go(func() { errs[i] = b.endOf(ctx, t, d) })
	}
	each.Wait()
	return errors.Join(errs...)
}

// endOf ends the leases of one envelope, and records what came of it.
func (b *broker) endOf(ctx context.Context, t turns, d due) error {
	plain, err := b.root.open(d.Leases, d.about())
	var leases []lease
	if err == nil {
		err = json.Unmarshal(plain, &leases)
		clear(plain)
	}
	if err != nil {
		if !d.Long || d.State != leaseHeld {
			return nil // they are another broker's
		}
		err = errors.New("no broker with the key that it was recorded with has asked for its end")
		return b.asked(ctx, d, d.Leases, leasePending, err, []leaseEvent{d.event(leasePending, lease{}, err)})
	}
	var events []leaseEvent
	var last error
	turn := false
	for i := range leases {
		l := &leases[i]
		if l.State == leaseRevoked || l.State == leaseUnsupported {
			continue
		}
		state, err := b.tell(ctx, t, *l)
		if state == "" {
			continue
		}
		turn = true
		if err != nil {
			last = err
		}
		if state != l.State {
			events = append(events, d.event(state, *l, err))
			l.State = state
		}
	}
	if !turn {
		return nil
	}
	state, over := stateOf(leases)
	var left []byte
	if !over {
		if plain, err = json.Marshal(leases); err != nil {
			return err
		}
		left = b.root.seal(plain, d.about())
		clear(plain)
	}
	return b.asked(ctx, d, left, state, last, events)
}

// A leaseEvent is one that is recorded with what came of asking.
type leaseEvent struct {
	Kind   string         `json:"kind"`
	Detail map[string]any `json:"detail"`
}

func (d due) event(state string, l lease, err error) leaseEvent {
	e := leaseEvent{map[string]string{leaseRevoked: audit.LeaseRevoked, leasePending: audit.LeasePending, leaseUnsupported: audit.LeaseUnsupported}[state],
		map[string]any{"envelope": hex.EncodeToString(d.ID)}}
	if l.Name != "" {
		e.Detail["name"], e.Detail["store"] = l.Name, l.Scheme
		if state != leaseRevoked {
			e.Detail["until"] = l.Until.UTC().Truncate(time.Second)
		}
	}
	if err != nil {
		e.Detail["error"] = recordable(err)
	}
	return e
}

// recordable is the text of an error as Postgres takes one.
func recordable(err error) string {
	return strings.ToValidUTF8(strings.ReplaceAll(fmt.Sprintf("%.1000s", err.Error()), "\x00", ""), "\uFFFD")
}

// asked records what came of asking for the end of leases. Where that fails, they are asked for again.
func (b *broker) asked(ctx context.Context, d due, left []byte, state string, last error, events []leaseEvent) error {
	text := ""
	if last != nil {
		text = recordable(last)
	}
	body, err := json.Marshal(events)
	if err != nil {
		return err
	}
	if events == nil {
		body = []byte("[]")
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), b.Timeout)
	defer cancel()
	_, err = b.Pool.Exec(ctx, b.q.IssueReleased, d.ID, d.Leases, left, state, text, b.actor, string(body))
	return err
}

// release ends leases of what has not left.
func (b *broker) release(ctx context.Context, leases []lease) {
	t := turns{context.WithoutCancel(ctx), map[string]chan struct{}{}}
	for _, l := range leases {
		t.places[l.Scheme] = make(chan struct{}, 1)
		b.tell(ctx, t, l) //nolint:errcheck // it is logged, and there is no record that it could be in
	}
}

// tell has a store end a lease, and returns its state then, or none if it had no turn.
func (b *broker) tell(ctx context.Context, t turns, l lease) (state string, err error) {
	store := b.Stores[l.Scheme]
	r, ok := store.(Revoker)
	switch {
	case store == nil:
		return leasePending, fmt.Errorf("this broker has no store for %s://", l.Scheme)
	case !ok:
		return leaseUnsupported, nil
	}
	select {
	case t.places[l.Scheme] <- struct{}{}:
		defer func() { <-t.places[l.Scheme] }()
	case <-t.begin.Done():
	}
	if t.begin.Err() != nil {
		return "", nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), b.Timeout)
	defer cancel()
	if err := end(ctx, r, l.ID); err != nil {
		b.Logger.Warn("a lease was not ended at its source", "name", l.Name, "store", l.Scheme, "error", err)
		return leasePending, err
	}
	return leaseRevoked, nil
}

// end has a store end a lease, whatever it does.
func end(ctx context.Context, r Revoker, id string) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = panicked(p)
		}
		if err != nil {
			err = outward(err, []byte(id))
		}
	}()
	return r.Revoke(ctx, id)
}
