package broker_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/stepward/stepward/identity"
	"github.com/stepward/stepward/internal/brokerlink"
	"github.com/stepward/stepward/internal/egress"
	"github.com/stepward/stepward/internal/envelope"
	"github.com/stepward/stepward/internal/rpc"
	"github.com/stepward/stepward/internal/testenv"
	"github.com/stepward/stepward/workflow"
)

const injectedValue = "s3cr3t-canary/of+the=account"

// upstream is a host with certificates of its own, for example.com and names below, and the network that leads there.
type upstream struct {
	*httptest.Server
	mu      sync.Mutex
	got     []http.Header
	entered chan string // paths that wait
}

func newUpstream(t *testing.T) *upstream {
	a := &upstream{entered: make(chan string, 10)}
	a.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.mu.Lock()
		a.got = append(a.got, r.Header.Clone())
		a.mu.Unlock()
		auth := r.Header.Get("Authorization")
		body, _ := io.ReadAll(r.Body) // a connection that is closed before that is reset
		switch r.URL.Path {
		case "/echo":
			w.Header().Set("X-Echo", auth)
			w.Header().Set("Trailer", "X-End")
			fmt.Fprintf(w, "raw %s base64 %s", auth, base64.StdEncoding.EncodeToString([]byte("x"+auth)))
			w.Header().Set("X-End", auth)
		case "/split":
			for _, c := range []byte(auth) {
				_, _ = w.Write([]byte{c})
				w.(http.Flusher).Flush()
			}
		case "/elsewhere":
			http.Redirect(w, r, "https://other.example/?was="+auth, http.StatusFound)
		case "/zip":
			w.Header().Set("Content-Encoding", "gzip")
			fmt.Fprint(w, "never looked at")
		case "/wait":
			fmt.Fprintln(w, "begun")
			w.(http.Flusher).Flush()
			a.entered <- r.URL.Path
			<-r.Context().Done()
		default:
			fmt.Fprintf(w, "%d bytes", len(body))
		}
	}))
	t.Cleanup(func() {
		a.CloseClientConnections() // or a request that waits would keep it
		a.Close()
	})
	return a
}

// saw returns the header of all requests.
func (a *upstream) saw(name string) (all []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, h := range a.got {
		all = append(all, h.Get(name))
	}
	return all
}

// network has every name resolve to where, and leads to the api.
func (a *upstream) network(where string) egress.Network {
	return egress.Network{
		Resolve: func(context.Context, string) ([]netip.Addr, error) {
			return []netip.Addr{netip.MustParseAddr(where)}, nil
		},
		Dial: func(ctx context.Context, _ netip.AddrPort) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", a.Listener.Addr().String())
		},
	}
}

// injecting is an attempt whose key is put into the requests to example.com.
type injecting struct {
	*fixture
	*upstream
	link        *brokerlink.Link
	opened      envelope.Opened
	placeholder string
	trusted     *x509.CertPool
}

func newInjecting(t *testing.T, where string, change func(*fixture, *identity.Key)) *injecting {
	t.Helper()
	n := &injecting{fixture: newFixture(t, "API_TOKEN"), upstream: newUpstream(t)}
	n.allow("example.com:443")
	n.store.values["acme/token"] = injectedValue
	n.cfg.Roots = x509.NewCertPool()
	n.cfg.Roots.AddCert(n.Certificate())
	n.ctx = egress.WithNetwork(context.Background(), n.network(where))
	k := identity.Key{Ref: "mem://acme/token", Inject: &identity.Inject{Hosts: []string{"Example.com"}}}
	if change != nil {
		change(n.fixture, &k)
	}
	n.put("API_TOKEN", k)
	n.link = n.serve()
	return n
}

// allow makes the network of the steps.
func (f *fixture) allow(entries ...string) {
	f.exec(`UPDATE stepward.definition SET steps = convert_to((SELECT jsonb_agg(s || jsonb_build_object('sandbox', jsonb_build_object('Network', jsonb_build_object('Allow', $1::text[])))) FROM jsonb_array_elements(convert_from(steps, 'UTF8')::jsonb) AS s)::text, 'UTF8')`, entries)
}

