package egress

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"time"

	"github.com/stepward/stepward/internal/tunnel"
)

// A Network is what connections are made with.
type Network struct {
	Resolve func(ctx context.Context, name string) ([]netip.Addr, error)
	Dial    func(ctx context.Context, to netip.AddrPort) (net.Conn, error)
}

// dialTimeout bounds how long one address is tried, and resolveTimeout how long
// a name is looked up.
const (
	dialTimeout    = 10 * time.Second
	resolveTimeout = 10 * time.Second
)

// ours is the worker's own network.
var ours = Network{
	Resolve: func(ctx context.Context, name string) ([]netip.Addr, error) {
		return net.DefaultResolver.LookupNetIP(ctx, "ip", name)
	},
	Dial: func(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", to.String())
	},
}

type networkKey struct{}

// WithNetwork returns a context in which sandboxes are started whose connections
// are made with n. It is for tests, which only this module has.
func WithNetwork(ctx context.Context, n Network) context.Context {
	return context.WithValue(ctx, networkKey{}, n)
}

// NetworkOf returns what WithNetwork said, else the real network.
func NetworkOf(ctx context.Context) Network {
	if n, ok := ctx.Value(networkKey{}).(Network); ok {
		return n
	}
	return ours
}

// connect connects to a host that the policy permits, if what it resolves to is harmless: else the error is a
// [tunnel.DeniedError].
func (n Network) connect(ctx context.Context, policy *Policy, h host, port int) (c net.Conn, to netip.AddrPort, err error) {
	addrs, err := n.resolve(ctx, h)
	if err != nil {
		return nil, to, err
	}
	var good []netip.Addr
	var why string
	for _, a := range addrs {
		if bad := policy.permitsAddr(h, a, port); bad != "" {
			why = bad
			continue
		}
		good = append(good, a)
	}
	if len(good) == 0 {
		return nil, to, tunnel.DeniedError(why)
	}
	for _, a := range good[:min(len(good), maxDials)] {
		to = netip.AddrPortFrom(a, uint16(port))
		if c, err = n.dialAddr(ctx, to); err == nil {
			return c, to, nil
		}
	}
	return nil, to, err
}

func (n Network) resolve(ctx context.Context, h host) ([]netip.Addr, error) {
	if h.addr.IsValid() {
		return []netip.Addr{h.addr}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	addrs, err := n.Resolve(ctx, h.name)
	if err == nil && len(addrs) == 0 {
		err = errors.New("no such host")
	}
	for i, a := range addrs {
		addrs[i] = a.Unmap().WithZone("")
	}
	return addrs, err
}

// maxDials is how many addresses of a name are tried.
const maxDials = 4

func (n Network) dialAddr(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	return n.Dial(ctx, to)
}
