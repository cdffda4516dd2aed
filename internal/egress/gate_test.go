package egress

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stepward/stepward/internal/tunnel"
)

// public is the address that names of these tests have.
var public = netip.MustParseAddr("93.184.216.34")

// A world is what a gate sees: names, and servers of this process by port.
type world struct {
	names    map[string][]netip.Addr
	servers  map[int]string // address of a listener
	resolved atomic.Int64
	dialled  chan netip.AddrPort
}

func newWorld() *world {
	return &world{names: map[string][]netip.Addr{"ok.test": {public}}, servers: map[int]string{}, dialled: make(chan netip.AddrPort, 100)}
}

func (w *world) network() Network {
	return Network{
		Resolve: func(_ context.Context, name string) ([]netip.Addr, error) {
			w.resolved.Add(1)
			if a := w.names[name]; a != nil {
				return a, nil
			}
			return nil, &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
		},
		Dial: func(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
			w.dialled <- to
			var d net.Dialer
			return d.DialContext(ctx, "tcp", w.servers[int(to.Port())])
		},
	}
}

// listen serves connections by a function.
func (w *world) listen(t *testing.T, port int, serve func(net.Conn)) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	w.servers[port] = ln.Addr().String()
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); serve(c) }()
		}
	}()
}

func (w *world) http(t *testing.T, port int, h http.HandlerFunc) {
	s := httptest.NewUnstartedServer(h)
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetHTTP1(true)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	t.Cleanup(s.Close)
	w.servers[port] = s.Listener.Addr().String()
}

func (w *world) gate(t *testing.T, allow ...string) *Gate {
	t.Helper()
	pol, err := Parse(allow)
	if err != nil {
		t.Fatal(err)
	}
	g := New(pol, w.network())
	t.Cleanup(g.Close)
	return g
}

// pair is a connection and its other end.
func pair(t *testing.T) (*net.TCPConn, *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	a, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a.(*net.TCPConn), b.(*net.TCPConn)
}

// connect asks the gate for a connection, as the tool runner does.
func connect(t *testing.T, g *Gate, host string, port int) (*net.TCPConn, error) {
	t.Helper()
	ours, theirs := pair(t)
	go func() {
		req, err := tunnel.Asked(theirs)
		if err != nil {
			theirs.Close()
			return
		}
		g.Serve(context.Background(), theirs, req)
	}()
	v, err := tunnel.Ask(ours, tunnel.Request{Host: host, Port: port})
	if err != nil {
		t.Fatal(err)
	}
	return ours, v.Err()
}

