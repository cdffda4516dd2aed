package identity

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/stepward/stepward/internal/envname"
	"github.com/stepward/stepward/internal/runid"
	"github.com/stepward/stepward/internal/within"
)

// ErrRevoked reports what is revoked, and stays so.
var ErrRevoked = errors.New("identity: revoked")

// Revoke takes something back. Saying the same twice is no error and changes
// nothing; a lower State than what was said before is [ErrRevoked]. What enqueues
// meanwhile is waited for, two seconds at most: every enqueue that begins after Revoke
// has returned is refused, and one of before is stopped at its start. Other
// errors: a *[ProfileError] for what nothing can be called, and [ErrNotFound] for a profile, or a run, that the tenant
// has not. Keys, workflows and workers need not be there yet, nor versions.
func (p *Profiles) Revoke(ctx context.Context, r Revocation) error {
	if reason := r.problem(); reason != "" {
		return &ProfileError{Reason: "revoke " + r.Kind + " " + r.Target + ": " + reason}
	}
	return p.change(ctx, "revoke", func(tx pgx.Tx) error {
		if err := p.exclude(ctx, tx, r.Tenant); err != nil {
			return err
		}
		if r.Kind == KindRun {
			if err := p.findRun(ctx, tx, &r); err != nil {
				return err
			}
		}
		detail := map[string]any{"kind": r.Kind, "target": r.Target, "version": r.Version, "state": r.State.String(), "reason": r.Reason}
		if r.Kind == KindProfile {
			have, err := p.get(ctx, tx, r.Tenant, r.Target)
			if err != nil {
				return err
			}
			if len(have) == 0 {
				return fmt.Errorf("%w: %s of %s", ErrNotFound, r.Target, Scope{Tenant: r.Tenant})
			}
			r.Target = strconv.FormatInt(have[0].ID, 10)
		}
		before, err := p.revocations(ctx, tx, r.Tenant, r.Kind, r.Target)
		if err != nil {
			return err
		}
		var last Revocation // of this; of a key, since its last rotation
		for _, b := range before {
			if b.State == Active {
				last = Revocation{}
			} else if b.Version == r.Version {
				last = b
			}
		}
		if last.State > r.State {
			return fmt.Errorf("%w: %s %s is %v already", ErrRevoked, r.Kind, r.Target, last.State)
		}
		if last.State == r.State && last.Drain == r.Drain {
			return nil
		}
		if err := p.record(ctx, tx, r); err != nil {
			return err
		}
		return p.event(ctx, tx, "identity.revoked", r.Tenant, detail)
	})
}

// Rotate says that a version of a key is current from now on. It is needed for a
// key that was revoked, which is of use again in this version; else it is for the record,
// as stores know which version is current. No store is asked: a step to which one gives another version of
// such a key is refused, and not as revoked. A version that was revoked, or that Rotate
// had named before its key was, is [ErrRevoked]; which others stores gave before, it does not know.
func (p *Profiles) Rotate(ctx context.Context, tenant, key, ver string) error {
	if reason := envname.Problem(key, false); reason != "" {
		return &ProfileError{Key: key, Reason: reason}
	}
	if !version().MatchString(ver) || badText(tenant) != "" {
		return &ProfileError{Key: key, Reason: "bad version: want 1 to 200 visible ASCII characters, of a tenant"}
	}
	return p.change(ctx, "rotate "+key, func(tx pgx.Tx) error {
		r := Revocation{Tenant: tenant, Kind: KindKey, Target: key, Version: ver}
		if _, err := tx.Exec(ctx, p.q.IdentityHold, tenant); err != nil {
			return err
		}
		versions, err := p.revocations(ctx, tx, tenant, KindVersion, key)
		if err != nil {
			return err
		}
		for _, v := range versions {
			if within.Alike(v.Version, ver) && v.State >= Soft {
				return fmt.Errorf("%w: version %s of %s", ErrRevoked, ver, key)
			}
		}
		before, err := p.revocations(ctx, tx, tenant, r.Kind, key)
		if err != nil {
			return err
		}
		was, current := false, ""
		for _, b := range before {
			if b.State == Active {
				was, current = was || within.Alike(b.Version, ver), b.Version
			} else if was && b.State >= Soft {
				return fmt.Errorf("%w: version %s of %s", ErrRevoked, ver, key)
			} else {
				current = ""
			}
		}
		if current == ver {
			return nil
		}
		if err := p.record(ctx, tx, r); err != nil {
			return err
		}
		return p.event(ctx, tx, "key.rotated", tenant, map[string]any{"key": key, "version": ver})
	})
}

// findRun sees that the run to revoke is there, and has it named as others name it.
func (p *Profiles) findRun(ctx context.Context, tx pgx.Tx, r *Revocation) error {
	id, _ := runid.Read(r.Target)
	r.Target = runid.Text(id)
	var tenant string
	err := tx.QueryRow(ctx, p.q.RunTenant, id).Scan(&tenant)
	if errors.Is(err, pgx.ErrNoRows) || err == nil && r.Tenant != "" && r.Tenant != tenant {
		return fmt.Errorf("%w: %s of %s", ErrNotFound, r.Target, Scope{Tenant: r.Tenant})
	}
	return err
}

// revocations returns those of one target, oldest first.
func (p *Profiles) revocations(ctx context.Context, tx pgx.Tx, tenant, kind, target string) ([]Revocation, error) {
	rows, err := tx.Query(ctx, p.q.RevocationOf, tenant, kind, target)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, scanRevocation)
}

func scanRevocation(row pgx.CollectableRow) (r Revocation, err error) {
	err = row.Scan(&r.Tenant, &r.Epoch, &r.Kind, &r.Target, &r.Version, &r.State, &r.Drain, &r.At, &r.Actor, &r.Reason)
	return r, err
}

// record counts the tenant's epoch up, whose row is held until the end of the
// transaction.
func (p *Profiles) record(ctx context.Context, tx pgx.Tx, r Revocation) error {
	if err := tx.QueryRow(ctx, p.q.IdentityEpoch, r.Tenant).Scan(&r.Epoch); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, p.q.RevocationInsert, r.Tenant, r.Epoch, r.Kind, r.Target, r.Version, r.State, r.Drain, p.actor, r.Reason)
	return err
}

// exclude lets nobody else change what is revoked of a tenant, and waits for the
// enqueues that have looked at it; none looks until the transaction ends. A
// transaction of an application may take its time, and a revocation must not: what that
// enqueues counts as enqueued before.
func (p *Profiles) exclude(ctx context.Context, tx pgx.Tx, tenant string) error {
	err := pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, p.q.IdentityPatience); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, p.q.IdentityLock, tenant)
		return err
	})
	if late, ok := errors.AsType[*pgconn.PgError](err); ok && late.Code == "55P03" {
		err = nil
	}
	if err == nil {
		_, err = tx.Exec(ctx, p.q.IdentityHold, tenant)
	}
	return err
}
