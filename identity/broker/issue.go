package broker

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/stepward/stepward/audit"
	"github.com/stepward/stepward/identity"
	"github.com/stepward/stepward/internal/envelope"
	"github.com/stepward/stepward/internal/envelope/seal"
	"github.com/stepward/stepward/internal/rpc"
)

// issue answers a hello with the secrets of an attempt. The order is the promise: what
// is about to leave is on record before anything can be sealed.
func (b *broker) issue(ctx context.Context, c claim, hello []byte) (*rpc.IssueResponse, error) {
	f, err := b.facts(ctx, c)
	if err == nil {
		err = b.rates.take(c.run, time.Now()) // after the fence: who only names a run takes no place of it
	}
	if err != nil {
		return nil, err
	}
	out, err := b.issueTo(ctx, f, hello)
	if r := (*refusal)(nil); errors.As(err, &r) && r.reason != reasonFenced {
		b.refused(ctx, f, r)
	}
	return out, err
}

func (b *broker) issueTo(ctx context.Context, f facts, hello []byte) (*rpc.IssueResponse, error) {
	binding, again, err := b.binding(ctx, f)
	if err != nil {
		return nil, err
	}
	sealed := b.sealed(f, binding.Digest())
	at, unknown := b.attest(ctx, sealed, hello, standingOf(ctx)) // policies are asked about the level
	bound, err := b.resolve(ctx, f, binding, again, at.level)
	if unknown != nil { // a denial would be for good
		if best, no := b.resolve(ctx, f, binding, again, identity.L2); no == nil && (err != nil || !bound.gives(best)) {
			return nil, fmt.Errorf("broker: a policy demands level L2: %w", unknown)
		}
	}
	if err != nil {
		return nil, err
	}
	if err := bound.demand(at, unknown); err != nil {
		return nil, err
	}
	var id envelope.ID
	rand.Read(id[:])
	sealer, err := seal.New(b.root.sign, hello, envelope.Head{
		ID: id, Facts: sealed, Terms: envelope.Terms{Freeze: b.Freeze, Kill: b.Kill}, Epoch: bound.revocations,
	})
	if err != nil {
		return nil, refuse(reasonDenied, "", "broker: the sandbox's hello: %w", err)
	}
	got, err := b.fetch(ctx, f, bound, id, at)
	defer got.wipe()
	bound.withheld = append(bound.withheld, got.missing...)
	point("fetched")
	said := 0
	var now current
	for changed := true; changed && err == nil; { // until nothing was revoked in between
		if now, err = b.recheck(ctx, f, &bound, got); err != nil {
			break
		}
		if err = b.withhold(ctx, f, bound.withheld[said:]); err != nil {
			break
		}
		said = len(bound.withheld)
		point("checked")
		changed, err = b.record(ctx, f, id, at, bound, got, sealer.RenewalKey(), now.Epochs)
	}
	if err != nil {
		b.release(ctx, got.leases)
		return nil, err
	}
	point("recorded")
	b.warn(ctx, f, now, got.pins)
	items, hosts := got.items, endpoints(got.pins)
	if len(hosts) > 0 {
		trusted, err := b.authorityOf(id, f, got.pins)
		if err != nil {
			return nil, err
		}
		items = append(items, trusted)
	}
	out, err := sealer.Seal(items)
	if err != nil {
		return nil, err
	}
	return &rpc.IssueResponse{Envelope: out, Id: id[:], Inject: hosts}, nil
}

// point is where tests end the broker.
var point = func(string) {}

// pin says what an attempt was given: enough to give the same again, or to notice that it
// is not the same.
type pin struct {
	Name        string          `json:"name"`
	From        identity.Origin `json:"from"`
	Profiles    []int64         `json:"profiles,omitempty"` // ids of those that it is of beside From, where that is the run
	Ref         string          `json:"ref,omitempty"`      // none: a knob
	Version     string          `json:"version,omitempty"`
	Created     *time.Time      `json:"created,omitempty"`
	Fingerprint string          `json:"fingerprint,omitempty"`
	Leased      bool            `json:"leased,omitempty"`
	Wrapped     bool            `json:"wrapped,omitempty"` // the broker has not seen it: the fingerprint is of its version

	// Repeats is the run that had this before; Equivalent, that it is no more than made the same way, for who asks.
	Repeats    int64 `json:"repeats,omitempty"`
	Equivalent bool  `json:"equivalent,omitempty"`

	Inject *identity.Inject `json:"inject,omitempty"` // it is not in the sandbox
	Level  identity.Level   `json:"level,omitzero"`   // if it is not that of the envelope

	Policies []identity.Ruling `json:"policies,omitempty"` // also those that keep it from a command

	// Epochs is of what has no version: what was revoked before, it is not of.
	Epochs map[string]int64 `json:"epochs,omitempty"`
}