// issue has the placeholder, and what to trust.
func (n *injecting) issue() {
	n.t.Helper()
	var err error
	if n.opened, err = get(n.t.Context(), n.link, n.claim); err != nil {
		n.t.Fatal(err)
	}
	n.trusted = x509.NewCertPool()
	for _, i := range n.opened.Items {
		switch {
		case strings.Contains(string(i.Value), "s3cr3t"):
			n.t.Fatalf("%s is in the envelope", i.Name)
		case i.Store == envelope.Placeholder:
			n.placeholder = string(i.Value)
		case i.Store == envelope.Authority && !n.trusted.AppendCertsFromPEM(i.Value):
			n.t.Fatal("no certificate")
		}
	}
}

// dial is what the worker does for a program of the sandbox.
func (n *injecting) dial(ctx context.Context, endpoint string) (net.Conn, error) {
	c, err := n.link.Client(ctx)
	if err != nil {
		return nil, err
	}
	return brokerlink.Inject(ctx, c, n.claim, endpoint)
}

// client is a program in the sandbox.
func (n *injecting) client() *http.Client {
	return &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: n.trusted},
			DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) { return n.dial(ctx, addr) },
		},
	}
}

// do makes a request, and returns the whole answer as one text.
func (n *injecting) do(method, path, body string, header ...string) (code int, answer string) {
	n.t.Helper()
	r, err := http.NewRequestWithContext(n.t.Context(), method, "https://example.com"+path, strings.NewReader(body))
	if err != nil {
		n.t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		if r.Header.Set(header[i], header[i+1]); header[i] == "Host" {
			r.Host = header[i+1]
		}
	}
	resp, err := n.client().Do(r)
	if err != nil {
		n.t.Fatal(err)
	}
	defer resp.Body.Close()
	all, err := io.ReadAll(resp.Body)
	if err != nil {
		n.t.Fatal(err)
	}
	return resp.StatusCode, fmt.Sprint(resp.Header, string(all), resp.Trailer)
}