func mustConnect(t *testing.T, g *Gate, host string, port int) *net.TCPConn {
	t.Helper()
	c, err := connect(t, g, host, port)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (w *world) nobodyDialled(t *testing.T) {
	t.Helper()
	select {
	case to := <-w.dialled:
		t.Errorf("%s was dialled", to)
	default:
	}
}

func echo(c net.Conn) { _, _ = io.Copy(c, c) }

// The names that a program can write, through to the refusal that it gets. None
// of them is resolved: that alone would tell a name server.
func TestDeny(t *testing.T) {
	w := newWorld()
	w.names["evil.test"] = []netip.Addr{public}
	g := w.gate(t, "ok.test", "0.0.0.0/0", "::/0")
	for _, host := range []string{
		"evil.test", "ok.test.evil.test", "secret-data.evil.test", "ok.test.", "evil.test\x00.ok.test", "ok.test@evil.test", "ok%2etest", "",
		"0x7f000001", "2130706433", "127.1", "127.0.0.1", "0.0.0.0", "::1", "[::ffff:169.254.169.254]", "169.254.169.254", "64:ff9b::a9fe:a9fe", "10.0.0.1",
		strings.Repeat("x", 4000),
	} {
		_, err := connect(t, g, host, 80)
		var denied tunnel.DeniedError
		if !errors.As(err, &denied) {
			t.Errorf("%.60q: %v, want it denied", host, err)
		}
	}
	if n := w.resolved.Load(); n > 0 {
		t.Errorf("%d names were resolved", n)
	}
	w.nobodyDialled(t)
	for _, port := range []int{0, -1, 65536} {
		if _, err := connect(t, g, "ok.test", port); err == nil {
			t.Errorf("port %d is allowed", port)
		}
	}
	var n int64
	for _, r := range g.Records() {
		if r.Decision != Denied || r.Reason == "" || strings.ContainsAny(r.Host, "\x00\r\n") || len(r.Host) > 300 {
			t.Errorf("on record: %+v", r)
		}
		n += r.Count
	}
	if n != 22 {
		t.Errorf("%d denials are on record, of 22", n)
	}
}

// An allowed name whose server belongs to someone else now: what it resolves to
// is checked, and what was checked is dialled, though the name says something
// else the next time.
func TestRebind(t *testing.T) {
	w := newWorld()
	w.listen(t, 443, echo)
	n := w.network()
	answers := [][]netip.Addr{{netip.MustParseAddr("127.0.0.1")}, {netip.MustParseAddr("::ffff:10.0.0.1"), public}, {netip.MustParseAddr("169.254.169.254")}}
	n.Resolve = func(context.Context, string) ([]netip.Addr, error) {
		a := answers[0]
		answers = answers[1:]
		return a, nil
	}
	pol, _ := Parse([]string{"ok.test"})
	g := New(pol, n)
	if _, err := connect(t, g, "ok.test", 443); err == nil || !strings.Contains(err.Error(), "127.0.0.0/8 (loopback)") {
		t.Errorf("to 127.0.0.1: %v", err)
	}
	w.nobodyDialled(t)
	mustConnect(t, g, "ok.test", 443)
	if to := <-w.dialled; to.Addr() != public {
		t.Errorf("dialled %s", to)
	}
	if len(answers) != 1 {
		t.Errorf("resolved %d times for two connections", 3-len(answers))
	}
}

// Bytes go through both ways, one direction may end before the other, and what
// was moved is on record.
func TestRaw(t *testing.T) {
	w := newWorld()
	w.listen(t, 9000, echo)
	g := w.gate(t, "ok.test:9000", "8.8.8.8")
	for _, host := range []string{"ok.test", "8.8.8.8"} {
		c := mustConnect(t, g, host, 9000)
		in := bytes.Repeat([]byte("stepward"), 1<<16)
		go func() { c.Write(in); c.CloseWrite() }()
		if out, err := io.ReadAll(c); err != nil || !bytes.Equal(out, in) {
			t.Errorf("%s: %d bytes of %d, %v", host, len(out), len(in), err)
		}
	}
	g.Close()
	for _, r := range g.Records() {
		if r.Decision != Allowed || r.Count != 1 || r.Sent != 1<<19 || r.Received != 1<<19 {
			t.Errorf("on record: %+v", r)
		}
	}
	if len(g.Records()) != 2 {
		t.Errorf("on record: %+v", g.Records())
	}
}

// A server that speaks first is heard before the program says anything.
func TestServerFirst(t *testing.T) {
	w := newWorld()
	w.listen(t, 22, func(c net.Conn) { fmt.Fprint(c, "SSH-2.0-test\r\n"); echo(c) })
	c := mustConnect(t, w.gate(t, "ok.test"), "ok.test", 22)
	r := bufio.NewReader(c)
	if line, err := r.ReadString('\n'); line != "SSH-2.0-test\r\n" {
		t.Fatalf("%q, %v", line, err)
	}
	fmt.Fprint(c, "SSH-2.0-client\r\n")
	if line, err := r.ReadString('\n'); line != "SSH-2.0-client\r\n" {
		t.Errorf("%q, %v", line, err)
	}
}

// What TLS asks for must be what the program connected to.
func TestServerName(t *testing.T) {
	w := newWorld()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "hello") }))
	s.EnableHTTP2 = true
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	w.servers[443], w.servers[8443] = s.Listener.Addr().String(), s.Listener.Addr().String()
	g := w.gate(t, "ok.test", "8.8.8.8")
	for _, c := range []struct {
		host, sni string
		port      int
		ok        bool
	}{
		{"ok.test", "ok.test", 443, true},
		{"ok.test", "OK.test", 443, true},
		{"ok.test", "ok.test", 8443, true},
		{"ok.test", "evil.test", 443, false},
		{"ok.test", "evil.test", 8443, false},
		{"ok.test", "a.ok.test", 443, false},
		{"ok.test", "", 443, false},
		{"8.8.8.8", "anything.test", 443, true},
		{"8.8.8.8", "", 443, true},
	} {
		conn := mustConnect(t, g, c.host, c.port)
		client := tls.Client(conn, &tls.Config{ServerName: c.sni, InsecureSkipVerify: true, MinVersion: tls.VersionTLS12})
		err := client.HandshakeContext(t.Context())
		if (err == nil) != c.ok {
			t.Errorf("%s asked for %q on %d: %v", c.host, c.sni, c.port, err)
		}
		if err != nil && !strings.Contains(err.Error(), "unrecognized name") {
			t.Errorf("%s asked for %q: %v, want to be told of the name", c.host, c.sni, err)
		}
		conn.Close()
	}
	// In many small pieces, as a program may send it to mislead.
	conn := mustConnect(t, g, "ok.test", 443)
	if err := tls.Client(&dripping{conn}, &tls.Config{ServerName: "evil.test", InsecureSkipVerify: true}).HandshakeContext(t.Context()); err == nil {
		t.Error("the wrong name in pieces got through")
	}
	conn = mustConnect(t, g, "ok.test", 443)
	if err := tls.Client(&dripping{conn}, &tls.Config{ServerName: "ok.test", InsecureSkipVerify: true}).HandshakeContext(t.Context()); err != nil {
		t.Errorf("the right name in pieces: %v", err)
	}
	conn = mustConnect(t, g, "ok.test", 443)
	conn.Write([]byte{0x16, 3, 1, 0, 4, 1, 0, 0, 0})
	if out, _ := io.ReadAll(conn); len(out) != 0 && !bytes.Equal(out, alert) {
		t.Errorf("a hello that is none: %q", out)
	}
}

