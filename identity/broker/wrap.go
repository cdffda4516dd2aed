package broker

import (
	"context"
	"net"
	"slices"
	"strconv"
	"time"

	"github.com/stepward/stepward/audit"
	"github.com/stepward/stepward/internal/envelope"
	"github.com/stepward/stepward/internal/hostport"
	"github.com/stepward/stepward/internal/wrapped"
)

// wrap makes item one by which the sandbox has the value, if it can reach where that is.
func (f facts) wrap(item *envelope.Item, w wrapped.Value, g grant, all []grant) error {
	policy, err := f.def.policy()
	if err != nil {
		return refuse(reasonDenied, g.name, "broker: %s: the network of the step: %w", g.name, err)
	}
	host, port, err := wrapped.Endpoint(w.Address)
	if err != nil {
		return err
	}
	if why := policy.Permits(host, port); why != "" {
		return refuse(reasonDenied, g.name, "broker: %s: the sandbox has it from Vault at %s:%d itself, which the network of step %s does not allow: %s", g.name, host, port, f.def.Name, why)
	}
	for _, other := range all { // whose connections the broker makes
		if i := other.key.Inject; i != nil && slices.Contains(hostport.All(i.Hosts), net.JoinHostPort(host, strconv.Itoa(port))) {
			return refuse(reasonDenied, g.name, "broker: %s: the sandbox has it from Vault at %s:%d itself, where %s is put into requests", g.name, host, port, other.name)
		}
	}
	w.Weak = g.key.Weak
	item.Wrapped = true
	item.Value, err = w.Encode()
	return err
}

// lost records that a sandbox could not have a wrapped value, and ends what was issued with it. A worker may invent that, of
// what was wrapped for its own attempt and once: it ends that by it.
func (b *broker) lost(ctx context.Context, c claim, name string) error {
	f, err := b.facts(ctx, c)
	if err == nil {
		err = b.rates.take(c.run, time.Now())
	}
	if err != nil {
		return err
	}
	_, pins, key, _, err := b.openIssue(ctx, c)
	clear(key)
	if err != nil {
		b.changed(ctx, f, err)
		return err
	}
	if !slices.ContainsFunc(pins, func(p pin) bool { return p.Name == name && p.Wrapped }) {
		return refuse(reasonDenied, "", "broker: no secret of that name was wrapped for the attempt")
	}
	err = b.note(ctx, f, audit.EnvelopeRefused, map[string]any{
		"reason": reasonWrap, "name": name, "attempt": f.attempt,
		"error": "somebody else has had the wrapped value, or its time is over, or the token was of another path: rotate it",
	}, nil)
	if err != nil {
		return err
	}
	return b.close(ctx, c)
}
