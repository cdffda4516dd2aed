package runner

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/stepward/stepward/internal/tunnel"
)

const (
	keepOffered = 16               // tunnels that wait for a program
	takeTimeout = 15 * time.Second // how long a program waits for a tunnel
)

// errNoTunnel is for a program to read.
var errNoTunnel = errors.New("no worker took the connection: none is connected, or too many connections are open")

// tunnels are the connections that the worker offers for what programs connect
// to. With the first of them, programs get a proxy, and are redirected.
type tunnels struct {
	offered   chan net.Conn
	redirects bool // where that is possible

	mu       sync.Mutex
	proxy    *proxy
	redirect *redirect
}

func newTunnels(redirects bool) *tunnels {
	return &tunnels{offered: make(chan net.Conn, keepOffered), redirects: redirects}
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
		return c, nil
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
