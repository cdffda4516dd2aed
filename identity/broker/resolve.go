package broker

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/stepward/stepward/identity"
	"github.com/stepward/stepward/identity/cedar"
	"github.com/stepward/stepward/internal/binding"
)

// grant is a secret, or a knob, that an attempt gets.
type grant struct {
	name     string
	key      identity.Key
	from     identity.Origin
	profiles []int64 // see binding.Profiles
	rulings  []identity.Ruling
	required bool
	pinned   *pin // what it has to be; nil: the current one
}

// bound is what an attempt gets, and what that was decided by.
type bound struct {
	grants      []grant
	withheld    []identity.Resolved // what it can do without, and does not get
	since       map[string]int64    // the epochs of then
	revocations int64               // the tenant's epoch
	epochs      map[string]int64    // and that of the deployment
	repeats     int64               // the run that its own repeats; 0: none
}

// gives reports whether it has as much in it as another.
func (b bound) gives(o bound) bool {
	return slices.EqualFunc(b.grants, o.grants, func(g, h grant) bool { return g.name == h.name && slices.Equal(g.key.Commands, h.key.Commands) })
}

// demand withholds what demands more than a level, or refuses if the attempt cannot do without. unknown is why
// it may yet be more.
func (b *bound) demand(at standing, unknown error) error {
	kept := b.grants[:0]
	for _, g := range b.grants {
		level := binding.LevelAt(g.key, at.level)
		if g.key.MinLevel <= level {
			kept = append(kept, g)
			continue
		}
		if unknown != nil && g.key.MinLevel == identity.L2 {
			return fmt.Errorf("broker: %s demands level L2: %w", g.name, unknown)
		}
		why := cmp.Or(at.why, "nothing here promises more")
		r := refuse(reasonLevel, g.name, "broker: %s demands level %v, and this set-up is %v: %s", g.name, g.key.MinLevel, level, why)
		if g.required {
			return r
		}
		b.withheld = append(b.withheld, identity.Resolved{Name: g.name, Err: r})
	}
	b.grants = kept
	return nil
}

// resolve says what an attempt gets at a level: of what its step lists, what the profiles say now, if its run
// was bound to it. The set may have shrunk since, and has not grown.
func (b *broker) resolve(ctx context.Context, f facts, to binding.Binding, again repeated, level identity.Level) (bound, error) {
	place := to.Place
	place.Step = f.def.Name
	lists := binding.Lister{Step: f.def.Name, Secrets: f.def.Secrets, Tool: f.def.Tool}
	v, err := b.view(ctx, f, place, to, append(f.uses(nil), lists.Uses()...))
	if err != nil {
		return bound{}, err
	}
	use := f.use()
	use.WorkflowVersion, use.Level = f.version, level
	all, withheld, err := to.Start(v, lists, use)
	if err != nil {
		return bound{}, unresolved(err)
	}
	if r := untrusted(v.Revocations, f, to.Epoch, identity.Soft); r != nil {
		return bound{}, r
	}
	epochs := v.Revocations.Epochs
	out := bound{withheld: withheld, since: to.Epoch, revocations: epochs[f.tenant], epochs: epochs}
	for _, r := range all {
		out.grants = append(out.grants, grant{name: r.Name, key: r.Key, from: r.From, profiles: binding.Profiles(r), rulings: r.Rulings, required: r.Key.Required})
	}
	return out, again.pin(f, &out)
}

// binding reads what the run was bound to when it was enqueued, nothing, if that is not on record; and what it repeats.
func (b *broker) binding(ctx context.Context, f facts) (out binding.Binding, r repeated, err error) {
	var body, pins []byte
	var run *int64
	err = b.Pool.QueryRow(ctx, b.q.BindingGet, f.run, f.key).Scan(&body, &run, &pins)
	if err == nil && body != nil {
		err = json.Unmarshal(body, &out)
	}
	if err == nil && pins != nil {
		err = json.Unmarshal(pins, &r.pins)
	}
	if err != nil {
		return out, r, fmt.Errorf("broker: read what the run was bound to: %w", err)
	}
	if run != nil {
		r.run = *run
	}
	out.Place.Tenant, out.Place.Workflow = f.tenant, f.workflow // whatever the binding says
	return out, r, nil
}

// unresolved is the refusal that an error of package identity is.
func unresolved(err error) error {
	name := ""
	if k, ok := errors.AsType[*identity.KeyError](err); ok {
		name = k.Key
	}
	switch {
	case errors.Is(err, identity.ErrRevoked):
		return refuse(reasonRevoked, name, "broker: %w", err)
	case errors.Is(err, identity.ErrMissing):
		return refuse(reasonUnresolved, name, "broker: %w", err)
	}
	return refuse(reasonDenied, name, "broker: %w", err)
}

// view reads what counts for an attempt of a run that is bound to something, and for uses, as one moment has it.
func (b *broker) view(ctx context.Context, f facts, place identity.Scope, to binding.Binding, uses []binding.Use) (v binding.View, err error) {
	err = pgx.BeginTxFunc(ctx, b.Pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		v, err = binding.Load(ctx, tx, b.q, []identity.Scope{place}, uses, to.Keys)
		if err == nil {
			err = v.Recall(ctx, tx, b.q, to)
		}
		return err
	})
	if err != nil {
		return binding.View{}, fmt.Errorf("broker: read profiles and what is revoked: %w", err)
	}
	v.Engine = cedar.Parse
	return v, nil
}

