package broker

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"strings"
	"sync"
	"time"

	"github.com/stepward/stepward/internal/tunnel"
)

// A channel is one connection of a sandbox to a host, which ends in the broker: what comes out of far is HTTP.
type channel struct {
	i         *injection
	endpoint  string
	leaf      *tls.Certificate
	near, far net.Conn
	transport *http.Transport
	forward   *httputil.ReverseProxy
	free      func() // gives its place back
	once      sync.Once
	over      chan struct{} // closed by cut
	served    chan struct{}
}

const injectHead = 30 * time.Second // for the head of a request

// connect makes a channel to an endpoint.
func (i *injection) connect(endpoint string) (*channel, error) {
	name, port := splitEndpoint(endpoint)
	leaf, err := i.ca.leaf(name)
	if err != nil {
		return nil, err
	}
	c := &channel{i: i, endpoint: endpoint, leaf: leaf, over: make(chan struct{}), served: make(chan struct{})}
	c.near, c.far = net.Pipe()
	c.transport = tunnel.Transport(nil, false)
	c.transport.DialContext = nil
	c.transport.DisableKeepAlives = true // net/http logs what a host sends that was not asked
	c.transport.DialTLSContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
		raw, err := i.policy.Connect(ctx, i.b.network, name, port)
		if err != nil {
			return nil, err
		}
		conn := tls.Client(raw, &tls.Config{RootCAs: i.b.Roots, ServerName: name, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}})
		if err := conn.HandshakeContext(ctx); err != nil {
			raw.Close()
			return nil, err
		}
		return &asked{Conn: conn, ready: make(chan struct{})}, nil
	}
	c.forward = tunnel.Forward(early{c.transport}, requestFailed)
	c.forward.ModifyResponse = i.clean
	i.mu.Lock()
	defer i.mu.Unlock()
	switch {
	case i.ended != nil:
		return nil, i.ended
	case !i.has(endpoint):
		return nil, refuse(reasonDenied, "", "broker: what the attempt had for %s was taken from it", endpoint)
	case len(i.conns) >= maxOfOne:
		return nil, &fullError{of: i.b.hosts.of, size: maxOfOne, who: "the attempt", has: maxOfOne}
	}
	if c.free, err = i.b.hosts.take(tenantShare(i.f.tenant)); err != nil {
		return nil, err
	}
	i.conns[c] = true
	return c, nil
}

// cut ends the channel.
func (c *channel) cut() {
	c.once.Do(func() {
		close(c.over)
		c.near.Close()
		c.far.Close()
	})
}

// close ends the channel, and gives back its place.
func (c *channel) close() {
	c.cut()
	<-c.served
	c.transport.CloseIdleConnections()
	c.i.mu.Lock()
	delete(c.i.conns, c)
	c.i.mu.Unlock()
	c.free()
}

// serve answers what comes over the channel until it ends.
func (c *channel) serve() {
	defer close(c.served)
	name, _ := splitEndpoint(c.endpoint)
	var p http.Protocols
	p.SetHTTP1(true)
	var working sync.WaitGroup // Serve does not wait for handlers
	s := &http.Server{
		Protocols: &p, ReadHeaderTimeout: injectHead, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 256 << 10, ErrorLog: log.New(io.Discard, "", 0),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			working.Add(1)
			defer working.Done()
			c.ServeHTTP(w, r)
		}),
	}
	t := &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}, Certificates: []tls.Certificate{*c.leaf},
		GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			if strings.TrimSuffix(strings.ToLower(h.ServerName), ".") != name {
				return nil, errors.New("its TLS is for another server")
			}
			return nil, nil
		},
	}
	_ = s.Serve(&lone{conn: tls.Server(closing{c.far, c.cut}, t), over: c.over}) // ends with the channel
	working.Wait()
}

// asked is a connection that is not read before something was written: what came unasked would be logged.
type asked struct {
	net.Conn
	once  sync.Once
	ready chan struct{}
}

func (a *asked) Write(p []byte) (int, error) {
	a.once.Do(func() { close(a.ready) })
	return a.Conn.Write(p)
}

func (a *asked) Read(p []byte) (int, error) {
	<-a.ready
	return a.Conn.Read(p)
}

func (a *asked) Close() error {
	a.once.Do(func() { close(a.ready) })
	return a.Conn.Close()
}

// closing tells when it is closed.
type closing struct {
	net.Conn
	closed func()
}

func (c closing) Close() error {
	c.closed()
	return nil
}

// lone is a listener that has one connection, and ends with it.
type lone struct {
	conn net.Conn
	over chan struct{}
}

func (l *lone) Accept() (net.Conn, error) {
	if c := l.conn; c != nil {
		l.conn = nil
		return c, nil
	}
	<-l.over
	return nil, net.ErrClosed
}

func (l *lone) Close() error   { return nil }
func (l *lone) Addr() net.Addr { return &net.UnixAddr{Net: "unix"} }
