package lambda

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/sandbox/lambda/internal/wire"
)

// Probe invokes the function, which says what holds in it.
func (b *Backend) Probe(ctx context.Context) (sandbox.Capabilities, error) {
	f, err := b.findings(ctx)
	if err != nil {
		return sandbox.Capabilities{}, err
	}
	return sandbox.Capabilities{Isolation: isolation, Landlock: f.Landlock, Seccomp: f.Seccomp}, nil
}

// isolation is what AWS gives every execution environment.
const isolation = "microvm"

// findings probes if nobody did.
func (b *Backend) findings(ctx context.Context) (wire.Facts, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.facts != nil {
		return *b.facts, nil
	}
	var f wire.Facts
	if b.config.Client == nil || b.config.Function == "" {
		return f, unavailable("Config needs a Client and a Function", nil)
	}
	body, err := b.invoke(ctx, wire.Request{Protocol: wire.Protocol, Sandbox: "probe-" + rand.Text()})
	if err != nil {
		return f, b.broken(ctx, err)
	}
	defer body.Close()
	raw, err := io.ReadAll(io.LimitReader(body, 64<<10))
	if err != nil {
		return f, b.broken(ctx, err)
	}
	if err := json.Unmarshal(raw, &f); err != nil || f.Protocol != wire.Protocol || !f.Seccomp {
		return f, unavailable(fmt.Sprintf("function %s is not one of package function: it answers %.100q", b.config.Function, raw), err)
	}
	if f.Capabilities {
		return f, unavailable("the function's process holds capabilities, which it should not", nil)
	}
	if f.Timeout <= wire.Margin {
		return f, unavailable(fmt.Sprintf("the timeout of function %s is %v: make it longer, up to %v", b.config.Function, f.Timeout, MaxTime), nil)
	}
	b.facts = &f
	return f, nil
}

// broken says that a probe failed.
func (b *Backend) broken(ctx context.Context, err error) error {
	var already *sandbox.UnavailableError
	if errors.As(err, &already) || ctx.Err() != nil {
		return err
	}
	return unavailable("function "+b.config.Function+" does not answer", err)
}

// Create checks that the function can do what the Spec says. There is nothing to
// make.
func (b *Backend) Create(ctx context.Context, c sandbox.Creation) (sandbox.Enforcement, error) {
	var none sandbox.Enforcement
	f, err := b.findings(ctx)
	if err != nil {
		return none, err
	}
	l := c.Spec.Limits
	most := f.Timeout - wire.Margin
	for _, r := range []struct {
		field  string
		set    bool
		reason string
	}{
		{"Image", c.Spec.Image != "", "the root file system is the function's"},
		{"Network.Allow", len(c.Spec.Network.Allow) > 0, "nothing leads from an invocation to the worker"},
		{"Limits.Memory", l.Memory > 0, "it is a setting of the function, for all sandboxes"},
		{"Limits.CPU", l.CPU > 0, "it comes with the memory that the function is set to"},
		{"Limits.PIDs", l.PIDs > 0, "AWS allows 1024 processes and threads, and has no setting"},
		{"Limits.Disk", l.Disk > 0, "the size of /tmp is a setting of the function, for all sandboxes"},
		{"Limits.OpenFiles", l.OpenFiles > 0, "AWS allows 1024 files, and has no setting"},
		{"Limits.Time", l.Time > most, fmt.Sprintf("%v, it can be %v: the timeout of the function is %v, and AWS Lambda allows no more than %v", l.Time, most, f.Timeout, MaxTime)},
	} {
		if r.set {
			return none, unsupported(r.field, r.reason)
		}
	}
	if l.Time == 0 {
		l.Time = most
	}
	return sandbox.Enforcement{
		Backend: Name, Isolation: isolation, Network: "none", Landlock: f.Landlock, Seccomp: f.Seccomp,
		NoNewPrivs: true, Capabilities: "none", ReadOnlyRoot: f.ReadOnlyRoot, Limits: sandbox.Limits{Time: l.Time},
	}, nil
}

// Dial fails: nothing can be connected to an execution environment.
func (*Backend) Dial(context.Context, string) (net.Conn, error) {
	return nil, fmt.Errorf("sandbox: backend %s runs commands and guest steps, and nothing else of a sandbox: %w", Name, errors.ErrUnsupported)
}

// List returns none: nothing is there between invocations.
func (*Backend) List(context.Context, string) ([]sandbox.Listed, error) { return nil, nil }

// Destroy does nothing. What runs goes on to its end, and AWS ends the execution
// environments when they have had nothing to do for a while.
func (*Backend) Destroy(context.Context, string) error { return nil }

// timeout is how an invocation's deadline is shown.
func (b *Backend) timeout() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.facts != nil {
		return b.facts.Timeout
	}
	return MaxTime
}