// The value arrives where the placeholder was in the header, at the host that it is for, and what the host echoes
// comes back without it, in any part of the answer and in several encodings.
func TestInject(t *testing.T) {
	n := newInjecting(t, "93.184.216.34", nil)
	n.issue()
	if !strings.HasPrefix(n.placeholder, "stepward_") || len(n.placeholder) < 40 {
		t.Fatalf("the placeholder is %q", n.placeholder)
	}
	basic := func(s string) string { return "Basic " + base64.StdEncoding.EncodeToString([]byte(s)) }
	for _, c := range []struct{ path, sent, arrives string }{
		{"/echo", "Bearer " + n.placeholder, "Bearer " + injectedValue},
		{"/split", "token " + n.placeholder, "token " + injectedValue},
		{"/", n.placeholder, injectedValue},
		{"/", basic("git:" + n.placeholder), basic("git:" + injectedValue)},
		{"/", basic(n.placeholder + ":x"), basic(injectedValue + ":x")},
		{"/elsewhere", "Bearer " + n.placeholder, "Bearer " + injectedValue},
		{"/", "Bearer x" + n.placeholder, "Bearer x" + n.placeholder},
		{"/", "", ""},
	} {
		before := len(n.saw("Authorization"))
		code, answer := n.do("POST", c.path, "key="+n.placeholder, "Authorization", c.sent, "X-Other", n.placeholder)
		saw := n.saw("Authorization")[before:]
		if len(saw) != 1 || saw[0] != c.arrives || n.saw("X-Other")[before] != n.placeholder || code >= 400 {
			t.Errorf("%s with %q: the host saw %q, and said %d", c.path, c.sent, saw, code)
		}
		if strings.Contains(answer, "s3cr3t") || strings.Contains(answer, base64.StdEncoding.EncodeToString([]byte(injectedValue))[4:20]) {
			t.Errorf("%s: the answer has the value: %s", c.path, answer)
		}
		if strings.Contains(c.arrives, "s3cr3t") && c.path == "/echo" && strings.Count(answer, "[REDACTED:API_TOKEN]") != 4 {
			t.Errorf("%s: want an answer with four marks: %s", c.path, answer)
		}
	}
	if code, answer := n.do("GET", "/zip", ""); code != http.StatusBadGateway || !strings.Contains(answer, "compresses") {
		t.Errorf("what is compressed: %d %s", code, answer)
	}
	if code, _ := n.do("GET", "/", "", "Host", "other.example", "Authorization", "Bearer "+n.placeholder); code != http.StatusMisdirectedRequest {
		t.Errorf("a request for another host: %d", code)
	}
	if code, _ := n.do("GET", "/", "", "Connection", "Upgrade", "Upgrade", "websocket"); code != http.StatusNotImplemented {
		t.Errorf("an upgrade: %d", code)
	}
	if got := n.count("SELECT count(*)::int FROM stepward.event WHERE kind = 'key.injected' AND convert_from(detail, 'UTF8')::jsonb @> $1", `{"name": "API_TOKEN", "host": "example.com:443", "count": 1}`); got != 1 {
		t.Errorf("%d events before the first use", got)
	}
	n.close()
	if got := n.count("SELECT sum((convert_from(detail, 'UTF8')::jsonb->>'count')::int)::int FROM stepward.event WHERE kind = 'key.injected'"); got != 6 {
		t.Errorf("%d uses are on record", got)
	}
	if _, err := n.dial(t.Context(), "example.com:443"); reason(err) != "unopened" {
		t.Errorf("what is closed is put into requests: %v", err)
	}
	for _, table := range []string{"event", "issue", "binding", "profile"} {
		if got := n.count("SELECT count(*)::int FROM stepward." + table + " x WHERE x::text LIKE '%s3cr3t%' OR x::text LIKE '%" + fmt.Sprintf("%x", "s3cr3t") + "%'"); got != 0 {
			t.Errorf("%d rows of %s have the value", got, table)
		}
	}
}

// What is not TLS for the host is not answered, and no other endpoint leads anywhere.
func TestInjectElsewhere(t *testing.T) {
	n := newInjecting(t, "93.184.216.34", nil)
	n.issue()
	for _, e := range []string{"other.example:443", "example.com:80", "example.com", "93.184.216.34:443", "www.example.com:443", ""} {
		if _, err := n.dial(t.Context(), e); reason(err) != "denied" {
			t.Errorf("%q: %v", e, err)
		}
	}
	c, err := n.dial(t.Context(), "example.com:443")
	if err != nil {
		t.Fatal(err)
	}
	if err := tls.Client(c, &tls.Config{RootCAs: n.trusted, ServerName: "other.example"}).HandshakeContext(t.Context()); err == nil {
		t.Error("TLS for another server is answered")
	}
	if c, err = n.dial(t.Context(), "example.com:443"); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: example.com\r\nAuthorization: Bearer %s\r\n\r\n", n.placeholder)
	if got, _ := io.ReadAll(c); strings.HasPrefix(string(got), "HTTP/1.1 2") {
		t.Errorf("without TLS: %q", got)
	}
	if c, err = n.dial(t.Context(), "example.com:443"); err != nil {
		t.Fatal(err)
	}
	two := tls.Client(c, &tls.Config{RootCAs: n.trusted, ServerName: "example.com", NextProtos: []string{"h2", "http/1.1"}})
	if err := two.HandshakeContext(t.Context()); err != nil || two.ConnectionState().NegotiatedProtocol != "http/1.1" {
		t.Errorf("h2: %v, %q", err, two.ConnectionState().NegotiatedProtocol)
	}
	c.Close()
	stale := proto.CloneOf(n.claim)
	stale.Epoch = 2
	if client, err := n.link.Client(t.Context()); err != nil {
		t.Fatal(err)
	} else if _, err := brokerlink.Inject(t.Context(), client, stale, "example.com:443"); reason(err) != "fenced" {
		t.Errorf("a claim that is not on record: %v", err)
	}
	if got := n.saw("Authorization"); len(got) > 0 {
		t.Errorf("the host saw %q", got)
	}
}

