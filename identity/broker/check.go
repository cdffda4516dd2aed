package broker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stepward/stepward/identity"
	"github.com/stepward/stepward/internal/launch"
	"github.com/stepward/stepward/workflow"
)

// check refuses an attempt that this broker gives nothing, whatever sandbox it gets of a backend: another worker, or its
// broker, may do better. What else may be wrong is for issue to find, which knows the sandbox, and what the stores have.
func (b *broker) check(ctx context.Context, c claim, step, backend string) error {
	f := facts{claim: c, key: step}
	var steps []byte
	err := b.Pool.QueryRow(ctx, b.q.IssueCheck, c.run, c.epoch, c.session).Scan(&f.tenant, &f.workflow, &f.version, &steps, &f.worker)
	if errors.Is(err, pgx.ErrNoRows) {
		return refuse(reasonFenced, "", "broker: run %v is not of this worker, or is over", workflow.RunID(c.run))
	}
	if err != nil {
		return fmt.Errorf("broker: read what is on record: %w", err)
	}
	if err := f.define(steps); err != nil {
		return err
	}
	err = b.lacks(ctx, f, backend)
	r, refused := errors.AsType[*refusal](err)
	if !refused {
		return err
	}
	switch r.reason {
	case reasonLevel, reasonStore, reasonWorker:
		if err := b.rates.take(c.run, time.Now()); err != nil {
			return err
		}
		b.refused(ctx, f, r)
		return r
	}
	return nil
}

// lacks resolves what an attempt would get at the highest level that it could have here.
func (b *broker) lacks(ctx context.Context, f facts, backend string) error {
	at := standingOf(ctx)
	switch {
	case at.level < identity.L1:
	case b.Attestors[backend] != nil, backend == launch.Name && b.Sandboxes != nil:
		at = standing{level: identity.L2}
	default:
		at.why = "the broker has no attestor for sandboxes of " + backend
	}
	binding, again, err := b.binding(ctx, f)
	if err != nil {
		return err
	}
	bound, err := b.resolve(ctx, f, binding, again, at.level)
	if err == nil {
		err = bound.demand(at, nil)
	}
	for _, g := range bound.grants {
		if err == nil && g.key.Ref != "" {
			_, _, err = b.storeOf(g)
		}
	}
	return err
}
