package broker

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/stepward/stepward/audit"
	"github.com/stepward/stepward/identity"
	"github.com/stepward/stepward/internal/binding"
	"github.com/stepward/stepward/internal/hostport"
)

// lasting is what an attempt may still do with a secret that was issued to be put into requests.
type lasting struct {
	endpoints []string
	err       error // why there are none, or fewer than were issued
}

// refusal is that of an endpoint that it is not for any more.
func (l lasting) refusal(name, endpoint string) *refusal {
	if l.err == nil {
		return refuse(reasonDenied, name, "broker: %s is not for %s", name, endpoint)
	}
	return refuse(reasonDenied, name, "broker: %s is not for %s any more: %w", name, endpoint, l.err)
}

// still asks the profiles and policies again about what was issued to be put into requests. They may take away, and give
// nothing that was not issued. What is revoked it returns, and does not decide. A worker whose connection is at a lower level
// has what that one gets.
func (b *broker) still(ctx context.Context, f facts, pins []pin, at identity.Level) (current, map[string]lasting, error) {
	to, _, err := b.binding(ctx, f)
	if err != nil {
		return current{}, nil, err
	}
	place := to.Place
	place.Step = f.def.Name
	v, err := b.view(ctx, f, place, to, f.uses(pins))
	if err != nil {
		return current{}, nil, err
	}
	now := current{v.Revocations}
	v.Revocations = binding.Revocations{}
	out := make(map[string]lasting)
	for _, p := range pins {
		use := f.use()
		use.WorkflowVersion, use.Level = f.version, min(at, p.level())
		given, withheld, err := to.Start(v, binding.Lister{Step: f.def.Name, Secrets: []string{p.Name + "?"}, Tool: f.def.Tool}, use)
		switch {
		case err != nil:
		case len(given) == 0:
			err = withheld[0].Err
		default:
			left, why := p.narrowed(given[0].Key, use.Level)
			out[p.Name] = lasting{left, why}
			continue
		}
		out[p.Name] = lasting{err: err}
	}
	return now, out, nil
}

// level is that of the attempt that a secret was issued to, as far as it counts for one that is put into requests.
func (p pin) level() identity.Level {
	if p.Level != identity.L0 {
		return p.Level
	}
	return identity.L1Dev
}

// narrowed returns the endpoints that a secret was issued for and that its key has now, and why they are fewer.
func (p pin) narrowed(k identity.Key, at identity.Level) (left []string, why error) {
	issued := hostport.All(p.Inject.Hosts)
	switch {
	case k.Ref != p.Ref:
		return nil, identity.ErrRetargeted
	case k.Inject == nil:
		return nil, fmt.Errorf("%v has no Inject now", p.From)
	case !strings.EqualFold(headerOf(k.Inject), headerOf(p.Inject)):
		return nil, fmt.Errorf("%v has another Header now", p.From)
	case k.MinLevel > binding.LevelAt(k, at):
		return nil, fmt.Errorf("it demands level %v now, and this is %v", k.MinLevel, binding.LevelAt(k, at))
	}
	now := hostport.All(k.Inject.Hosts)
	left = slices.DeleteFunc(slices.Clone(issued), func(e string) bool { return !slices.Contains(now, e) })
	if len(left) < len(issued) {
		why = fmt.Errorf("%v has other Hosts now", p.From)
	}
	return left, why
}

// narrow has values put only into the requests that they are still for, and ends connections that one is not for any more.
// What was taken from an attempt does not come back to it. It is on record, once.
func (i *injection) narrow(ctx context.Context, to map[string]lasting) {
	var lost []string
	var cut []*channel
	i.mu.Lock()
	for n := range i.keys {
		k := &i.keys[n]
		l, asked := to[k.Name]
		if !asked { // it was loaded meanwhile
			continue
		}
		left := slices.DeleteFunc(slices.Clone(k.endpoints), func(e string) bool { return !slices.Contains(l.endpoints, e) })
		if len(left) == len(k.endpoints) {
			continue
		}
		lost = append(lost, k.Name)
		for c := range i.conns {
			if slices.Contains(k.endpoints, c.endpoint) && !slices.Contains(left, c.endpoint) {
				cut = append(cut, c)
			}
		}
		if k.endpoints = left; len(left) == 0 {
			clear(k.value)
		}
	}
	i.mu.Unlock()
	for _, c := range cut {
		c.cut()
	}
	for _, name := range lost {
		what := map[string]any{"name": name, "attempt": i.f.attempt, "error": to[name].err.Error(), "hosts": to[name].endpoints}
		if err := i.b.note(ctx, i.f, audit.KeyWithheld, what, to[name].err); err != nil {
			i.b.Logger.WarnContext(ctx, "that a secret is not for some hosts any more is not on record", "run", i.f.run, "name", name, "error", err)
		}
	}
}

// has reports whether a value is for an endpoint. i.mu is held.
func (i *injection) has(endpoint string) bool {
	return slices.ContainsFunc(i.keys, func(k injected) bool { return slices.Contains(k.endpoints, endpoint) })
}