// A host that is not what its certificate says, or that leads inside, gets nothing.
func TestInjectWrongHost(t *testing.T) {
	for where, change := range map[string]func(*fixture, *identity.Key){
		"169.254.169.254": nil,
		"93.184.216.34":   func(f *fixture, _ *identity.Key) { f.cfg.Roots = x509.NewCertPool() },
	} {
		n := newInjecting(t, where, change)
		n.issue()
		code, answer := n.do("GET", "/", "", "Authorization", "Bearer "+n.placeholder)
		if (code != http.StatusForbidden && code != http.StatusBadGateway) || len(n.saw("Authorization")) > 0 || strings.Contains(answer, "s3cr3t") {
			t.Errorf("%s: %d %s", where, code, answer)
		}
	}
}

// A hard revocation cuts what runs with the next renewal, and a soft one lets nothing new begin.
func TestInjectRevoked(t *testing.T) {
	n := newInjecting(t, "93.184.216.34", nil)
	n.issue()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://example.com/wait", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+n.placeholder)
	resp, err := n.client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body := bufio.NewReader(resp.Body)
	if line, err := body.ReadString('\n'); err != nil || line != "begun\n" {
		t.Fatalf("got %q, %v", line, err)
	}
	testenv.Receive(t, n.entered)
	revoke := func(s identity.State) {
		t.Helper()
		if err := n.profiles.Revoke(t.Context(), identity.Revocation{Tenant: "acme", Kind: identity.KindKey, Target: "API_TOKEN", State: s}); err != nil {
			t.Fatal(err)
		}
	}
	revoke(identity.Soft)
	if _, err := n.dial(t.Context(), "example.com:443"); reason(err) != "revoked" {
		t.Errorf("a new use of what is softly revoked: %v", err)
	}
	if s, err := renew(t.Context(), n.link, n.claim, n.opened); err != nil || s.State != envelope.Renewed {
		t.Fatalf("got %+v, %v", s, err)
	}
	revoke(identity.Hard)
	if s, err := renew(t.Context(), n.link, n.claim, n.opened); err != nil || s.State != envelope.Revoked {
		t.Fatalf("got %+v, %v", s, err)
	}
	if rest, err := io.ReadAll(body); err == nil {
		t.Errorf("the answer ended by itself, with %q", rest)
	}
}

// What could not be kept out of a sandbox is refused, and says why.
func TestInjectRefused(t *testing.T) {
	for why, change := range map[string]func(f *fixture, k *identity.Key){
		"allows 0.0.0.0/0":       func(f *fixture, _ *identity.Key) { f.allow("example.com", "0.0.0.0/0") },
		"does not allow":         func(f *fixture, _ *identity.Key) { f.allow("example.com:8443", "*.example.com") },
		"fetched again":          func(f *fixture, _ *identity.Key) { f.store.leases = true },
		"in one line":            func(f *fixture, _ *identity.Key) { f.store.values["acme/token"] = injectedValue + "\n" },
		"demands level L3":       func(_ *fixture, k *identity.Key) { k.MinLevel = identity.L3 },
		"too short or too plain": func(f *fixture, _ *identity.Key) { f.store.values["acme/token"] = "aaa" },
	} {
		n := newInjecting(t, "93.184.216.34", change)
		if _, err := get(t.Context(), n.link, n.claim); err == nil || !strings.Contains(err.Error(), why) || brokerlink.Refused(err) == nil {
			t.Errorf("want %q: %v", why, err)
		}
	}
}