// workers are the names under which the worker of an attempt can be revoked.
func (f facts) workers() []string { return []string{f.worker, fmt.Sprintf("%x", uint64(f.session))} }

// use is what is asked about when no secret is. Who carries it is a question of its own: see untrusted.
func (f facts) use() binding.Use {
	return binding.Use{Tenant: f.tenant, Workflow: f.workflow, Run: f.run}
}

// untrusted returns why it is the worker that must not have the attempt, or its sandbox, from a state on.
func untrusted(r binding.Revocations, f facts, since map[string]int64, from identity.State) *refusal {
	if state, why := r.Of(binding.Use{Tenant: f.tenant, Worker: f.workers(), Bound: since}); state >= from {
		return revokedBy(reasonWorker, "", why)
	}
	if state, why := r.Of(binding.Use{Tenant: f.tenant, Worker: f.before}); state >= identity.Hard {
		return revokedBy(reasonSandbox, "", why)
	}
	return nil
}

func revokedBy(reason, name string, why identity.Revocation) *refusal {
	if name != "" {
		name += ": "
	}
	return refuse(reason, strings.TrimSuffix(name, ": "), "broker: %s%s is revoked (%v)", name, naming(why), why.State)
}

// naming says what a revocation is of.
func naming(r identity.Revocation) string {
	if r.Version != "" {
		return r.Kind + " " + r.Version + " of key " + r.Target
	}
	return strings.TrimSpace(r.Kind + " " + r.Target)
}

// useOf is what is asked about a secret that was given to an attempt.
func (f facts) useOf(p pin) binding.Use {
	use := f.use()
	use.Key, use.Version, use.Issued, use.Profiles = p.Name, p.Version, p.Epochs, append([]int64{p.From.ID}, p.Profiles...)
	return use
}

// uses are what is asked about an attempt, and about what it was given.
func (f facts) uses(pins []pin) []binding.Use {
	out := []binding.Use{f.use(), {Worker: f.workers()}, {Worker: f.before}}
	for _, p := range pins {
		out = append(out, f.useOf(p))
	}
	return out
}

// digest is that of what the run was bound to.
func (b *broker) digest(ctx context.Context, f facts) ([32]byte, error) {
	to, _, err := b.binding(ctx, f)
	return to.Digest(), err
}

// recheck refuses what the stores gave in a version that is revoked: which version that is nobody knew
// before; and what was revoked in the meantime.
// An attempt that can do without goes on without. It returns what it has looked at.
func (b *broker) recheck(ctx context.Context, f facts, bound *bound, got *fetched) (current, error) {
	v, err := b.current(ctx, f, got.pins)
	if err != nil {
		return v, err
	}
	for {
		r := v.worst(f, got.pins, bound.since, identity.Soft)
		if r == nil {
			return v, nil
		}
		i := slices.IndexFunc(got.pins, func(p pin) bool { return r.name != "" && p.Name == r.name })
		if i < 0 {
			return v, r
		}
		g := bound.grants[slices.IndexFunc(bound.grants, func(g grant) bool { return g.name == r.name })]
		if lacks := v.lacks(f, g, got.pins[i], bound.since); lacks != nil {
			r = lacks
		}
		if g.required {
			return v, r
		}
		clear(got.items[i].Value)
		got.items, got.pins = slices.Delete(got.items, i, i+1), slices.Delete(got.pins, i, i+1)
		bound.withheld = append(bound.withheld, identity.Resolved{Name: r.name, Err: r})
	}
}

// revoked returns the epoch of what is revoked, and what must not be used any more of what
// was issued.
func (b *broker) revoked(ctx context.Context, f facts, pins []pin) (int64, *refusal, error) {
	v, err := b.current(ctx, f, pins)
	if err != nil {
		return 0, nil, err
	}
	return v.Epochs[f.tenant], v.worst(f, pins, nil, identity.Hard), nil
}

// current is what is revoked now.
type current struct{ binding.Revocations }

func (b *broker) current(ctx context.Context, f facts, pins []pin) (current, error) {
	v, err := b.view(ctx, f, identity.Scope{Tenant: f.tenant, Workflow: f.workflow, Step: f.def.Name}, binding.Binding{}, f.uses(pins))
	return current{v.Revocations}, err
}

// lacks returns that the store has not the version that is current, if it gave another one that nothing else is against than
// that its key was revoked.
func (c current) lacks(f facts, g grant, p pin, since map[string]int64) *refusal {
	use := f.useOf(p)
	use.Bound = since
	is, only := c.Current(use, identity.Soft)
	if !only || p.Version == "" || g.version() != "" {
		return nil
	}
	gives, _, _ := strings.Cut(p.Version, "@") // as people say it
	return refuse(reasonPin, p.Name, "broker: %s: %w: since the key was revoked version %q is current, and the store gives version %q: have it give the other one, or Profiles.Rotate to what it gives, if that is not what was revoked",
		p.Name, ErrNoVersion, is, gives)
}

// worst returns why an attempt must not have what it was given, from a state on. since is that of its
// run's binding, if the attempt only begins.
func (c current) worst(f facts, pins []pin, since map[string]int64, from identity.State) *refusal {
	uses := []binding.Use{f.use()}
	for _, p := range pins {
		uses = append(uses, f.useOf(p))
	}
	for _, use := range uses {
		use.Bound = since
		if state, why := c.Of(use); state >= from {
			return revokedBy(reasonRevoked, use.Key, why)
		}
	}
	return untrusted(c.Revocations, f, since, from)
}
