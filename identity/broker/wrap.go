package broker

import (
	"context"
	"slices"

	"github.com/stepward/stepward/internal/envelope"
	"github.com/stepward/stepward/internal/wrapped"
)

// wrap makes item one by which the sandbox has the value, if it can reach where that is.
func (f facts) wrap(item *envelope.Item, w wrapped.Value, g grant) error {
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
	w.Weak = g.key.Weak
	item.Wrapped = true
	item.Value, err = w.Encode()
	return err
}

// lost records that a sandbox could not have a wrapped value. What was issued with it is closed by the worker, or swept.
func (b *broker) lost(ctx context.Context, c claim, name string) error {
	f, err := b.facts(ctx, c)
	if err != nil {
		return err
	}
	if !slices.Contains(f.def.Secrets, name) {
		return refuse(reasonUnresolved, "", "broker: step %s has no secret of that name", f.def.Name)
	}
	b.refused(ctx, f, refuse(reasonWrap, name, "broker: %s: somebody else has had the wrapped value, or its time is over, or the token was of another path: rotate it", name))
	return nil
}
