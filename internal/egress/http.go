package egress

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stepward/stepward/internal/tunnel"
)

// headTimeout bounds how long the head of a request may take once it has begun.
const headTimeout = 60 * time.Second

// serveHTTP reads the requests of a program, which begin with read, and passes on
// those that are for the host. They are written anew: nothing that two readers
// could take for different requests gets through.
func (f *flow) serveHTTP(read []byte) (sent, received int64, denied string) {
	first := make(chan net.Conn, 1)
	first <- f.upstream
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		select {
		case c := <-first:
			return c, nil
		default: // the server closed that one, or is asked twice at a time
			return f.g.network.dialAddr(ctx, f.addr)
		}
	}
	two := bytes.HasPrefix(read, []byte("PRI ")) // not left to the server, which waits for more than a short request has
	transport := tunnel.Transport(dial, two)
	defer transport.CloseIdleConnections()
	forward := tunnel.Forward(transport, f.failed)

	client := &counted{Conn: f.client, before: read, closed: make(chan struct{})}
	var protocols http.Protocols
	protocols.SetHTTP1(!two)
	protocols.SetUnencryptedHTTP2(two)
	server := &http.Server{
		Protocols: &protocols, ReadHeaderTimeout: headTimeout, MaxHeaderBytes: 1 << 20,
		ErrorLog: log.New(io.Discard, "", 0),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if why := f.wrongRequest(r); why != "" {
				f.g.mu.Lock()
				f.g.record(recordKey{f.host.String(), f.port, Denied, why}, 1, 0, 0)
				f.g.mu.Unlock()
				w.Header().Set("Connection", "close")
				http.Error(w, "stepward: not allowed: "+why, http.StatusForbidden)
				return
			}
			r.URL.Scheme, r.URL.Host = "http", net.JoinHostPort(f.host.String(), strconv.Itoa(f.port))
			forward.ServeHTTP(w, r)
		}),
	}
	_ = server.Serve(&oneConn{conn: client}) // ends with the connection
	return client.in.Load(), client.out.Load(), ""
}

// wrongRequest says why a request is not for the host.
func (f *flow) wrongRequest(r *http.Request) string {
	if r.Method == http.MethodConnect {
		return "it asks another proxy to connect it"
	}
	name, port, ok := strings.Cut(r.Host, ":")
	if ok && port != strconv.Itoa(f.port) || !strings.EqualFold(name, f.host.name) {
		return fmt.Sprintf("the request is for another host: %s", shown(r.Host))
	}
	return ""
}

func (f *flow) failed(w http.ResponseWriter, r *http.Request, err error) {
	http.Error(w, fmt.Sprintf("stepward: %s: %s", f.host, reason(err)), http.StatusBadGateway)
}

// counted is the connection of a program. It begins with what was read of it, and
// counts.
type counted struct {
	net.Conn
	before  []byte // used by the one reader
	in, out atomic.Int64
	once    sync.Once
	closed  chan struct{}
}

func (c *counted) Read(p []byte) (n int, err error) {
	if len(c.before) > 0 {
		n = copy(p, c.before)
		c.before = c.before[n:]
	} else {
		n, err = c.Conn.Read(p)
	}
	c.in.Add(int64(n))
	return n, err
}

func (c *counted) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.out.Add(int64(n))
	return n, err
}

func (c *counted) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// oneConn is a listener that has one connection, and ends with it.
type oneConn struct {
	conn  *counted
	taken bool // used by the one caller of Accept
}

func (l *oneConn) Accept() (net.Conn, error) {
	if l.taken {
		<-l.conn.closed
		return nil, net.ErrClosed
	}
	l.taken = true
	return l.conn, nil
}

func (l *oneConn) Close() error   { return nil }
func (l *oneConn) Addr() net.Addr { return l.conn.LocalAddr() }
