package broker

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/stepward/stepward/identity"
	"github.com/stepward/stepward/internal/binding"
	"github.com/stepward/stepward/internal/envelope"
	"github.com/stepward/stepward/internal/redact"
	"github.com/stepward/stepward/workflow"
)

// What stores give out for one attempt ends by itself, where nobody comes back to end it: leaseMargin after the attempt's
// time limit, and after leaseFor if there is none. leaseMost is more than any store promises.
const (
	leaseMargin = time.Minute
	leaseFor    = time.Hour
	leaseMost   = 10 * 365 * 24 * time.Hour
)

// lasts is how long an attempt that has not begun later than now may still take.
func (d stepDefinition) lasts() time.Duration {
	if d.Timeout <= 0 {
		return leaseFor
	}
	return min(d.Timeout, leaseMost) + leaseMargin
}

// fetched is what stores have for an attempt.
type fetched struct {
	items   []envelope.Item
	pins    []pin
	leases  []lease
	missing []identity.Resolved // what the stores do not have, and the attempt can do without
}

func (f *fetched) wipe() {
	for i := range f.items {
		clear(f.items[i].Value)
	}
}

// fetch gets all that is granted, or fails. What it returns is to be wiped, and its leases
// ended if nothing comes of it, also after a failure.
func (b *broker) fetch(ctx context.Context, f facts, bound bound, id envelope.ID, at standing) (*fetched, error) {
	grants := bound.grants
	type answer struct {
		value Value
		err   error
	}
	answers, until := make([]answer, len(grants)), time.Now().Add(f.def.lasts())
	var all sync.WaitGroup
	for i, g := range grants {
		if g.key.Ref == "" {
			answers[i].value = Value{Bytes: []byte(g.key.Knob)}
			continue
		}
		all.Go(func() { answers[i].value, answers[i].err = b.get(ctx, f, g, until) })
	}
	all.Wait()
	out := &fetched{}
	var err error
	for i, g := range grants {
		a := answers[i]
		scheme := envelope.Knob
		if g.key.Ref != "" {
			scheme, _, _ = identity.SplitRef(g.key.Ref)
		}
		if a.value.Lease != "" {
			out.leases = append(out.leases, lease{Scheme: scheme, ID: a.value.Lease, Name: g.name, Until: until})
		}
		switch {
		case errors.Is(a.err, ErrNoSecret) && !g.required:
			clear(a.value.Bytes)
			out.missing = append(out.missing, identity.Resolved{Name: g.name, Err: a.err})
			continue
		case err == nil:
			err = a.err
		}
		item := envelope.Item{
			Name: g.name, Store: scheme, Version: a.value.Version, Guest: !f.def.Tool, Commands: g.key.Commands,
			File: g.key.File, Strict: g.key.Strict, Value: a.value.Bytes,
		}
		p := pin{Name: g.name, From: g.from, Policies: g.rulings, Ref: g.key.Ref, Version: a.value.Version, Leased: a.value.Lease != ""}
		if g.from.ID == 0 {
			p.Profiles = g.profiles
		}
		p.Fingerprint = b.root.fingerprint(f.tenant, g.name, a.value.Bytes)
		if w := a.value.Wrapped; w != nil {
			p.Wrapped, p.Fingerprint = true, b.root.ofVersion(f.tenant, p)
			if err == nil {
				err = f.wrap(&item, *w, g, grants)
			}
		}
		if p.Version == "" {
			p.Epochs = bound.epochs
		}
		if g.pinned != nil {
			p.Repeats = bound.repeats
			if again := g.again(&p, b.root, f.tenant); err == nil && again != nil {
				err = again
			}
		}
		if inject := g.key.Inject; inject != nil {
			if err == nil {
				err = f.injectable(g, a.value)
			}
			clear(item.Value)
			item.Store, item.Value = envelope.Placeholder, []byte(b.root.placeholder(id, g.name, cmp.Or(inject.Prefix, placeholderMark)))
			p.Inject = inject
			if l := binding.LevelAt(g.key, at.level); l != at.level {
				p.Level = l
			}
		}
		if !a.value.Created.IsZero() {
			p.Created = &a.value.Created
		}
		out.items, out.pins = append(out.items, item), append(out.pins, p)
	}
	return out, err
}

