// Package egress decides where a sandbox may connect to, connects, and keeps
// account. It is the worker's side of what leaves a sandbox: the tool runner
// inside only carries bytes, see package tunnel.
//
// A [Gate] holds one [Policy] of one sandbox. What a program asks for is a host,
// as it wrote it, and a port. The host must be plain (no form that another
// reader could take for something else), the policy must name it, and what it
// resolves to must not lead back into the worker's own network. A name is
// resolved once and the address that was checked is the one that is dialled. A
// name that is not allowed is not resolved: that would tell it to a name server
// of somebody's choice.
//
// What a program then sends must be for the host that it asked for: the server's
// name in the first message of TLS, and Host in every request of HTTP. A program
// that went to an address may send what it likes.
//
// # What it cannot do
//
// Inside TLS nothing is seen. Who shares servers with an allowed host can be
// reached through it, by a Host other than the name in TLS, or by an encrypted
// name (ECH); and so can every account at an allowed host.
package egress

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"

	"github.com/stepward/stepward/internal/tunnel"
)

// A Gate decides about the connections of one sandbox. It is safe for concurrent
// use.
type Gate struct {
	network Network

	mu      sync.Mutex
	policy  *Policy
	routes  map[string]Route // by endpoint
	flows   map[*flow]bool
	records map[recordKey]*Record
	closed  bool
	running sync.WaitGroup
}

// A flow is one connection that was let through.
type flow struct {
	g    *Gate
	host host
	port int
	addr netip.AddrPort

	client   net.Conn
	upstream net.Conn
	routed   bool   // upstream is a Route's, and addr not known
	revoked  string // under g.mu: why it was ended
}

// New returns a gate.
func New(p *Policy, n Network) *Gate {
	return &Gate{network: n, policy: p, flows: map[*flow]bool{}, records: map[recordKey]*Record{}}
}

// SetPolicy changes the policy. Connections that it does not allow are closed.
func (g *Gate) SetPolicy(p *Policy) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.policy = p
	for f := range g.flows {
		if why := f.why(p); why != "" {
			f.revoke("the policy was changed: " + why)
		}
	}
}

// Close ends all connections, and lets no more through. The records are final
// when it returns.
func (g *Gate) Close() {
	g.mu.Lock()
	g.closed = true
	for f := range g.flows {
		f.revoke("")
	}
	g.mu.Unlock()
	g.running.Wait()
}

// why says why the policy does not allow the flow, "" if it does.
func (f *flow) why(p *Policy) string {
	if why := p.permits(f.host, f.port); why != "" || f.routed {
		return why
	}
	return p.permitsAddr(f.host, f.addr.Addr(), f.port)
}

// revoke ends a flow. The caller holds g.mu.
func (f *flow) revoke(why string) {
	if f.revoked == "" {
		f.revoked = why
	}
	f.client.Close()
	f.upstream.Close()
}

// Serve handles one connection, of which a program asked what req says. It
// returns when the connection has ended, and has closed it then.
func (g *Gate) Serve(ctx context.Context, client net.Conn, req tunnel.Request) {
	defer client.Close()
	g.mu.Lock()
	if g.closed {
		g.mu.Unlock()
		return
	}
	g.running.Add(1)
	g.mu.Unlock()
	defer g.running.Done()

	f, err := g.admit(ctx, client, req)
	var v tunnel.Verdict
	var denied tunnel.DeniedError
	switch {
	case errors.As(err, &denied):
		v.Denied = string(denied)
	case err != nil:
		v.Failed = err.Error()
	}
	if err := tunnel.Answer(client, v); err != nil || f == nil {
		if f != nil {
			f.end(0, 0, "")
		}
		return
	}
	f.end(f.run())
}

// admit decides, and connects.
func (g *Gate) admit(ctx context.Context, client net.Conn, req tunnel.Request) (*flow, error) {
	deny := func(host, why string) error {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.record(recordKey{host, req.Port, Denied, why}, 1, 0, 0)
		return tunnel.DeniedError(fmt.Sprintf("%s is not allowed: %s", net.JoinHostPort(host, fmt.Sprint(req.Port)), why))
	}
	h, err := parseHost(req.Host)
	if err == nil && (req.Port < 1 || req.Port > 65535) {
		err = errors.New("it has no port")
	}
	if err != nil {
		return nil, deny(shown(req.Host), err.Error())
	}
	policy := g.current()
	if why := policy.permits(h, req.Port); why != "" {
		return nil, deny(h.String(), why)
	}
	fail := func(err error) error {
		why := reason(err)
		g.mu.Lock()
		defer g.mu.Unlock()
		g.record(recordKey{h.String(), req.Port, Allowed, why}, 1, 0, 0)
		return tunnel.FailedError(fmt.Sprintf("%s: %s", net.JoinHostPort(h.String(), fmt.Sprint(req.Port)), why))
	}
	f := &flow{g: g, host: h, port: req.Port, client: client}
	if route := g.route(h, req.Port); route != nil {
		f.routed = true
		f.upstream, err = route(ctx, Endpoint(h.String(), req.Port))
	} else {
		f.upstream, f.addr, err = g.network.connect(ctx, policy, h, req.Port)
	}
	var denied tunnel.DeniedError
	switch {
	case errors.As(err, &denied):
		return nil, deny(h.String(), string(denied))
	case err != nil:
		return nil, fail(err)
	}
	g.mu.Lock()
	why := f.why(g.policy) // which may have changed meanwhile
	if g.closed {
		why = "the sandbox has ended"
	}
	if why == "" {
		g.flows[f] = true
	}
	g.mu.Unlock()
	if why != "" {
		f.upstream.Close()
		return nil, deny(h.String(), why)
	}
	return f, nil
}

func (g *Gate) current() *Policy {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.policy
}

// reason is a short text for why a connection failed. It keeps apart what the
// records should, and no more.
func reason(err error) string {
	var dns *net.DNSError
	var errno syscall.Errno
	var timeout net.Error
	switch {
	case errors.As(err, &dns) && dns.IsNotFound:
		return "no such host"
	case errors.As(err, &timeout) && timeout.Timeout():
		return "timed out"
	case errors.As(err, &errno):
		return errno.Error()
	}
	return strings.ToValidUTF8(err.Error(), "\uFFFD")
}

// end accounts for a flow that was let through.
func (f *flow) end(sent, received int64, denied string) {
	f.client.Close()
	f.upstream.Close()
	f.g.mu.Lock()
	defer f.g.mu.Unlock()
	delete(f.g.flows, f)
	if f.revoked != "" {
		denied = f.revoked
	}
	f.g.record(recordKey{f.host.String(), f.port, Allowed, ""}, 1, sent, received)
	if denied != "" {
		f.g.record(recordKey{f.host.String(), f.port, Denied, denied}, 1, 0, 0)
	}
}