// A broker that begins anew goes on with what another has issued, while the store has the same.
func TestInjectAnotherBroker(t *testing.T) {
	n := newInjecting(t, "93.184.216.34", nil)
	n.issue()
	n.link = n.serve()
	if code, _ := n.do("GET", "/", "", "Authorization", "Bearer "+n.placeholder); code != http.StatusOK || n.saw("Authorization")[0] != "Bearer "+injectedValue {
		t.Errorf("got %d, %q", code, n.saw("Authorization"))
	}
	n.store.values["acme/token"] = "another value, that was never issued"
	n.link = n.serve()
	if _, err := n.dial(t.Context(), "example.com:443"); reason(err) != "pin" {
		t.Errorf("another value: %v", err)
	}
}

// A worker may write the rows of what was issued. The value goes nowhere by what it has written, nor is it renewed.
func TestForgedPins(t *testing.T) {
	n := newInjecting(t, "93.184.216.34", nil)
	n.issue()
	n.allow("*.example.com", "example.com")
	if code, answer := n.do("GET", "/", "", "Authorization", "Bearer "+n.placeholder); code != http.StatusOK {
		t.Fatal(code, answer)
	}
	if _, err := renew(t.Context(), n.link, n.claim, n.opened); err != nil {
		t.Fatal(err)
	}
	for _, forged := range []string{
		`UPDATE stepward.issue SET pins = replace(pins::text, 'Example.com', 'sub.example.com')::jsonb`,
		`UPDATE stepward.issue SET pins = jsonb_set(pins, '{0,epochs}', '{"acme":100}')`,
		`UPDATE stepward.issue SET pins = '[]'`,
	} {
		var was string
		if err := n.pool.QueryRow(t.Context(), n.in("SELECT pins::text FROM stepward.issue")).Scan(&was); err != nil {
			t.Fatal(err)
		}
		n.exec(forged)
		for _, to := range []string{"sub.example.com:443", "example.com:443"} {
			if conn, err := n.dial(t.Context(), to); reason(err) != "changed" {
				t.Errorf("%s: %s: %v, %v", forged, to, conn, err)
			}
		}
		if _, err := renew(t.Context(), n.link, n.claim, n.opened); reason(err) != "changed" {
			t.Errorf("%s: a renewal: %v", forged, err)
		}
		n.exec("UPDATE stepward.issue SET pins = $1::jsonb", was)
	}
	if conn, err := n.dial(t.Context(), "example.com:443"); err != nil {
		t.Errorf("what was issued, in other bytes: %v", err)
	} else {
		conn.Close()
	}
}

// Nor is a key put into requests that has no Inject.
func TestForgedInject(t *testing.T) {
	n := newInjecting(t, "93.184.216.34", func(_ *fixture, k *identity.Key) { k.Inject = nil })
	if _, err := get(t.Context(), n.link, n.claim); err != nil {
		t.Fatal(err)
	}
	n.exec(`UPDATE stepward.issue SET pins = jsonb_set(pins, '{0,inject}', '{"hosts":["example.com"]}')`)
	if conn, err := n.dial(t.Context(), "example.com:443"); reason(err) != "changed" {
		t.Errorf("%v, %v", conn, err)
	}
}

