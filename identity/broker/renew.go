package broker

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stepward/stepward/internal/envelope"
	"github.com/stepward/stepward/internal/rpc"
)

// renew answers a challenge of the sandbox of an attempt, and says whether and why this renewal is the
// last.
func (b *broker) renew(ctx context.Context, c claim, challenge []byte) (*rpc.RenewResponse, error) {
	if len(challenge) != len(envelope.Renewal{}.Challenge) {
		return nil, refuse(reasonDenied, "", "broker: a challenge has %d bytes", len(challenge))
	}
	f, err := b.facts(ctx, c)
	if err != nil {
		return nil, err
	}
	id, pins, key, now, err := b.openIssue(ctx, c)
	if err != nil {
		b.changed(ctx, f, err)
		return nil, err
	}
	defer clear(key)
	epoch, revoked, err := b.revoked(ctx, f, pins)
	if err != nil {
		return nil, err
	}
	out := &rpc.RenewResponse{Inject: endpoints(pins)}
	r := envelope.Renewal{Envelope: id, Counter: uint64(now), Challenge: [32]byte(challenge), Epoch: epoch, State: envelope.Renewed}
	if revoked != nil {
		r.State = envelope.Revoked
		out.Revoked, out.Reason = revoked.Error(), revoked.reason
		b.refused(ctx, f, revoked)
		b.endInjection(ctx, id, revoked)
	}
	out.Renewal = r.Encode(key)
	return out, nil
}

// opened records that the envelope of an attempt is open.
func (b *broker) opened(ctx context.Context, c claim) error {
	err := b.Pool.QueryRow(ctx, b.q.IssueOpened, c.args(b.actor)...).Scan(new([]byte))
	if errors.Is(err, pgx.ErrNoRows) {
		return refuse(reasonFenced, "", "broker: nothing was issued to this attempt of this worker")
	}
	return err
}

// close ends what was issued to an attempt.
func (b *broker) close(ctx context.Context, c claim) error {
	rows, err := b.Pool.Query(ctx, b.q.IssueClose, c.args(b.actor)...)
	if err != nil {
		return err
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
	if err != nil {
		return err
	}
	b.wake()
	for _, id := range ids {
		b.endInjection(ctx, envelope.ID(id), errors.New("broker: it is closed"))
	}
	return nil
}

// wake has leases ended soon.
func (b *broker) wake() {
	select {
	case b.closed <- struct{}{}:
	default:
	}
}

// sweepEvery is how often the broker looks for what nobody has closed.
const sweepEvery = 5 * time.Second

// sweep closes what is left open by workers that are gone, and ends leases, until ctx is done.
func (b *broker) sweep(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		if err := b.sweepOnce(ctx); err != nil && ctx.Err() == nil {
			b.Logger.WarnContext(ctx, "what was issued could not be looked through", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-b.closed:
		}
	}
}

func (b *broker) sweepOnce(ctx context.Context) error {
	var n int
	if err := b.Pool.QueryRow(ctx, b.q.IssueSweep, b.actor).Scan(&n); err != nil {
		return err
	}
	type due struct{ ID, Leases []byte }
	rows, err := b.Pool.Query(ctx, b.q.IssueLeases)
	if err != nil {
		return err
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[due])
	if err != nil {
		return err
	}
	for _, d := range all {
		plain, err := b.root.open(d.Leases, "leases "+hex.EncodeToString(d.ID))
		var leases []lease
		if err == nil {
			err = json.Unmarshal(plain, &leases)
			clear(plain)
		}
		done := err == nil && b.release(ctx, leases) // another broker's are not, and go to the end of the queue
		if _, err := b.Pool.Exec(ctx, b.q.IssueReleased, d.ID, done); err != nil {
			return err
		}
	}
	return nil
}

// release tells stores that leases are over. It reports whether they know.
func (b *broker) release(ctx context.Context, leases []lease) bool {
	all := true
	for _, l := range leases {
		store := b.Stores[l.Scheme]
		r, ok := store.(Revoker)
		if !ok {
			all = all && store != nil // who cannot end one never will: it runs out
			continue
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), b.Timeout)
		err := end(ctx, r, l.ID)
		cancel()
		if err != nil {
			all = false
			b.Logger.Warn("a lease was not ended at its source", "store", l.Scheme, "error", err)
		}
	}
	return all
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
