package broker

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stepward/stepward/audit"
	"github.com/stepward/stepward/identity"
	"github.com/stepward/stepward/internal/egress"
	"github.com/stepward/stepward/internal/envelope"
	"github.com/stepward/stepward/internal/hostport"
	"github.com/stepward/stepward/internal/redact"
)

// Tests have other times.
var (
	injectIdle  = time.Minute     // without a connection the values are dropped
	injectEvery = 5 * time.Second // it is looked whether they may still be used
)

const (
	injectLook  = 5 * time.Second         // of one look at most
	injectNote  = 2500 * time.Millisecond // until it is on record that a value is used: who ends it waits
	injectNoted = 30 * time.Second        // of uses at most are on record as one, afterwards

	placeholderMark = "stepward_"
)

// An injection is what the broker puts into the requests of one attempt.
type injection struct {
	b      *broker
	f      facts
	id     envelope.ID
	policy *egress.Policy
	ca     authority
	set    redact.Set // has each value before anything is sent

	loading sync.Mutex // one fetches
	loaded  bool
	noting  sync.Mutex // one has uses on record that were counted: before mu

	mu    sync.Mutex
	keys  []injected
	pins  []pin
	conns map[*channel]bool
	calls int       // that are served, or will be
	idle  time.Time // since when there is none
	ended error     // why no value is used any more
	uses  map[use]*used
	done  chan struct{}
}

// injected is a secret that is not in the sandbox.
type injected struct {
	pin
	endpoints   []string // as of now
	placeholder string
	value       []byte
}

// use is what is counted together.
type use struct{ name, endpoint string }

type used struct {
	n     int64 // that are not on record yet
	noted time.Time
}

// injections are those of a broker, by envelope.
type injections struct {
	mu   sync.Mutex
	all  map[envelope.ID]*injection
	shut bool
	over sync.WaitGroup
}

// injectable refuses what cannot be kept out of a sandbox.
func (f facts) injectable(g grant, v Value) error {
	policy, err := f.def.policy()
	switch {
	case err != nil:
		return refuse(reasonDenied, g.name, "broker: %s: the network of the step: %w", g.name, err)
	case policy.Open() != "":
		return refuse(reasonDenied, g.name, "broker: %s is for a step whose network is closed but for what it needs, and that of %s allows %s", g.name, f.def.Name, policy.Open())
	case v.Lease != "":
		return refuse(reasonDenied, g.name, "broker: %s: what a store makes for an attempt cannot be fetched again, and so not be put into requests", g.name)
	case v.Wrapped != nil:
		return refuse(reasonDenied, g.name, "broker: %s: what its store gives to the sandbox alone cannot be put into requests: take Wrap from its place, or Inject from the key", g.name)
	case slices.ContainsFunc(v.Bytes, func(c byte) bool { return c < ' ' || c > '~' }):
		return refuse(reasonUnresolved, g.name, "broker: %s: the value cannot stand in a header: want visible ASCII, in one line", g.name)
	}
	for _, e := range hostport.All(g.key.Inject.Hosts) {
		name, port := splitEndpoint(e)
		if why := policy.Permits(name, port); why != "" {
			return refuse(reasonDenied, g.name, "broker: %s is for %s, which the network of step %s does not allow: %s", g.name, e, f.def.Name, why)
		}
	}
	return nil
}

func (d stepDefinition) policy() (*egress.Policy, error) {
	return egress.Parse(d.Sandbox.Network.Allow)
}

