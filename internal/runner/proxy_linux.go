package runner

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stepward/stepward/internal/tunnel"
)

// A proxy is what programs of the sandbox connect by: a port on the loopback
// interface that speaks HTTP (CONNECT, and requests that name a whole URL) and
// SOCKS5. It decides nothing: the worker does, see package egress.
type proxy struct {
	tunnels *tunnels
	ln      *net.TCPListener
	forward http.Handler
	conns   chan net.Conn // for the HTTP server
}

// firstTimeout bounds how long a program may take to say what it speaks, and
// what it asks for.
const firstTimeout = 30 * time.Second

func startProxy(t *tunnels) (*proxy, error) {
	ln, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, fmt.Errorf("listen for programs: %w", err)
	}
	p := &proxy{tunnels: t, ln: ln, conns: make(chan net.Conn)}
	p.forward = tunnel.Forward(tunnel.Transport(func(ctx context.Context, _, addr string) (net.Conn, error) {
		return p.open(ctx, addr)
	}, false), refuse)
	server := &http.Server{Handler: p, ReadHeaderTimeout: firstTimeout, ErrorLog: log.New(io.Discard, "", 0)}
	go p.accept()
	go func() { _ = server.Serve(p) }() // as long as the sandbox is
	return p, nil
}

// environ is how programs learn of the proxy. ALL_PROXY does not say SOCKS, though
// that is spoken: programs that have no part for it fail to start.
func (p *proxy) environ() []string {
	url := "http://" + p.ln.Addr().String()
	const direct = "localhost,127.0.0.1,::1"
	return []string{
		"HTTP_PROXY=" + url, "HTTPS_PROXY=" + url, "ALL_PROXY=" + url, "NO_PROXY=" + direct,
		"http_proxy=" + url, "https_proxy=" + url, "all_proxy=" + url, "no_proxy=" + direct,
	}
}

// accept tells by the first byte what a program speaks.
func (p *proxy) accept() {
	for {
		c, err := p.ln.AcceptTCP()
		if errors.Is(err, net.ErrClosed) {
			return
		} else if err != nil { // out of descriptors: programs hold them, and give them back
			time.Sleep(10 * time.Millisecond)
			continue
		}
		free, ok := p.tunnels.slot()
		if !ok {
			_, _ = io.WriteString(c, "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\n\r\nstepward: too many connections are open in the sandbox\n")
			_ = c.Close()
			continue
		}
		go func() {
			h := &slotted{c, free}
			switch first, err := peek(c); {
			case err != nil:
				_ = h.Close()
			case first == socksVersion:
				p.socks(h)
			default:
				p.conns <- h
			}
		}()
	}
}

// A slotted connection has a place until it is closed.
type slotted struct {
	net.Conn
	free func()
}

// NetConn returns the connection itself, for what only moves bytes.
func (s *slotted) NetConn() net.Conn { return s.Conn }

// Close closes the connection.
func (s *slotted) Close() error {
	defer s.free()
	return s.Conn.Close()
}

// peek returns the first byte of a connection, and leaves it there.
func peek(c *net.TCPConn) (byte, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	_ = c.SetReadDeadline(time.Now().Add(firstTimeout))
	var first [1]byte
	var n int
	rerr := raw.Read(func(fd uintptr) bool {
		n, _, err = unix.Recvfrom(int(fd), first[:], unix.MSG_PEEK)
		return !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR)
	})
	if err = errors.Join(rerr, err); err == nil && n == 0 {
		err = io.EOF
	}
	_ = c.SetReadDeadline(time.Time{})
	return first[0], err
}

// Accept returns the next connection that speaks HTTP.
func (p *proxy) Accept() (net.Conn, error) { return <-p.conns, nil }

// Addr returns where programs connect to.
func (p *proxy) Addr() net.Addr { return p.ln.Addr() }

// Close is never called: the proxy ends with the process.
func (p *proxy) Close() error { return nil }

// open connects to "host:port".
func (p *proxy) open(ctx context.Context, addr string) (net.Conn, error) {
	host, text, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	port, err := strconv.Atoi(text)
	if err != nil {
		return nil, fmt.Errorf("port %q is no number", text)
	}
	return p.tunnels.open(ctx, host, port)
}

func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.Method == http.MethodConnect:
		p.connect(w, r)
	case r.URL.Scheme != "http" || r.URL.Host == "":
		http.Error(w, "stepward: this is the proxy of a sandbox: it takes CONNECT, and requests for a whole URL that begins with http://", http.StatusBadRequest)
	default:
		p.forward.ServeHTTP(w, r)
	}
}

func (p *proxy) connect(w http.ResponseWriter, r *http.Request) {
	t, err := p.open(r.Context(), r.Host)
	if err != nil {
		refuse(w, r, err)
		return
	}
	c, buf, err := http.NewResponseController(w).Hijack()
	if err != nil {
		t.Close()
		return
	}
	_, err = io.WriteString(c, "HTTP/1.1 200 Connection established\r\n\r\n")
	if n := buf.Reader.Buffered(); n > 0 && err == nil {
		early, _ := buf.Peek(n)
		_, err = t.Write(early)
	}
	if err != nil {
		c.Close()
		t.Close()
		return
	}
	tunnel.Relay(c, t)
}

// refuse tells a program why it was not connected.
func refuse(w http.ResponseWriter, _ *http.Request, err error) {
	code := http.StatusBadGateway
	var denied tunnel.DeniedError
	if errors.As(err, &denied) {
		code = http.StatusForbidden
	}
	http.Error(w, "stepward: "+text(err.Error()), code)
}
