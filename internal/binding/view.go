package binding

import (
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/stepward/stepward/identity"
	"github.com/stepward/stepward/internal/db"
)

// A View is what counts at some places, as one moment has it.
type View struct {
	Profiles    []identity.Profile // more than apply at one place: see Resolve
	Revocations Revocations

	Engine   identity.Engine // for Start: without it, what a policy applies to is denied
	recalled []string        // texts of policies: see Recall
}

// sender is a pool, or a transaction.
type sender interface {
	SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults
}

// Load reads what counts at places, and for uses: what is revoked of anything else is not read, so that it costs
// nothing, and [Revocations.Of] permits no use that was not among them. Without any, it is of every key. keys are those that
// are said with runs.
func Load(ctx context.Context, tx sender, q *db.Queries, places []identity.Scope, uses []Use, keys ...map[string]identity.Key) (View, error) {
	b := &pgx.Batch{}
	v := ask(b, q, places, uses, keys)
	err := tx.SendBatch(ctx, b).Close()
	return *v, err
}

// AskToBind is Load for a transaction that adds runs: what would be revoked from here on
// waits for it. It asks when the batch is sent, and the view is there when that is closed. The statements that read
// have new snapshots, and so see what was revoked before; in a transaction of an application that has but one, what
// that sees counts, and the start of a step asks again.
func AskToBind(b *pgx.Batch, q *db.Queries, places []identity.Scope, uses []Use, keys []map[string]identity.Key) *View {
	tenants := []string{}
	for _, p := range places {
		tenants = append(tenants, p.Tenant)
	}
	b.Queue(q.IdentityShare, tenants)
	return ask(b, q, places, uses, keys)
}

func ask(b *pgx.Batch, q *db.Queries, places []identity.Scope, uses []Use, keys []map[string]identity.Key) *View {
	tenants, projects, environments, workflows := []string{}, []string{}, []string{}, []string{}
	of := make(asked)
	for _, p := range places {
		tenants, projects = add(tenants, p.Tenant), add(projects, p.Project)
		environments, workflows = add(environments, p.Environment), add(workflows, p.Workflow)
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
	kinds, targets := of.pairs()
	if uses == nil {
		of[identity.KindKey] = map[string]bool{anyTarget: true}
	}
	v := &View{}
	v.Revocations.asked = of
	b.Queue(q.IdentityApply, tenants, projects, environments, workflows, kinds, targets, uses == nil).Query(v.read)
	return v
}

// add adds what a list has not.
func add(list []string, s string) []string {
	if slices.Contains(list, s) {
		return list
	}
	return append(list, s)
}

func (v *View) read(rows pgx.Rows) error {
	v.Revocations.Epochs = make(map[string]int64)
	var p identity.Profile
	var r identity.Revocation
	var keys, digest []byte
	s := &p.Scope
	to := []any{&s.Tenant, &p.ID, &p.Name, &s.Project, &s.Environment, &s.Workflow, &s.Step, &keys, &digest, &r.Epoch, &r.State, &r.Drain}
	_, err := pgx.ForEachRow(rows, to, func() error {
		if keys != nil {
			p.Keys, p.Digest = nil, hex.EncodeToString(digest)
			v.Profiles = append(v.Profiles, p)
			v.Revocations.asked.add(Use{Profiles: []int64{p.ID}})
			return json.Unmarshal(keys, &v.Profiles[len(v.Profiles)-1].Keys)
		}
		v.Revocations.Epochs[s.Tenant] = p.ID
		if p.Name != "" {
			r.Tenant, r.Kind, r.Target, r.Version = s.Tenant, p.Name, s.Project, s.Environment
			v.Revocations.rows = append(v.Revocations.rows, r)
		}
		return nil
	})
	slices.SortFunc(v.Revocations.rows, func(a, b identity.Revocation) int {
		return cmp.Or(cmp.Compare(a.Tenant, b.Tenant), cmp.Compare(a.Epoch, b.Epoch))
	})
	return err
}
