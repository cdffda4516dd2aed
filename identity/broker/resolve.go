package broker

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/stepward/stepward/identity"
)

// grant is a secret, or a knob, that an attempt gets.
type grant struct {
	name     string
	key      identity.Key
	from     identity.Origin
	required bool
}

// bound is what an attempt gets, and what that was decided by.
type bound struct {
	grants      []grant
	digest      [32]byte // of what the run was bound to
	revocations int64    // the tenant's epoch
}

// resolve says what an attempt gets: of what its step lists, what the profiles say now.
func (b *broker) resolve(ctx context.Context, f facts) (bound, error) {
	place := identity.Scope{Tenant: f.tenant, Workflow: f.workflow, Step: f.def.Name}
	v, err := b.view(ctx, f, place)
	if err != nil {
		return bound{}, err
	}
	out := bound{revocations: v.Revocations.Epochs[f.tenant]}
	if state, why := v.Revocations.Of(f.use()); state >= identity.Soft {
		return bound{}, revokedBy("", why)
	}
	all := identity.Resolve(v.Profiles, place, nil)
	for _, asked := range f.def.Secrets {
		name, optional := strings.CutSuffix(asked, "?")
		g, err := grantOf(name, !optional, all, v.Revocations, f)
		if err != nil {
			return bound{}, err
		}
		if g != nil {
			out.grants = append(out.grants, *g)
		}
	}
	return out, nil
}

// grantOf returns what is granted of a name; nil: nothing, and the step can do without.
func grantOf(name string, required bool, all map[string]identity.Resolved, revocations identity.Revocations, f facts) (*grant, error) {
	r, ok := all[name]
	if !ok {
		r = identity.Resolved{Name: name, Err: &identity.KeyError{Step: f.def.Name, Key: name, Err: identity.ErrMissing}}
	}
	required = required || r.Key.Required
	if r.Err != nil {
		if errors.Is(r.Err, identity.ErrMissing) {
			if !required {
				return nil, nil
			}
			return nil, refuse(reasonUnresolved, name, "broker: %w", r.Err)
		}
		return nil, refuse(reasonDenied, name, "broker: %w", r.Err)
	}
	use := f.use()
	use.Key, use.Version, use.Profiles = name, r.Key.Version, []int64{r.From.ID}
	if state, why := revocations.Of(use); state >= identity.Soft {
		return nil, revokedBy(name, why)
	}
	return &grant{name: name, key: r.Key, from: r.From, required: required}, nil
}

// view reads what counts for an attempt, as one moment has it.
func (b *broker) view(ctx context.Context, f facts, place identity.Scope) (v identity.View, err error) {
	err = pgx.BeginTxFunc(ctx, b.Pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		v, err = identity.Load(ctx, tx, b.q, []identity.Scope{place}, []int64{f.run}, f.workers())
		return err
	})
	if err != nil {
		return identity.View{}, fmt.Errorf("broker: read profiles and what is revoked: %w", err)
	}
	return v, nil
}

// workers are the names under which the worker of an attempt can be revoked.
func (f facts) workers() []string { return []string{f.worker, fmt.Sprintf("%x", uint64(f.session))} }

// use is what is asked about when no secret is.
func (f facts) use() identity.Use {
	return identity.Use{Tenant: f.tenant, Workflow: f.workflow, Run: f.run, Worker: f.workers()}
}

func revokedBy(name string, why identity.Revocation) *refusal {
	what := why.Kind
	if why.Target != "" {
		what += " " + why.Target
	}
	if name != "" {
		name += ": "
	}
	return refuse(reasonRevoked, strings.TrimSuffix(name, ": "), "broker: %s%s is revoked (%v)", name, what, why.State)
}

// digest is that of what the run was bound to.
func (b *broker) digest(ctx context.Context, f facts) ([32]byte, error) { return [32]byte{}, nil }

// revoked returns the epoch of what is revoked, and what must not be used any more of what
// was issued.
func (b *broker) revoked(ctx context.Context, f facts, pins []pin) (int64, string, error) {
	v, err := b.view(ctx, f, identity.Scope{Tenant: f.tenant, Workflow: f.workflow, Step: f.def.Name})
	if err != nil {
		return 0, "", err
	}
	uses := []identity.Use{f.use()}
	for _, p := range pins {
		use := f.use()
		use.Key, use.Version, use.Profiles = p.Name, p.Version, []int64{p.From.ID}
		uses = append(uses, use)
	}
	for _, use := range uses {
		if state, why := v.Revocations.Of(use); state >= identity.Hard {
			return v.Revocations.Epochs[f.tenant], revokedBy(use.Key, why).Error(), nil
		}
	}
	return v.Revocations.Epochs[f.tenant], "", nil
}
