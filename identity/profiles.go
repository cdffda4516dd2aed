package identity

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/stepward/stepward/internal/db"
	"github.com/stepward/stepward/internal/within"
)

// Options configures [New].
type Options struct {
	Schema string // as workflow.ClientConfig.Schema
	Actor  string // who makes the changes, as their audit events say; defaults to "client"

	// Engine reads policies: cedar.Parse. Without it, Put refuses a profile that has one,
	// and package explain says that it cannot tell.
	Engine Engine
}

// Profiles administers what Postgres has of profiles and of what is revoked. Each
// change and its audit event are one transaction, and durable on return. It is safe for
// concurrent use, and needs no closing.
type Profiles struct {
	pool   *pgxpool.Pool
	q      *db.Queries
	actor  string
	engine Engine
}

// New returns the profiles of a schema. It does not connect.
func New(pool *pgxpool.Pool, o Options) (*Profiles, error) {
	if pool == nil {
		return nil, errors.New("identity: a pool is required")
	}
	q, err := db.New(o.Schema)
	if err != nil {
		return nil, err
	}
	return (&Profiles{pool: pool, q: q, actor: "client", engine: o.Engine}).As(o.Actor), nil
}

// As returns the same profiles, for changes by somebody else.
func (p *Profiles) As(actor string) *Profiles {
	c := *p
	if actor != "" {
		c.actor = actor
	}
	return &c
}

// What a change may fail with.
var (
	// ErrNotFound reports a profile, or a run, that is not there.
	ErrNotFound = errors.New("identity: not found")

	// ErrConflict reports that somebody else changed the profile, or made one of its
	// name: read it again.
	ErrConflict = errors.New("identity: the profile was changed meanwhile")
)

// Put makes a profile, with Generation 0, or changes the one that [Profiles.Get] has
// returned with this Generation. One that is there already and says the same is no
// conflict, and not changed. What a change takes away, by a Deny or as a key that is gone, attempts that start later do not
// get; what runs keeps it, but for keys with Inject: [Profiles.Revoke] stops that, and so does [Profiles.Delete]. Errors: a *[ProfileError], which says where in its Policy,
// [ErrConflict], and a *[KeyError] with [ErrAmbiguous] when another profile names one of the Keys equally narrowly, and neither denies it.
func (p *Profiles) Put(ctx context.Context, pr Profile) error {
	if err := p.check(pr); err != nil {
		return err
	}
	keys, err := json.Marshal(pr.Keys)
	if err != nil {
		return err
	}
	return p.change(ctx, "put profile "+pr.Name, func(tx pgx.Tx) error {
		s := pr.Scope
		if _, err := tx.Exec(ctx, p.q.ProfileLock, s.Tenant); err != nil {
			return err
		}
		old, err := p.get(ctx, tx, s.Tenant, pr.Name)
		if err != nil {
			return err
		}
		digest := digestOf(pr.Policy)
		args := []any{s.Tenant, pr.Name, s.Project, s.Environment, s.Workflow, s.Step, p.actor, keys, digest, pr.Policy}
		sql, before := p.q.ProfileInsert, (*Profile)(nil)
		if pr.Generation != 0 {
			sql, args = p.q.ProfileUpdate, append(args, pr.Generation)
			if len(old) == 1 && old[0].Generation == pr.Generation {
				before = &old[0]
			}
		}
		if (before != nil || pr.Generation == 0) && (len(old) == 0 || !old[0].same(pr)) {
			if err := p.rivals(ctx, tx, pr); err != nil {
				return err
			}
			tag, err := tx.Exec(ctx, sql, args...)
			if err != nil {
				return err
			}
			if tag.RowsAffected() == 1 {
				changes, more, err := changesOf(before, pr)
				if err != nil {
					return err
				}
				detail := map[string]any{"profile": pr.Name, "scope": s, "generation": pr.Generation + 1, "changed": changed(before, pr), "changes": changes}
				if more > 0 {
					detail["more"] = more
				}
				if digest != nil {
					detail["policy"] = hex.EncodeToString(digest)
				}
				return p.event(ctx, tx, "profile.put", s.Tenant, detail)
			}
		}
		have, err := p.get(ctx, tx, s.Tenant, pr.Name) // somebody else's, perhaps
		if err != nil || len(have) == 1 && have[0].same(pr) && (pr.Generation == 0 || pr.Generation == have[0].Generation) {
			return err
		}
		return fmt.Errorf("%w: %s of %s", ErrConflict, pr.Name, Scope{Tenant: s.Tenant})
	})
}

// rivals returns [ErrAmbiguous] if another profile names a key of this one where nobody could tell which counts. What either
// denies is clear. Profiles of a tenant are put one after the other: of two that come at once, the second sees the first.
func (p *Profiles) rivals(ctx context.Context, tx pgx.Tx, pr Profile) error {
	names := []string{}
	for name, k := range pr.Keys {
		if !k.Deny {
			names = append(names, name)
		}
	}
	s, o, key := pr.Scope, Profile{Scope: Scope{Tenant: pr.Scope.Tenant}}, ""
	err := tx.QueryRow(ctx, p.q.ProfileRival, s.Tenant, pr.Name, s.Project, s.Environment, s.Workflow, s.Step, names, int(within.Scope(s).Breadth())).
		Scan(&o.ID, &o.Name, &o.Scope.Project, &o.Scope.Environment, &o.Scope.Workflow, &o.Scope.Step, &key)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err == nil {
		err = &KeyError{Key: key, Detail: fmt.Sprintf("%v and %v", o.origin(), pr.origin()), Err: ErrAmbiguous}
	}
	return err
}