// record writes down what is about to leave, with an event. Nothing has left if it fails. Nothing was written, and
// what is revoked is to be looked at again, if that is not what it was at these epochs.
func (b *broker) record(ctx context.Context, f facts, id envelope.ID, at standing, bound bound, got *fetched, renewal []byte, now map[string]int64) (again bool, err error) {
	pins, err := json.Marshal(got.pins)
	if err != nil {
		return false, err
	}
	var leases []byte
	if len(got.leases) > 0 {
		plain, err := json.Marshal(got.leases)
		if err != nil {
			return false, err
		}
		leases = b.root.seal(plain, "leases "+hex.EncodeToString(id[:]))
	}
	sealed, err := b.root.sealRenewal(renewal, id, f.claim, got.pins)
	if err != nil {
		return false, err
	}
	var going *bool
	err = b.Pool.QueryRow(ctx, b.q.IssuePut, f.args(id[:], at.level.String(), bound.revocations, string(pins), sealed, leases, b.actor, now[f.tenant], now[""], at.why)...).Scan(&going)
	e, ok := errors.AsType[*pgconn.PgError](err)
	if ok && e.Code == "55P03" {
		return false, fmt.Errorf("broker: record what would be issued: somebody holds up the run, or what is revoked of its tenant: %w", err)
	}
	if ok && e.Code == "42501" {
		return false, refuse(reasonStore, "", "broker: it may not record what it would issue: where a BrokerRole was given to Migrate, a worker's own role may not, and the broker is to be one with that role: see Broker of worker.Config: %w", err)
	}
	if err != nil {
		return false, fmt.Errorf("broker: record what would be issued: %w", err)
	}
	if going != nil && !*going {
		return false, refuse(reasonFenced, "", "broker: the attempt has gone to another worker, or is over")
	}
	return going == nil, nil
}

// withhold records what the attempt can do without, and does not get. That nothing sets it needs no event.
func (b *broker) withhold(ctx context.Context, f facts, withheld []identity.Resolved) error {
	for _, w := range withheld {
		if errors.Is(w.Err, identity.ErrMissing) {
			continue
		}
		what := map[string]any{"name": w.Name, "attempt": f.attempt, "error": w.Err.Error()}
		if err := b.note(ctx, f, audit.KeyWithheld, what, w.Err); err != nil {
			return fmt.Errorf("broker: record what is withheld: %w", err)
		}
	}
	return nil
}

// warn records which keys are deprecated of what was issued. They are none the worse if that cannot be recorded.
func (b *broker) warn(ctx context.Context, f facts, now current, pins []pin) {
	for _, p := range pins {
		state, why := now.Of(f.useOf(p))
		if state != identity.Deprecated {
			continue
		}
		what := map[string]any{"name": p.Name, "version": p.Version, "attempt": f.attempt, "deprecated": naming(why)}
		if err := b.note(ctx, f, audit.KeyDeprecated, what, nil); err != nil {
			b.Logger.WarnContext(ctx, "that a key is deprecated was not recorded", "run", f.run, "name", p.Name, "error", err)
		}
	}
}

// refused records a no. It stands also if that cannot be recorded.
func (b *broker) refused(ctx context.Context, f facts, r *refusal) {
	what := map[string]any{"reason": r.reason, "name": r.name, "attempt": f.attempt, "error": r.err.Error()}
	if err := b.note(ctx, f, audit.EnvelopeRefused, what, r.err); err != nil {
		b.Logger.WarnContext(ctx, "a refusal was not recorded", "run", f.run, "error", err)
	}
}

// note records what an attempt does not get, with what policies said of it.
func (b *broker) note(ctx context.Context, f facts, kind string, what map[string]any, why error) error {
	if k, ok := errors.AsType[*identity.KeyError](why); ok && len(k.Rulings) > 0 {
		what["policies"] = k.Rulings
	}
	detail, err := json.Marshal(what)
	if err == nil {
		_, err = b.Pool.Exec(ctx, b.q.IssueNoted, f.run, kind, b.actor, f.key, detail)
	}
	return err
}
