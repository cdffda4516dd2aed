package runner

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stepward/stepward/internal/tunnel"
)

const (
	keepOffered = 16               // tunnels that wait for a program
	takeTimeout = 15 * time.Second // how long a program waits for a tunnel

	maxConnections = 1024 // of programs at a time, where there are descriptors for as many
)

// errNoTunnel is for a program to read.
var errNoTunnel = errors.New("no worker took the connection: none is connected, or too many connections are open")

// tunnels are the connections that the worker offers for what programs connect
// to. With the first of them, programs get a proxy, and are redirected.
type tunnels struct {
	offered   chan net.Conn
	redirects bool // where that is possible

	// slots has one for each connection of a program's that may be there at a time, by the proxy or redirected. Each
	// takes up to six descriptors, of the program's side, the tunnel's, and of what the kernel copies by.
	slots chan struct{}

	mu       sync.Mutex
	proxy    *proxy
	redirect *redirect
	closed   bool
	opened   map[*opened]bool
}

// An opened is a tunnel that a program uses.
type opened struct {
	net.Conn
	t *tunnels
}

// NetConn returns the connection itself, for what only moves bytes.
func (o *opened) NetConn() net.Conn { return o.Conn }

// Close closes the tunnel.
func (o *opened) Close() error {
	o.t.mu.Lock()
	delete(o.t.opened, o)
	o.t.mu.Unlock()
	return o.Conn.Close()
}

// setClosed ends all connections of programs, and refuses new ones.
func (t *tunnels) setClosed(closed bool) {
	t.mu.Lock()
	t.closed = closed
	var all []*opened
	if closed {
		for o := range t.opened {
			all = append(all, o)
		}
	}
	t.mu.Unlock()
	for _, o := range all {
		_ = o.Close()
	}
}

// use hands a tunnel to a program, unless all are closed.
func (t *tunnels) use(c net.Conn) (net.Conn, error) {
	o := &opened{c, t}
	t.mu.Lock()
	closed := t.closed
	if !closed {
		t.opened[o] = true
	}
	t.mu.Unlock()
	if closed {
		c.Close()
		return nil, errLapsed
	}
	return o, nil
}

func newTunnels(redirects bool) *tunnels {
	return &tunnels{offered: make(chan net.Conn, keepOffered), redirects: redirects, slots: make(chan struct{}, mostConnections()), opened: map[*opened]bool{}}
}

// mostConnections is how many connections programs may have: with them the tool runner has a quarter of its descriptors
// left for commands and files.
func mostConnections() int {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil || l.Cur > maxConnections*8 {
		return maxConnections
	}
	return max(1, int(l.Cur/8))
}

// slot takes a place for a connection, if there is one, until free is called.
func (t *tunnels) slot() (free func(), ok bool) {
	select {
	case t.slots <- struct{}{}:
		return sync.OnceFunc(func() { <-t.slots }), true
	default:
		return nil, false
	}
}

// start sees to it that there are both.
func (t *tunnels) start() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.proxy != nil {
		return nil
	}
	var err error
	if t.redirects && t.redirect == nil {
		if t.redirect, err = startRedirect(t); err != nil {
			return err
		}
	}
	p, err := startProxy(t)
	if err == nil {
		t.proxy = p
	}
	return err
}

// redirecting returns what redirects programs, nil if nothing does.
func (t *tunnels) redirecting() *redirect {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.redirect
}

// environ tells programs of the proxy, if there is one.
func (t *tunnels) environ() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.proxy == nil {
		return nil
	}
	return t.proxy.environ()
}

// offer keeps a tunnel until a program needs one. One too many takes the place of
// the oldest, whose worker may have gone.
func (t *tunnels) offer(c net.Conn) {
	for {
		select {
		case t.offered <- c:
			return
		default:
		}
		select {
		case old := <-t.offered:
			old.Close()
		default:
		}
	}
}

// open asks the worker for a connection. The error is a tunnel.DeniedError if it
// is not allowed.
func (t *tunnels) open(ctx context.Context, host string, port int) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, takeTimeout)
	defer cancel()
	for {
		var c net.Conn
		select {
		case c = <-t.offered:
		case <-ctx.Done():
			return nil, errNoTunnel
		}
		stop := context.AfterFunc(ctx, func() { c.Close() })
		v, err := tunnel.Ask(c, tunnel.Request{Host: host, Port: port})
		if !stop() && err == nil {
			err = ctx.Err()
		}
		if err == nil {
			err = v.Err()
		} else if ctx.Err() == nil {
			c.Close()
			continue // its worker had gone
		}
		if err != nil {
			c.Close()
			return nil, err
		}
		return t.use(c)
	}
}

// tunnel takes a connection of the worker's as a tunnel.
func (s *server) tunnel(w http.ResponseWriter, r *http.Request, c *conn) {
	token, epoch, err := tunnel.Credentials(r)
	later := false
	if err == nil {
		later, err = s.admit(c, token, epoch)
	}
	if err != nil {
		_ = c.Close()
		return
	}
	if later {
		s.execs.forsake(r.Context(), epoch)
	}
	if err := s.tunnels.start(); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	if t, err := tunnel.Accept(w, r); err == nil { // or the worker has gone
		s.tunnels.offer(t)
	}
}
