package binding

import (
	"context"
	"encoding/hex"
	"errors"

	"github.com/jackc/pgx/v5"

	"github.com/stepward/stepward/identity"
	"github.com/stepward/stepward/internal/db"
)

// A View is what counts at some places, as one moment has it.
type View struct {
	Profiles    []identity.Profile // more than apply at one place: see Resolve
	Revocations Revocations

	Engine   identity.Engine // for Start: without it, what a policy applies to is denied
	recalled []string        // policies: see Recall
}

// sender is a pool, or a transaction.
type sender interface {
	SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults
}

// Load reads what counts at places, and for uses: what is revoked of anything else is not read, so that it costs
// nothing, and [Revocations.Of] permits no use that was not among them. Without any, it is of every key. keys are those that
// are said with runs.
func Load(ctx context.Context, tx sender, q *db.Queries, places []identity.Scope, uses []Use, keys ...map[string]identity.Key) (View, error) {
	return load(ctx, tx, q, &pgx.Batch{}, places, uses, keys)
}

// LoadToBind is Load for a transaction that adds runs: what would be revoked from here on
// waits for it. The statements that read have new snapshots, and so see what was revoked
// before; in a transaction of an application that has but one, what that sees counts, and the
// start of a step asks again.
func LoadToBind(ctx context.Context, tx pgx.Tx, q *db.Queries, places []identity.Scope, uses []Use, keys []map[string]identity.Key) (View, error) {
	tenants := []string{}
	for _, p := range places {
		tenants = append(tenants, p.Tenant)
	}
	b := &pgx.Batch{}
	b.Queue(q.IdentityShare, tenants)
	return load(ctx, tx, q, b, places, uses, keys)
}

// load sends statements, after those that are in the batch, in one go.
func load(ctx context.Context, tx sender, q *db.Queries, b *pgx.Batch, places []identity.Scope, uses []Use, keys []map[string]identity.Key) (v View, err error) {
	tenants, projects, environments, workflows := []string{}, []string{}, []string{}, []string{}
	of := make(asked)
	for _, p := range places {
		tenants, projects = append(tenants, p.Tenant), append(projects, p.Project)
		environments, workflows = append(environments, p.Environment), append(workflows, p.Workflow)
		of.add(Use{Workflow: p.Workflow})
	}
	for _, said := range keys {
		for _, k := range said {
			if k.Ref != "" { // any profile of the tenant may have it
				projects, environments, workflows = nil, nil, nil
			}
		}
	}
	for _, u := range uses {
		of.add(u)
	}
	names := of.of(identity.KindKey)
	switch {
	case uses == nil:
		of[identity.KindKey] = map[string]bool{anyTarget: true}
	case names == nil: // which would be any
		names = []string{}
	}
	before := b.Len()
	b.Queue(q.ProfileApply, tenants, projects, environments, workflows)
	b.Queue(q.RevocationApply, tenants, of.of(identity.KindRun), of.of(identity.KindWorker), of.of(identity.KindWorkflow), names, of.of(identity.KindProfile), projects, environments, workflows)
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
	if v.Profiles, err = pgx.CollectRows(rows, scan); err != nil {
		return v, err
	}
	if rows, err = results.Query(); err != nil {
		return v, err
	}
	v.Revocations.Epochs = make(map[string]int64)
	var r identity.Revocation
	var epoch int64
	_, err = pgx.ForEachRow(rows, []any{&r.Tenant, &epoch, &r.Epoch, &r.Kind, &r.Target, &r.Version, &r.State, &r.Drain}, func() error {
		v.Revocations.Epochs[r.Tenant] = epoch
		if r.Kind != "" {
			v.Revocations.rows = append(v.Revocations.rows, r)
		}
		return nil
	})
	for _, p := range v.Profiles {
		of.add(Use{Profiles: []int64{p.ID}})
	}
	v.Revocations.asked = of
	return v, err
}

func scan(row pgx.CollectableRow) (p identity.Profile, err error) {
	s := &p.Scope
	var digest []byte
	err = row.Scan(&p.ID, &s.Tenant, &p.Name, &s.Project, &s.Environment, &s.Workflow, &s.Step, &p.Generation, &p.Changed, &p.Actor, &p.Keys, &digest, &p.Policy)
	p.Digest = hex.EncodeToString(digest)
	return p, err
}