// endpoints are where the pins' secrets are put into requests.
func endpoints(pins []pin) (out []string) {
	for _, p := range pins {
		if p.Inject != nil {
			out = append(out, hostport.All(p.Inject.Hosts)...)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// authorityOf is the item that a sandbox trusts the broker by.
func (b *broker) authorityOf(id envelope.ID, f facts, pins []pin) (envelope.Item, error) {
	ca, err := b.root.authority(id, names(endpoints(pins)))
	return envelope.Item{Name: "SSL_CERT_FILE", Store: envelope.Authority, Guest: !f.def.Tool, Value: ca.pem()}, err
}

func names(endpoints []string) (out []string) {
	for _, e := range endpoints {
		name, _ := splitEndpoint(e)
		out = append(out, name)
	}
	return slices.Compact(out)
}

// injection returns what is put into the requests of an attempt to an endpoint, if that may be. Its caller leaves it.
func (b *broker) injection(ctx context.Context, c claim, endpoint string) (*injection, error) {
	f, err := b.facts(ctx, c)
	if err == nil {
		err = b.rates.take(c.run, time.Now())
	}
	if err != nil {
		return nil, err
	}
	id, pins, key, _, err := b.openIssue(ctx, c)
	clear(key)
	if err != nil {
		b.changed(ctx, f, err)
		return nil, err
	}
	pins = slices.DeleteFunc(pins, func(p pin) bool { return p.Inject == nil })
	if !slices.Contains(endpoints(pins), endpoint) {
		return nil, refuse(reasonDenied, "", "broker: no secret of the attempt is for %s", endpoint)
	}
	now, given, err := b.still(ctx, f, pins, standingOf(ctx).level)
	if err != nil {
		return nil, err
	}
	mine := slices.DeleteFunc(slices.Clone(pins), func(p pin) bool { return !slices.Contains(hostport.All(p.Inject.Hosts), endpoint) })
	if r := now.worst(f, mine, nil, identity.Soft); r != nil { // no new use
		return nil, r
	}
	if !slices.ContainsFunc(mine, func(p pin) bool { return slices.Contains(given[p.Name].endpoints, endpoint) }) {
		return nil, given[mine[0].Name].refusal(mine[0].Name, endpoint)
	}
	policy, err := f.def.policy()
	if err != nil {
		return nil, refuse(reasonDenied, "", "broker: the network of the step: %w", err)
	}
	all := &b.injections
	all.mu.Lock()
	i := all.all[id]
	for i != nil && !all.shut {
		all.mu.Unlock() // a use may be on its way to the record: other attempts do not wait for that
		entered := i.enter()
		all.mu.Lock()
		if entered {
			break
		}
		if all.all[id] == i {
			delete(all.all, id)
		}
		i = all.all[id]
	}
	switch {
	case all.shut:
		all.mu.Unlock()
		return nil, errEnds
	case i == nil:
		i = &injection{b: b, f: f, id: id, policy: policy, conns: map[*channel]bool{}, uses: map[use]*used{}, calls: 1, done: make(chan struct{})}
		if all.all == nil {
			all.all = make(map[envelope.ID]*injection)
		}
		all.all[id] = i
		watching := context.WithoutCancel(ctx)
		all.over.Go(func() { i.watch(watching) })
	}
	all.mu.Unlock()
	if err := i.load(ctx, pins); err != nil {
		i.leave()
		return nil, err
	}
	i.narrow(ctx, given)
	return i, nil
}

// enter counts a call, and reports false of an injection that was given up because there was none.
func (i *injection) enter() bool {
	point("enter")
	i.mu.Lock()
	defer i.mu.Unlock()
	if errors.Is(i.ended, errUnused) {
		return false
	}
	i.calls++
	return true
}

// leave ends a call.
func (i *injection) leave() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.calls--
	i.idle = time.Now()
}

// openIssue reads what was issued last to an attempt, and is not closed, and the key of its renewals. It believes a
// row no more than its seal: workers may change rows.
func (b *broker) openIssue(ctx context.Context, c claim) (id envelope.ID, pins []pin, key []byte, now int64, err error) {
	var raw, sealed []byte
	var text string
	err = b.Pool.QueryRow(ctx, b.q.IssueOpen, c.run, c.seq, c.attempt, c.sandbox).Scan(&raw, &text, &sealed, &now)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		err = refuse(reasonUnopened, "", "broker: nothing was issued to the attempt")
	case err != nil:
		err = fmt.Errorf("broker: read what was issued: %w", err)
	default:
		if err = json.Unmarshal([]byte(text), &pins); err != nil || len(raw) != len(id) {
			return id, nil, nil, 0, fmt.Errorf("broker: what was issued is not readable: %w", err)
		}
		copy(id[:], raw)
		key, err = b.root.openRenewal(sealed, id, c, pins)
	}
	return id, pins, key, now, err
}

// changed records that a row is not what the broker wrote.
func (b *broker) changed(ctx context.Context, f facts, err error) {
	if r, ok := errors.AsType[*refusal](err); ok && r.reason == reasonChanged {
		b.refused(ctx, f, r)
	}
}

// sealRenewal closes the key of renewals, with a digest of what was issued to whom.
func (r *root) sealRenewal(key []byte, id envelope.ID, c claim, pins []pin) ([]byte, error) {
	digest, err := issuedDigest(c, pins)
	if err != nil {
		return nil, err
	}
	plain := slices.Concat(digest, key)
	defer clear(plain)
	return r.seal(plain, renewalOf(id)), nil
}

// openRenewal opens it, if the same was issued to the same attempt.
func (r *root) openRenewal(sealed []byte, id envelope.ID, c claim, pins []pin) ([]byte, error) {
	plain, err := r.open(sealed, renewalOf(id))
	if err != nil {
		return nil, err
	}
	digest, err := issuedDigest(c, pins)
	if err != nil {
		clear(plain)
		return nil, err
	}
	if len(plain) < len(digest) || !bytes.Equal(plain[:len(digest)], digest) {
		clear(plain)
		return nil, refuse(reasonChanged, "", "broker: what is on record of the attempt's secrets is not what was issued: it was changed")
	}
	return plain[len(digest):], nil
}

func renewalOf(id envelope.ID) string { return "renewal " + hex.EncodeToString(id[:]) }

// issuedDigest is that of pins of an attempt in its sandbox, whatever form the database gives their JSON.
func issuedDigest(c claim, pins []pin) ([]byte, error) {
	text, err := json.Marshal(pins)
	if err == nil {
		pins = nil
		err = json.Unmarshal(text, &pins)
	}
	if err == nil {
		text, err = json.Marshal(pins)
	}
	if err != nil {
		return nil, fmt.Errorf("broker: what is issued has no digest: %w", err)
	}
	h := sha256.New()
	fmt.Fprintf(h, "issued %d %d %d %q ", c.run, c.seq, c.attempt, c.sandbox)
	h.Write(text)
	return h.Sum(nil), nil
}

// load fetches the values, in the versions that were issued.
func (i *injection) load(ctx context.Context, pins []pin) error {
	i.loading.Lock()
	defer i.loading.Unlock()
	if i.loaded {
		return nil
	}
	ca, err := i.b.root.authority(i.id, names(endpoints(pins)))
	if err != nil {
		return err
	}
	var keys []injected
	for _, p := range pins {
		g := grant{name: p.Name, key: identity.Key{Ref: p.Ref, Version: p.Version, Inject: p.Inject}}
		v, err := i.b.get(ctx, i.f, g, time.Now().Add(i.f.def.lasts()))
		if err == nil {
			keys = append(keys, injected{p, hostport.All(p.Inject.Hosts), i.b.root.placeholder(i.id, p.Name, cmp.Or(p.Inject.Prefix, placeholderMark)), v.Bytes})
			err = i.f.injectable(g, v)
		}
		if err == nil && i.b.root.fingerprint(i.f.tenant, p.Name, v.Bytes) != p.Fingerprint {
			err = refuse(reasonPin, p.Name, "broker: %s: the store has another value than was issued", p.Name)
		}
		if err == nil {
			err = i.set.Add(p.Name, string(v.Bytes), false)
		}
		if err != nil {
			for _, k := range keys {
				clear(k.value)
			}
			return err
		}
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.ended != nil {
		for _, k := range keys {
			clear(k.value)
		}
		return i.ended
	}
	i.loaded, i.keys, i.pins, i.ca = true, keys, pins, ca
	return nil
}

// watch ends the injection when its values may not be used any more: what is revoked, or cannot be looked
// up for as long as a sandbox would be let go on. It does not need the worker for that.
func (i *injection) watch(ctx context.Context) {
	tick := time.NewTicker(injectEvery)
	defer tick.Stop()
	good := time.Now()
	for {
		select {
		case <-i.done:
			return
		case <-tick.C:
		}
		looking, cancel := context.WithTimeout(ctx, injectLook)
		err := i.look(looking)
		cancel()
		var no *refusal
		switch {
		case err == nil:
			good = time.Now()
			i.flush(ctx)
		case errors.As(err, &no):
			i.end(ctx, err)
		case time.Since(good)+injectEvery > i.b.Freeze:
			i.end(ctx, fmt.Errorf("broker: what is revoked cannot be read: %w", err))
		}
		i.end(ctx, errUnused)
		point("looked")
	}
}

var (
	errUnused = errors.New("broker: nothing is connected")
	errEnds   = errors.New("broker: it ends")
)

// look returns why the values may not be used any more.
func (i *injection) look(ctx context.Context) error {
	f, err := i.b.facts(ctx, i.f.claim)
	if err != nil {
		return err
	}
	id, _, key, _, err := i.b.openIssue(ctx, i.f.claim)
	clear(key)
	if err == nil && id != i.id {
		err = refuse(reasonUnopened, "", "broker: another envelope was issued")
	}
	if err != nil {
		return err
	}
	i.mu.Lock()
	pins := i.pins
	i.mu.Unlock()
	now, given, err := i.b.still(ctx, f, pins, identity.L3)
	if err != nil {
		return err
	}
	if r := now.worst(f, pins, nil, identity.Hard); r != nil {
		return r
	}
	i.narrow(ctx, given)
	return nil
}

// end cuts all connections, overwrites the values, and has on record what was used. Again is no change, nor is
// errUnused of what is used.
func (i *injection) end(ctx context.Context, why error) {
	i.mu.Lock()
	if i.ended != nil || errors.Is(why, errUnused) && (i.calls > 0 || time.Since(i.idle) <= injectIdle) {
		i.mu.Unlock()
		return
	}
	i.ended = why
	conns := i.conns
	i.conns = map[*channel]bool{}
	for _, k := range i.keys {
		clear(k.value)
	}
	i.keys = nil
	close(i.done)
	i.mu.Unlock()
	for c := range conns {
		c.cut()
	}
	all := &i.b.injections
	all.mu.Lock()
	if all.all[i.id] == i {
		delete(all.all, i.id)
	}
	all.mu.Unlock()
	i.noting.Lock() // what flush has under way is on record too
	defer i.noting.Unlock()
	i.mu.Lock()
	rest := i.uses // and no more come
	i.uses = map[use]*used{}
	i.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), i.b.Timeout)
	defer cancel()
	for u, n := range rest {
		if n.n == 0 {
			continue
		}
		if err := i.note(ctx, u, n.n); err != nil {
			i.b.Logger.WarnContext(ctx, "how often a secret was used is not on record", "run", i.f.run, "name", u.name, "host", u.endpoint, "n", n.n, "error", err)
		}
	}
	point("ended")
}

