package identity

import (
	"context"
	"fmt"
	"strconv"

	"github.com/jackc/pgx/v5"

	"github.com/stepward/stepward/internal/db"
)

// A View is what counts at some places, as one moment has it.
type View struct {
	Profiles    []Profile // more than apply at one place: see Resolve
	Revocations Revocations
}

// Load reads what counts at places. Of runs and workers, those are looked at that
// are named; keys are those that are said with runs. It is for the broker and for what
// enqueues: nobody else has a q.
func Load(ctx context.Context, tx interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}, q *db.Queries, places []Scope, runs []int64, workers []string, keys ...map[string]Key) (v View, err error) {
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
	rows, err := tx.Query(ctx, q.ProfileApply, tenants, projects, environments, workflows)
	if err != nil {
		return v, err
	}
	if v.Profiles, err = pgx.CollectRows(rows, scanProfile); err != nil {
		return v, err
	}
	ids := []string{}
	for _, id := range runs {
		ids = append(ids, strconv.FormatInt(id, 10))
	}
	if rows, err = tx.Query(ctx, q.RevocationApply, tenants, ids, append([]string{}, workers...)); err != nil {
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