type dripping struct{ net.Conn }

func (d *dripping) Write(p []byte) (int, error) {
	for i := range p {
		if _, err := d.Conn.Write(p[i : i+1]); err != nil {
			return i, err
		}
	}
	return len(p), nil
}

// Each request over plain HTTP must be for the host that was connected to.
func TestHTTPHost(t *testing.T) {
	w := newWorld()
	var served atomic.Int64
	w.http(t, 80, func(w http.ResponseWriter, r *http.Request) {
		served.Add(1)
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %s %q", r.Method, r.Host, r.RequestURI, body)
	})
	w.servers[8080] = w.servers[80]
	g := w.gate(t, "ok.test")
	for _, c := range []struct {
		port int
		send string
		want string // part of what comes back
	}{
		{80, "GET /a%2Fb?c;d HTTP/1.1\r\nHost: ok.test\r\n\r\n", `GET ok.test /a%2Fb?c;d ""`},
		{80, "GET / HTTP/1.1\r\nHost: OK.test:80\r\n\r\n", "GET OK.test:80"},
		{80, "POST / HTTP/1.1\r\nHost: ok.test\r\nContent-Length: 4\r\n\r\nbody", `"body"`},
		{80, "POST / HTTP/1.1\r\nHost: ok.test\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n", `"body"`},
		{80, "GET / HTTP/1.0\r\nHost: ok.test\r\n\r\n", "GET ok.test"},
		{8080, "GET / HTTP/1.1\r\nHost: ok.test:8080\r\n\r\n", "GET ok.test:8080"},
		{80, "GET / HTTP/1.1\r\nHost: evil.test\r\n\r\n", "403 Forbidden"},
		{8080, "GET / HTTP/1.1\r\nHost: evil.test\r\n\r\n", "403 Forbidden"},
		{80, "GET / HTTP/1.1\r\nHost: ok.test:8080\r\n\r\n", "403 Forbidden"},
		{80, "GET / HTTP/1.1\r\nHost: ok.test.\r\n\r\n", "403 Forbidden"},
		{80, "\r\n\r\nGET / HTTP/1.1\r\nHost: evil.test\r\n\r\n", "400 Bad Request"},
		{80, "BREW / HTTP/1.1\r\nHost: evil.test\r\n\r\n", "403 Forbidden"},
		{80, "GET http://evil.test/ HTTP/1.1\r\nHost: ok.test\r\n\r\n", "403 Forbidden"},
		{80, "CONNECT evil.test:443 HTTP/1.1\r\nHost: ok.test\r\n\r\n", "403 Forbidden"},
		{80, "CONNECT ok.test:80 HTTP/1.1\r\nHost: ok.test\r\n\r\n", "403 Forbidden"},
		{80, "GET / HTTP/1.1\r\n\r\n", "400 Bad Request"},
		{80, "GET /\r\n\r\n", "400 Bad Request"},
		{80, "GET / HTTP/1.1\r\nHost: ok.test\r\nHost: evil.test\r\n\r\n", "400 Bad Request"},
		{80, "GET / HTTP/1.1\r\nHost: ok.test\r\n Host: evil.test\r\n\r\n", "40"},
		{80, "GET / HTTP/1.1\r\nHost : evil.test\r\n\r\n", "400 Bad Request"},
		{80, "POST / HTTP/1.1\r\nHost: ok.test\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nbody!", "400 Bad Request"},
		{80, "POST / HTTP/1.1\r\nHost: ok.test\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", "501"},
		{80, "GET / HTTP/1.1\r\nHost: ok.test\r\nX: a\x00b\r\n\r\n", "400 Bad Request"},
	} {
		conn := mustConnect(t, g, "ok.test", c.port)
		if _, err := io.WriteString(conn, c.send); err != nil {
			t.Error(err)
		}
		var out []byte
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err == nil {
			out, err = httputil.DumpResponse(resp, true)
			resp.Body.Close()
		}
		if !strings.Contains(string(out), c.want) || strings.Contains(string(out), "evil.test \"") {
			t.Errorf("%q\ngot %q, %v, want %q", c.send, out, err, c.want)
		}
	}
	if n := served.Load(); n != 6 {
		t.Errorf("the server got %d requests, not 6", n)
	}
}