// endInjection ends that of an envelope, if there is one.
func (b *broker) endInjection(ctx context.Context, id envelope.ID, why error) {
	b.injections.mu.Lock()
	i := b.injections.all[id]
	b.injections.mu.Unlock()
	if i != nil {
		i.end(ctx, why)
	}
}

// endInjections ends all of them.
func (b *broker) endInjections(ctx context.Context) {
	b.injections.mu.Lock()
	b.injections.shut = true
	var all []*injection
	for _, i := range b.injections.all {
		all = append(all, i)
	}
	b.injections.mu.Unlock()
	for _, i := range all {
		i.end(ctx, errEnds)
	}
	b.injections.over.Wait()
}

// spend has it on record that a secret is about to be used: the first time before, and after that before the first use
// of each half minute, with how many there were that are not yet. Without that it is not used.
func (i *injection) spend(ctx context.Context, name, endpoint string) error {
	if err := i.b.uses.take(i.f.run, time.Now()); err != nil {
		return err
	}
	u := use{name, endpoint}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.ended != nil {
		return i.ended
	}
	n := i.uses[u]
	if n != nil && time.Since(n.noted) < injectNoted {
		n.n++
		return nil
	}
	count := int64(1)
	if n != nil {
		count += n.n
	}
	ctx, cancel := context.WithTimeout(ctx, injectNote)
	defer cancel()
	if err := i.note(ctx, u, count); err != nil {
		return err
	}
	i.uses[u] = &used{noted: time.Now()}
	return nil
}

// flush has on record what was used since that was, so that a broker that is killed has not forgotten more than a few seconds.
func (i *injection) flush(ctx context.Context) {
	i.noting.Lock()
	defer i.noting.Unlock()
	i.mu.Lock()
	due := make(map[use]int64)
	for u, n := range i.uses {
		if n.n > 0 {
			due[u] = n.n
			n.n = 0
		}
	}
	i.mu.Unlock()
	if len(due) > 0 {
		point("flush")
	}
	ctx, cancel := context.WithTimeout(ctx, injectLook)
	defer cancel()
	for u, d := range due {
		if err := i.note(ctx, u, d); err != nil {
			i.mu.Lock()
			i.uses[u].n += d // for the next time, or for end
			i.mu.Unlock()
		}
	}
}

func (i *injection) note(ctx context.Context, u use, count int64) error {
	what := map[string]any{"name": u.name, "host": u.endpoint, "count": count, "attempt": i.f.attempt, "envelope": fmt.Sprintf("%x", i.id[:])}
	if err := i.b.note(ctx, i.f, audit.KeyInjected, what, nil); err != nil {
		return fmt.Errorf("broker: record what is used: %w", err)
	}
	return nil
}
