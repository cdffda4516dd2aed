package identity

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/stepward/stepward/internal/db"
	"github.com/stepward/stepward/internal/runid"
)

// A View is what counts at some places, as one moment has it.
type View struct {
	Profiles    []Profile // more than apply at one place: see Resolve
	Revocations Revocations

	Engine   Engine   // for Start: without it, what a policy applies to is denied
	recalled []string // policies: see Recall
}

// sender is a pool, or a transaction.
type sender interface {
	SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults
}

// Load reads what counts at places. Of runs and workers, those are looked at that
// are named; keys are those that are said with runs. It is for the broker and for what
// enqueues: nobody else has a q.
func Load(ctx context.Context, tx sender, q *db.Queries, places []Scope, runs []int64, workers []string, keys ...map[string]Key) (View, error) {
	return load(ctx, tx, q, &pgx.Batch{}, places, runs, workers, keys)
}

// LoadToBind is Load for a transaction that adds runs: what would be revoked from here on
// waits for it. The statements that read have new snapshots, and so see what was revoked
// before; in a transaction of an application that has but one, what that sees counts, and the
// start of a step asks again.
func LoadToBind(ctx context.Context, tx pgx.Tx, q *db.Queries, places []Scope, keys []map[string]Key) (View, error) {
	tenants := []string{}
	for _, p := range places {
		tenants = append(tenants, p.Tenant)
	}
	b := &pgx.Batch{}
	b.Queue(q.IdentityShare, tenants)
	return load(ctx, tx, q, b, places, nil, nil, keys)
}

// load sends statements, after those that are in the batch, in one go.
func load(ctx context.Context, tx sender, q *db.Queries, b *pgx.Batch, places []Scope, runs []int64, workers []string, keys []map[string]Key) (v View, err error) {
	tenants, projects, environments, workflows := []string{}, []string{}, []string{}, []string{}
	for _, p := range places {
		tenants, projects = append(tenants, p.Tenant), append(projects, p.Project)
		environments, workflows = append(environments, p.Environment), append(workflows, p.Workflow)
	}
	for _, of := range keys {
		for _, k := range of {
			if k.Ref != "" { // any profile of the tenant may have it
				projects, environments, workflows = nil, nil, nil
			}
		}
	}
	ids := []string{}
	for _, id := range runs {
		ids = append(ids, runid.Text(id))
	}
	before := b.Len()
	b.Queue(q.ProfileApply, tenants, projects, environments, workflows)
	b.Queue(q.RevocationApply, tenants, ids, append([]string{}, workers...))
	results := tx.SendBatch(ctx, b)
	defer func() { err = errors.Join(err, results.Close()) }()
	for range before {
		if _, err := results.Exec(); err != nil {
			return v, err
		}
	}
	rows, err := results.Query()
	if err != nil {
		return v, err
	}
	if v.Profiles, err = pgx.CollectRows(rows, scanProfile); err != nil {
		return v, err
	}
	if rows, err = results.Query(); err != nil {
		return v, err
	}
	v.Revocations.Epochs = make(map[string]int64)
	var r Revocation
	var epoch int64
	_, err = pgx.ForEachRow(rows, []any{&r.Tenant, &epoch, &r.Epoch, &r.Kind, &r.Target, &r.Version, &r.State, &r.Drain}, func() error {
		v.Revocations.Epochs[r.Tenant] = epoch
		if r.Kind != "" {
			v.Revocations.rows = append(v.Revocations.rows, r)
		}
		return nil
	})
	return v, err
}

// State returns the state of a use now, and which revocation says so.
func (p *Profiles) State(ctx context.Context, u Use) (State, Revocation, error) {
	v, err := Load(ctx, p.pool, p.q, []Scope{{Tenant: u.Tenant, Workflow: u.Workflow}}, []int64{u.Run}, u.Worker)
	if err != nil {
		return Hard, Revocation{}, fmt.Errorf("identity: read revocations: %w", err)
	}
	s, why := v.Revocations.Of(u)
	return s, why, nil
}