// A host that answers what is no HTTP gets nothing of the value into the sandbox, nor into a log, by an error's text.
func TestInjectMalformed(t *testing.T) {
	var logged lockedBuffer
	log.SetOutput(&logged)
	t.Cleanup(func() { log.SetOutput(os.Stderr) })
	n := newInjecting(t, "93.184.216.34", nil)
	answers := make(chan func(auth string) string, 1)
	early := make(chan string, 1)
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: n.TLS.Certificates, NextProtos: []string{"http/1.1"}})
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	over := sync.OnceFunc(func() {
		ln.Close()
		close(answers)
		all.Wait()
	})
	t.Cleanup(over)
	n.Listener.Close()
	n.Listener = ln
	answer := func(c net.Conn) {
		defer c.Close()
		select {
		case s := <-early:
			fmt.Fprint(c, s)
		default:
		}
		in := bufio.NewReader(c)
		r, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		if say := <-answers; say != nil {
			fmt.Fprint(c, say(r.Header.Get("Authorization")))
		}
		_, _ = io.Copy(io.Discard, in) // until the broker has done with the connection
	}
	all.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			all.Go(func() { answer(c) })
		}
	})
	n.issue()
	field := func(s string) string { return strings.ReplaceAll(s, " ", "_") }
	for _, c := range []struct {
		name string
		code int
		say  func(auth string) string
	}{
		{"a line", 502, func(a string) string { return a + "\r\n\r\n" }},
		{"a header", 502, func(a string) string { return "HTTP/1.1 200 OK\r\nX " + field(a) + "\r\n\r\n" }},
		{"a status", 502, func(a string) string { return "HTTP/1.1 " + field(a) + " OK\r\n\r\n" }},
		{"an encoding", 502, func(a string) string { return "HTTP/1.1 200 OK\r\nTransfer-Encoding: " + a + "\r\n\r\n" }},
		{"a length", 502, func(a string) string { return "HTTP/1.1 200 OK\r\nContent-Length: " + a + "\r\n\r\n" }},
		{"more than its length", 200, func(a string) string { return "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n" + a }},
		{"before the request", 502, func(string) string { return "" }},
	} {
		if c.name == "before the request" {
			early <- injectedValue + "\r\n\r\n"
		}
		answers <- c.say
		code, got := n.do("GET", "/", "", "Authorization", "Bearer "+n.placeholder)
		if code != c.code || strings.Contains(got, "s3cr3t") {
			t.Errorf("%s: %d %s", c.name, code, got)
		}
		select {
		case <-answers:
		default:
		}
	}
	over()
	if s := logged.String(); strings.Contains(s, "s3cr3t") || strings.Contains(s, "Unsolicited") {
		t.Errorf("logged: %s", s)
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// A part of what a host has cannot be asked for with a value: a part of the value would not be known in it.
func TestInjectRange(t *testing.T) {
	n := newInjecting(t, "93.184.216.34", nil)
	n.issue()
	for _, auth := range []string{"Bearer " + n.placeholder, ""} {
		n.do("GET", "/", "", "Authorization", auth, "Range", "bytes=0-3", "If-Range", `"x"`)
	}
	if got, cond := n.saw("Range"), n.saw("If-Range"); len(got) != 2 || got[0]+cond[0] != "" || got[1] != "bytes=0-3" {
		t.Errorf("the host saw %q, %q", got, cond)
	}
}

// beside begins an attempt of another tenant's run, to which the same is issued.
func (n *injecting) beside(tenant string) *rpc.Claim {
	n.t.Helper()
	c := proto.CloneOf(n.claim)
	c.Run, c.Sandbox = c.Run+1, "box-"+tenant
	n.exec("INSERT INTO stepward.run (id, tenant, workflow, input, version, requirement_id, epoch, session) VALUES ($1, $2, 'site', '', '1', 1, 1, 7)", c.Run, tenant)
	n.exec("INSERT INTO stepward.attempt (run_id, started_at, seq, epoch, attempt, mode, key, sandbox_id) VALUES ($1, now(), $2, 1, $3, $4, 'publish#2', $5)",
		c.Run, c.Seq, c.Attempt, int(workflow.Identity), c.Sandbox)
	p, err := n.profiles.Get(n.t.Context(), "acme", "api_token")
	if err == nil {
		p.ID, p.Generation, p.Scope.Tenant = 0, 0, tenant
		err = n.profiles.Put(n.t.Context(), p)
	}
	if err != nil {
		n.t.Fatal(err)
	}
	n.bindRun(c.Run, identity.Scope{Tenant: tenant, Workflow: "site"}, nil)
	if _, err := get(n.t.Context(), n.link, c); err != nil {
		n.t.Fatal(err)
	}
	return c
}

// close ends what was issued.
func (n *injecting) close() {
	n.t.Helper()
	client, err := n.link.Client(n.t.Context())
	if err == nil {
		_, err = client.Close(n.t.Context(), connect.NewRequest(&rpc.CloseRequest{Claim: n.claim}))
	}
	if err != nil {
		n.t.Fatal(err)
	}
}
