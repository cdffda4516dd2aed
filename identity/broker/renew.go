package broker

import (
	"context"
	"errors"

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
