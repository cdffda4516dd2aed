package egress

import (
	"context"
	"net"
	"net/netip"
	"time"
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