// The second request of a connection is checked as the first one is, and nothing
// that is hidden in a body is one.
func TestSmuggling(t *testing.T) {
	w := newWorld()
	got := make(chan string, 10)
	w.http(t, 80, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got <- r.Host + " " + string(body)
	})
	g := w.gate(t, "ok.test")
	conn := mustConnect(t, g, "ok.test", 80)
	fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: ok.test\r\n\r\nGET / HTTP/1.1\r\nHost: evil.test\r\n\r\n")
	out, _ := io.ReadAll(conn)
	if !strings.HasPrefix(string(out), "HTTP/1.1 200") || !strings.Contains(string(out), "403 Forbidden") {
		t.Errorf("two requests: %q", out)
	}
	if first := <-got; first != "ok.test " {
		t.Errorf("the server got %q", first)
	}
	hidden := "0\r\n\r\nGET / HTTP/1.1\r\nHost: evil.test\r\n\r\n"
	conn = mustConnect(t, g, "ok.test", 80)
	fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: ok.test\r\nContent-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n%s", len(hidden), hidden)
	// What was hidden is the next request, and refused as such; then the connection ends.
	out, err := io.ReadAll(conn)
	if text := string(out); err != nil || !strings.HasPrefix(text, "HTTP/1.1 200") || strings.Count(text, "HTTP/1.1 200") != 1 || !strings.Contains(text, "403 Forbidden") {
		t.Errorf("a request with two lengths: %q, %v", out, err)
	}
	for len(got) > 0 {
		if r := <-got; strings.HasPrefix(r, "evil") {
			t.Errorf("the server got %q", r)
		}
	}
}

// HTTP/2 without TLS is checked in each stream.
func TestPlainHTTP2(t *testing.T) {
	w := newWorld()
	w.http(t, 80, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Proto, " ", r.Host) })
	g := w.gate(t, "ok.test")
	client := &http.Client{Transport: tunnel.Transport(func(context.Context, string, string) (net.Conn, error) {
		return connect(t, g, "ok.test", 80)
	}, true)}
	defer client.CloseIdleConnections()
	for host, want := range map[string]int{"ok.test": 200, "evil.test": 403} {
		resp, err := client.Get("http://" + host)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != want || want == 200 && string(body) != "HTTP/2.0 ok.test" {
			t.Errorf("%s: %s %s", host, resp.Status, body)
		}
	}
}