// get gets one secret, for until then.
func (b *broker) get(ctx context.Context, f facts, g grant, until time.Time) (Value, error) {
	store, path, err := b.storeOf(g)
	if err != nil {
		return Value{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, b.Timeout)
	defer cancel()
	v, err := ask(ctx, store, Request{
		Path: path, Version: g.version(), Tenant: f.tenant,
		Attempt: fmt.Sprintf("%v/%s/%d", workflow.RunID(f.run), f.key, f.attempt), Until: until,
	})
	switch {
	case err == nil:
		return v, checkValue(g, v)
	case errors.Is(err, ErrNoSecret) && g.pinned != nil:
		return v, refuse(reasonPin, g.name, "broker: %s: %w", g.name, err)
	case errors.Is(err, ErrEmpty) && g.required:
		return v, refuse(reasonStore, g.name, "broker: %s: %w", g.name, err)
	case errors.Is(err, ErrNoSecret):
		return v, &missing{refuse(reasonUnresolved, g.name, "broker: %s: %w", g.name, err)}
	case errors.Is(err, ErrName), errors.Is(err, ErrValue):
		return v, refuse(reasonUnresolved, g.name, "broker: %s: %w", g.name, err)
	case errors.Is(err, ErrNoVersion):
		return v, refuse(reasonPin, g.name, "broker: %s: %w", g.name, err)
	case errors.Is(err, ErrDenied):
		return v, refuse(reasonDenied, g.name, "broker: %s: %w", g.name, err)
	case errors.Is(err, ErrCorrupt):
		return v, refuse(reasonStore, g.name, "broker: %s: %w", g.name, err)
	}
	scheme, _, _ := identity.SplitRef(g.key.Ref)
	return v, fmt.Errorf("broker: %s: store %s cannot be read: %w", g.name, scheme, err)
}

// storeOf returns the store of a secret, and the path there.
func (b *broker) storeOf(g grant) (Store, string, error) {
	scheme, path, err := identity.SplitRef(g.key.Ref)
	if err != nil {
		return nil, "", refuse(reasonUnresolved, g.name, "broker: %s: %w", g.name, err)
	}
	store := b.Stores[scheme]
	if store == nil {
		return nil, "", refuse(reasonStore, g.name, "broker: %s: this broker has no store for %s://", g.name, scheme)
	}
	return store, path, nil
}

// ask has the store's answer, whatever it does.
func ask(ctx context.Context, s Store, r Request) (v Value, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = panicked(p)
		}
		if err != nil {
			err = outward(err, v.Bytes)
			clear(v.Bytes)
		}
	}()
	return s.Get(ctx, r)
}

// missing is a refusal that errors.Is tells from others.
type missing struct{ *refusal }

func (*missing) Is(target error) bool { return target == ErrNoSecret }

func (m *missing) Unwrap() error { return m.refusal }

// checkValue refuses what a program could not be given, or what would show.
func checkValue(g grant, v Value) error {
	problem := ""
	switch {
	case v.Wrapped != nil: // the sandbox refuses it
	case len(v.Bytes) > MaxValue:
		problem = fmt.Sprintf("it has over %d bytes", MaxValue)
	case !g.key.File && bytes.IndexByte(v.Bytes, 0) >= 0:
		problem = "it has a NUL, and can be in a file only: see Key.File"
	case !g.key.Weak && redact.Weak(string(v.Bytes)):
		problem = "it is too short or too plain to be kept out of outputs: see Key.Weak"
	}
	if problem != "" {
		return refuse(reasonUnresolved, g.name, "broker: %s: %w: %s", g.name, ErrValue, problem)
	}
	item := envelope.Item{Name: g.name, Version: v.Version, Commands: g.key.Commands, File: g.key.File, Value: v.Bytes}
	if err := item.Check(); err != nil {
		return refuse(reasonUnresolved, g.name, "broker: %w", err)
	}
	return nil
}