// check returns what is wrong with a profile: a *[ProfileError].
func (p *Profiles) check(pr Profile) error {
	err := pr.Check()
	if err != nil || pr.Policy == "" {
		return err
	}
	if p.engine == nil {
		return &ProfileError{Profile: pr.Name, Reason: "its Policy cannot be read: Options.Engine is not set"}
	}
	_, err = p.engine(pr.Policy)
	if bad, ok := errors.AsType[*ProfileError](err); ok {
		c := *bad
		c.Profile = pr.Name
		return &c
	}
	return err
}

// same reports whether two profiles say the same.
func (pr Profile) same(o Profile) bool {
	return pr.Scope == o.Scope && pr.Policy == o.Policy && maps.EqualFunc(pr.Keys, o.Keys, func(a, b Key) bool { return reflect.DeepEqual(a.plain(), b.plain()) })
}

// plain has no difference between no list and an empty one.
func (k Key) plain() Key {
	if len(k.Commands) == 0 {
		k.Commands = nil
	}
	return k
}

// changed returns the names of keys that are new, gone or different.
func changed(before *Profile, pr Profile) []string {
	var old map[string]Key
	if before != nil {
		old = before.Keys
	}
	now, out := pr.Keys, []string{}
	for name, k := range now {
		if o, ok := old[name]; !ok || !reflect.DeepEqual(o.plain(), k.plain()) {
			out = append(out, name)
		}
	}
	for name := range old {
		if _, ok := now[name]; !ok {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// Get returns a profile of a tenant, or of the deployment (""). Error: [ErrNotFound].
func (p *Profiles) Get(ctx context.Context, tenant, name string) (Profile, error) {
	all, err := p.get(ctx, p.pool, tenant, name)
	switch {
	case err != nil:
		return Profile{}, p.failed(ctx, "get profile "+name, err)
	case len(all) == 0:
		return Profile{}, fmt.Errorf("%w: %s of %s", ErrNotFound, name, Scope{Tenant: tenant})
	}
	return all[0], nil
}

// Delete removes a profile, and revokes it [Hard]: what runs with one of its keys
// is stopped. One that is made anew, with the same name, is another profile. Errors:
// [ErrNotFound], [ErrConflict] when pr has not its current Generation.
func (p *Profiles) Delete(ctx context.Context, pr Profile) error {
	return p.change(ctx, "delete profile "+pr.Name, func(tx pgx.Tx) error {
		if err := p.exclude(ctx, tx, pr.Scope.Tenant); err != nil {
			return err
		}
		var id int64
		err := tx.QueryRow(ctx, p.q.ProfileDelete, pr.Scope.Tenant, pr.Name, pr.Generation).Scan(&id)
		if errors.Is(err, pgx.ErrNoRows) {
			have, err := p.get(ctx, tx, pr.Scope.Tenant, pr.Name)
			if err == nil {
				err = ErrNotFound
				if len(have) > 0 {
					err = ErrConflict
				}
			}
			return fmt.Errorf("%w: %s of %s", err, pr.Name, Scope{Tenant: pr.Scope.Tenant})
		}
		if err != nil {
			return err
		}
		r := Revocation{Tenant: pr.Scope.Tenant, Kind: KindProfile, Target: fmt.Sprint(id), State: Hard, Reason: "deleted"}
		if err := p.record(ctx, tx, r); err != nil {
			return err
		}
		return p.event(ctx, tx, "profile.deleted", pr.Scope.Tenant, map[string]any{"profile": pr.Name, "id": id})
	})
}

// change makes a change in a transaction of its own. Each statement sees what was committed before it, whatever the
// database's default is: the locks of this package are waited for by the first.
func (p *Profiles) change(ctx context.Context, what string, do func(pgx.Tx) error) error {
	err := pgx.BeginTxFunc(ctx, p.pool, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, do)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrConflict), errors.Is(err, ErrNotFound), errors.Is(err, ErrRevoked), errors.Is(err, ErrAmbiguous):
		return err
	}
	return p.failed(ctx, what, err)
}

// failed says what was to be done, and that it is the schema if that is why it was not.
func (p *Profiles) failed(ctx context.Context, what string, err error) error {
	return fmt.Errorf("identity: %s: %w", what, db.Explain(ctx, p.pool, p.q, err))
}

// event writes down what was changed: names and references, and no value, nor that of a knob.
func (p *Profiles) event(ctx context.Context, tx pgx.Tx, kind, tenant string, detail map[string]any) error {
	text, err := json.Marshal(detail)
	if err == nil {
		_, err = tx.Exec(ctx, p.q.IdentityEvent, kind, p.actor, text, tenant)
	}
	return err
}

// asker is a pool, or a transaction.
type asker interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

func (p *Profiles) get(ctx context.Context, a asker, tenant, name string) ([]Profile, error) {
	rows, err := a.Query(ctx, p.q.ProfileGet, tenant, name)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, scanProfile)
}

func scanProfile(row pgx.CollectableRow) (p Profile, err error) {
	s := &p.Scope
	var digest []byte
	err = row.Scan(&p.ID, &s.Tenant, &p.Name, &s.Project, &s.Environment, &s.Workflow, &s.Step, &p.Generation, &p.Changed, &p.Actor, &p.Keys, &digest, &p.Policy)
	p.Digest = hex.EncodeToString(digest)
	return p, err
}