// A response that goes on for long arrives as it is written, and a connection
// that is switched to another protocol is passed on.
func TestStreams(t *testing.T) {
	w := newWorld()
	next := make(chan string)
	w.http(t, 80, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "" {
			w.Header().Set("Connection", "Upgrade")
			w.Header().Set("Upgrade", r.Header.Get("Upgrade"))
			w.WriteHeader(http.StatusSwitchingProtocols)
			c, buf, err := http.NewResponseController(w).Hijack()
			if err != nil {
				return
			}
			defer c.Close()
			io.Copy(c, buf)
			return
		}
		for s := range next {
			fmt.Fprint(w, s)
			http.NewResponseController(w).Flush()
		}
	})
	g := w.gate(t, "ok.test")
	conn := mustConnect(t, g, "ok.test", 80)
	fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: ok.test\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("%v, %v", resp, err)
	}
	defer resp.Body.Close()
	fmt.Fprint(conn, "ping\n")
	if line, err := r.ReadString('\n'); line != "ping\n" {
		t.Errorf("%q, %v", line, err)
	}
	conn.Close()

	conn = mustConnect(t, g, "ok.test", 80)
	fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: ok.test\r\n\r\n")
	next <- "data: 1\n"
	resp, err = http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body := bufio.NewReader(resp.Body)
	for i := range 3 {
		want := fmt.Sprintf("data: %d\n", i+1)
		if line, err := body.ReadString('\n'); line != want {
			t.Errorf("%q, %v, want %q", line, err, want)
		}
		if i < 2 {
			next <- fmt.Sprintf("data: %d\n", i+2)
		}
	}
	close(next)
}

// On ports whose servers many names share, nothing gets through that does not say
// which one it is for.
func TestOpenings(t *testing.T) {
	for send, want := range map[string]opening{
		"GET / HTTP/1.1\r\n": openingHTTP, "\r\n\nGET / HTTP/1.1\r\n": openingHTTP, "GET /\n": openingHTTP, "x /a HTTP/9\n": openingHTTP,
		"PRI * HTTP/2.0\r\n": openingHTTP, "GET\t/ HTTP/1.1\n": openingHTTP, "GET / HTTP/1.1": openingHTTP, "CONNECT a:1": openingHTTP,
		"\x16\x03\x01": openingTLS, "SSH-2.0-x\r\n": openingOther, "EHLO me\r\n": openingOther, "*1\r\n": openingOther, "": openingOther,
		"PING\r\n": openingOther, "\x00\x00": openingOther, "hello": openingOther, "GET": openingOther, "PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n": openingOther,
	} {
		r := &chunks{strings.NewReader(send)}
		read, kind, err := sniff(r)
		if kind != want || err != nil && !errors.Is(err, io.EOF) || !strings.HasPrefix(send, string(read)) {
			t.Errorf("%q is %d (%q, %v), want %d", send, kind, read, err, want)
		}
	}
	if _, _, err := sniff(strings.NewReader("GET /" + strings.Repeat("x", 1<<20))); !errors.Is(err, errLine) {
		t.Errorf("a line without an end: %v", err)
	}
	w := newWorld()
	w.listen(t, 443, echo)
	w.listen(t, 80, echo)
	g := w.gate(t, "ok.test")
	for _, port := range []int{80, 443} {
		c := mustConnect(t, g, "ok.test", port)
		fmt.Fprint(c, "SSH-2.0-x\r\n")
		if out, err := io.ReadAll(c); len(out) > 0 {
			t.Errorf("%q, %v", out, err)
		}
	}
}

// chunks gives one byte at a time.
type chunks struct{ r io.Reader }

func (c *chunks) Read(p []byte) (int, error) { return c.r.Read(p[:min(1, len(p))]) }

