package sandbox

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/stepward/stepward/internal/egress"
	"github.com/stepward/stepward/internal/tunnel"
)

// NetworkPolicy says which endpoints a sandbox may reach. The zero value reaches
// none: the sandbox has a loopback interface and nothing else.
//
// Connections are made by the worker, on behalf of programs that ask a proxy
// inside the sandbox: it speaks HTTP and SOCKS5 on a port of the loopback
// interface, which variables such as HTTPS_PROXY name. A name is resolved by the
// worker, once, if it is allowed. What is not allowed is refused at once, with a
// reason: 403 Forbidden over HTTP. UDP leaves no sandbox.
//
// A program that knows of no proxy connects as well where [Enforcement] says that the
// network is Transparent: the tool runner answers its calls of connect, and the name
// server that /etc/resolv.conf names, which gives every name an address of its own
// in 198.18.0.0/15. What is not allowed is EACCES, or a reset if the program asked not
// to wait and the answer took long. A program has a new socket then, connected
// to loopback, without the options that were set before; who has put it into an epoll
// or a copy of it elsewhere before connecting is left with the old one. Guest steps
// themselves, which nobody can look into, use the proxy, as the HTTP client of
// package net/http does; programs that they start need not.
type NetworkPolicy struct {
	// Allow lists what may be reached:
	//
	//   - "host" or "host:port": the name itself, on all ports or on one.
	//   - "*.host" or "*.host:port": all names below it, but not itself.
	//   - an address, with or without a port, or a CIDR.
	//
	// Names do not stand for addresses, nor addresses for names. What a name
	// resolves to must be on the Internet: private networks, loopback, link-local
	// addresses and other special ranges (metadata services are there) are refused
	// unless an address or a CIDR within the range is listed as well. "0.0.0.0/0"
	// is within none. So are the addresses of the worker's own host, public ones
	// too, unless that very address is listed.
	//
	// The server that TLS asks for (SNI), and the Host of each request over plain
	// HTTP, must be the name that the program connected to.
	Allow []string
}

// An Egress adds up what was decided about one endpoint that programs in a
// sandbox wanted to reach.
type Egress struct {
	Host     string `json:"host"`
	Port     int    `json:"port"`
	Decision string `json:"decision"`         // "allowed" or "denied"
	Reason   string `json:"reason,omitempty"` // of a denial, or why what was allowed failed
	Count    int64  `json:"count"`
	Sent     int64  `json:"sent"`     // bytes, counted when a connection ends
	Received int64  `json:"received"` // likewise
}

// Egress returns what was decided so far. After [Sandbox.Destroy] it is final.
func (s *Sandbox) Egress() []Egress {
	var out []Egress
	for _, r := range s.network.gate.Records() {
		out = append(out, Egress(r))
	}
	return out
}

// SetNetwork changes what the sandbox may reach. When it returns, connections
// that are not allowed any more have been closed, and no new one is made. A
// sandbox that had no network gets one for the commands that are started from
// here on. The policy is part of the [Handle], which Options.Keep gets first: whoever
// goes on with the sandbox begins with what was in force, or about to be.
func (s *Sandbox) SetNetwork(ctx context.Context, p NetworkPolicy) error {
	policy, err := p.parse()
	if err != nil {
		return err
	}
	s.setting.Lock()
	defer s.setting.Unlock()
	p.Allow = slices.Clone(p.Allow)
	if s.keep != nil {
		h := s.Handle()
		h.Spec.Network = p
		if err := s.keep(ctx, h); err != nil {
			return fmt.Errorf("sandbox: the network is what it was, as the handle was not kept: %w", err)
		}
	}
	s.mu.Lock()
	s.spec.Network = p
	s.mu.Unlock()
	s.network.gate.SetPolicy(policy)
	return s.network.open(ctx, policy)
}

func (p NetworkPolicy) parse() (*egress.Policy, error) {
	policy, err := egress.Parse(p.Allow)
	if err != nil {
		return nil, &SpecError{Field: "Network.Allow", Reason: err.Error()}
	}
	return policy, nil
}

const (
	offers     = 4   // tunnels that wait for a program to connect
	maxTunnels = 256 // that are in use at a time
)

// A network is the worker's side of what a sandbox reaches.
type network struct {
	s    *Sandbox
	gate *egress.Gate

	mu     sync.Mutex
	opened bool
	slots  chan struct{} // one for each tunnel, offered or in use
	offers chan struct{} // one for each that is offered
}

func newNetwork(ctx context.Context, s *Sandbox, policy *egress.Policy) *network {
	return &network{
		s: s, gate: egress.New(policy, egress.NetworkOf(ctx)),
		slots: make(chan struct{}, maxTunnels), offers: make(chan struct{}, offers),
	}
}

// open begins to offer tunnels, if a policy allows anything. The first is there
// when it returns.
func (n *network) open(ctx context.Context, policy *egress.Policy) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.opened || policy.Empty() {
		return nil
	}
	c, err := n.offer(ctx)
	if err != nil {
		return fmt.Errorf("sandbox: offer a network: %w", err)
	}
	n.opened = true
	n.slots <- struct{}{}
	n.offers <- struct{}{}
	go n.serve(c)
	go n.keep()
	return nil
}

// offer makes a tunnel.
func (n *network) offer(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, helloTimeout)
	defer cancel()
	c, err := n.s.backend.Dial(ctx, n.s.id)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	t, err := tunnel.Offer(c, n.s.token(), int64(n.s.labels.Epoch))
	if err != nil {
		c.Close()
		return nil, err
	}
	return t, nil
}

// keep sees to it that programs find tunnels, until the sandbox ends.
func (n *network) keep() {
	const least, most = 50 * time.Millisecond, 5 * time.Second
	pause := least
	for {
		for _, ch := range []chan struct{}{n.offers, n.slots} {
			select {
			case ch <- struct{}{}:
			case <-n.s.destroyed:
				return
			}
		}
		c, err := n.offer(context.Background())
		if err == nil {
			pause = least
			go n.serve(c)
			continue
		}
		<-n.offers
		<-n.slots
		select {
		case <-time.After(pause):
			pause = min(2*pause, most)
		case <-n.s.destroyed:
			return
		}
	}
}

// serve waits for a program to take the tunnel, and serves it.
func (n *network) serve(c net.Conn) {
	defer func() { <-n.slots }()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	gone := make(chan struct{})
	defer close(gone)
	go func() {
		select {
		case <-n.s.destroyed:
			cancel()
			c.Close()
		case <-gone:
		}
	}()
	req, err := tunnel.Asked(c)
	<-n.offers
	if err != nil {
		c.Close()
		return
	}
	n.gate.Serve(ctx, c, req)
}
