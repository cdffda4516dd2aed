package egress

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"

	"github.com/stepward/stepward/internal/tunnel"
)

// A Route connects to an endpoint in another way than by the network.
type Route func(ctx context.Context, endpoint string) (net.Conn, error)

// Endpoint is how a route is asked for a host and a port.
func Endpoint(name string, port int) string { return name + ":" + strconv.Itoa(port) }

// SetRoutes has connections to these endpoints made by a route from now on, if the policy allows them. What
// programs send there has to be TLS. Those that are there go on.
func (g *Gate) SetRoutes(endpoints []string, r Route) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.routes = make(map[string]Route, len(endpoints))
	for _, e := range endpoints {
		g.routes[e] = r
	}
}

// route returns the way to a host, nil if that is the network.
func (g *Gate) route(h host, port int) Route {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.routes[Endpoint(h.String(), port)]
}

// Connect connects to a host, as a gate with this policy would. What is not allowed is a [tunnel.DeniedError].
func (pol *Policy) Connect(ctx context.Context, n Network, name string, port int) (net.Conn, error) {
	h, err := parseHost(name)
	if err != nil {
		return nil, tunnel.DeniedError(err.Error())
	}
	if why := pol.permits(h, port); why != "" {
		return nil, tunnel.DeniedError(why)
	}
	c, _, err := n.connect(ctx, pol, h, port)
	if err != nil && !errors.As(err, new(tunnel.DeniedError)) {
		err = fmt.Errorf("%s", reason(err))
	}
	return c, err
}

// Permits says why nothing may go to a name, "" if it may.
func (pol *Policy) Permits(name string, port int) string {
	h, err := parseHost(name)
	if err != nil {
		return err.Error()
	}
	return pol.permits(h, port)
}

// Open names an entry that allows all addresses there are, of a version; "" if there is none.
func (pol *Policy) Open() string {
	for _, r := range pol.rules {
		if r.prefix.IsValid() && r.prefix.Bits() == 0 {
			return r.prefix.String()
		}
	}
	return ""
}