// Connections that a new policy does not allow end, the others go on.
func TestSetPolicy(t *testing.T) {
	w := newWorld()
	w.names["two.test"] = []netip.Addr{netip.MustParseAddr("8.8.8.8")}
	w.listen(t, 9000, echo)
	g := w.gate(t, "ok.test", "two.test")
	one, two := mustConnect(t, g, "ok.test", 9000), mustConnect(t, g, "two.test", 9000)
	for _, c := range []net.Conn{one, two} {
		fmt.Fprint(c, "x\n")
		if _, err := io.ReadFull(c, make([]byte, 2)); err != nil {
			t.Fatal(err)
		}
	}
	pol, _ := Parse([]string{"two.test"})
	g.SetPolicy(pol)
	if _, err := one.Read(make([]byte, 1)); err == nil {
		t.Error("a connection that is not allowed any more goes on")
	}
	fmt.Fprint(two, "y\n")
	if _, err := io.ReadFull(two, make([]byte, 2)); err != nil {
		t.Errorf("the other one: %v", err)
	}
	if _, err := connect(t, g, "ok.test", 9000); err == nil {
		t.Error("it can be made again")
	}
	g.Close()
	if _, err := two.Read(make([]byte, 1)); err == nil {
		t.Error("a connection outlives its gate")
	}
	found := false
	for _, r := range g.Records() {
		found = found || r.Host == "ok.test" && strings.HasPrefix(r.Reason, "the policy was changed: ")
	}
	if !found {
		t.Errorf("on record: %+v", g.Records())
	}
}

// Who makes up names fills neither memory nor records.
func TestRecordsAreBounded(t *testing.T) {
	w := newWorld()
	g := w.gate(t)
	for i := range 2 * maxRecords {
		_, err := g.admit(t.Context(), nil, tunnel.Request{Host: strconv.Itoa(i) + ".test", Port: 80})
		if err == nil {
			t.Fatal("allowed")
		}
	}
	rs := g.Records()
	if len(rs) != maxRecords+1 || rs[0].Host != others || rs[0].Count != maxRecords {
		t.Errorf("%d on record, the first is %+v", len(rs), rs[0])
	}
}

// What cannot be reached is an error that says so, and no denial. It is over
// after some time.
func TestUnreachable(t *testing.T) {
	w := newWorld()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.servers[80] = ln.Addr().String()
	ln.Close()
	g := w.gate(t, "ok.test", "none.test")
	for host, want := range map[string]string{"ok.test": "connection refused", "none.test": "no such host"} {
		_, err := connect(t, g, host, 80)
		var failed tunnel.FailedError
		if !errors.As(err, &failed) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", host, err, want)
		}
	}
	for _, r := range g.Records() {
		if r.Decision != Allowed || r.Reason == "" {
			t.Errorf("on record: %+v", r)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		stuck := Network{Resolve: w.network().Resolve, Dial: func(ctx context.Context, _ netip.AddrPort) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}}
		pol, _ := Parse([]string{"ok.test"})
		begin := time.Now()
		_, err := New(pol, stuck).admit(t.Context(), nil, tunnel.Request{Host: "ok.test", Port: 80})
		if err == nil || time.Since(begin) > dialTimeout {
			t.Errorf("%v after %v", err, time.Since(begin))
		}
	})
}

// A routed endpoint is reached by its route alone, by TLS for its name, if the policy allows it; others by the network.
func TestRoute(t *testing.T) {
	w := newWorld()
	w.names["ok.com"] = []netip.Addr{public}
	w.http(t, 80, func(rw http.ResponseWriter, r *http.Request) { fmt.Fprint(rw, "the network") })
	g := w.gate(t, "ok.com")
	asked := make(chan string, 8)
	g.SetRoutes([]string{"ok.com:443", "denied.com:443"}, func(_ context.Context, endpoint string) (net.Conn, error) {
		asked <- endpoint
		a, b := net.Pipe()
		go func() { _, _ = io.Copy(b, b) }() // it sends back what it gets
		return a, nil
	})
	say := func(host string, port int, text string) string {
		t.Helper()
		c, err := connect(t, g, host, port)
		if err != nil {
			return err.Error()
		}
		if _, err := io.WriteString(c, text); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 256)
		n, _ := io.ReadAtLeast(c, got, 12)
		return string(got[:n])
	}
	if got := say("OK.com", 443, "GET / HTTP/1.1\r\nHost: ok.com\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.1 403") {
		t.Errorf("without TLS: %q", got)
	}
	if got := <-asked; got != "ok.com:443" {
		t.Errorf("the route was asked for %q", got)
	}
	if got := say("denied.com", 443, ""); !strings.Contains(got, "no entry") {
		t.Errorf("what the policy does not name: %q", got)
	}
	if got := say("ok.com", 80, "GET / HTTP/1.1\r\nHost: ok.com\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.1 200") {
		t.Errorf("another port: %q", got)
	}
	if len(asked) > 0 {
		t.Errorf("the route was asked for %q", <-asked)
	}
}
