package sandboxtest

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stepward/stepward/internal/egress"
	"github.com/stepward/stepward/internal/tunnel"
	"github.com/stepward/stepward/sandbox"
)

// A net of this process: names whose servers are its own, whatever port they are
// asked for. Names resolve to public addresses, but inside.test.
type internet struct {
	secure, plain, raw string // addresses of listeners
	started            chan string
	later              chan error // what becomes of a connection to portLater
	dialled            sync.Map   // address to true
}

// portNowhere is where no connection comes about, and portLater where one does, or
// fails, once the test says so.
const (
	portNowhere = 4
	portLater   = 5
)

const evilAddr = "198.41.0.4"

var names = map[string]string{
	"ok.test": "93.184.216.34", "www.ok.test": "93.184.216.34", "evil.test": evilAddr,
	"inside.test": "127.0.0.1", "metadata.test": "169.254.169.254",
}

func newInternet(t *testing.T) *internet {
	t.Helper()
	n := &internet{started: make(chan string, 100), later: make(chan error)}
	serve := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/endless" {
			n.started <- r.RemoteAddr
			for b := make([]byte, 1<<16); ; {
				if _, err := w.Write(b); err != nil {
					return
				}
			}
		}
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s%s %d", r.Method, r.Host, r.URL, len(body))
	})
	quiet := log.New(io.Discard, "", 0)
	plain, secure := httptest.NewUnstartedServer(serve), httptest.NewUnstartedServer(serve)
	plain.Config.ErrorLog, secure.Config.ErrorLog = quiet, quiet
	plain.Start()
	t.Cleanup(plain.Close)
	secure.StartTLS()
	t.Cleanup(secure.Close)
	n.plain, n.secure = plain.Listener.Addr().String(), secure.Listener.Addr().String()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	n.raw = ln.Addr().String()
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				fmt.Fprintln(c, "welcome")
				io.Copy(c, c)
			}()
		}
	}()
	return n
}

func (n *internet) context(ctx context.Context) context.Context {
	return egress.WithNetwork(ctx, egress.Network{
		Resolve: func(_ context.Context, name string) ([]netip.Addr, error) {
			a, ok := names[name]
			if !ok {
				return nil, &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
			}
			return []netip.Addr{netip.MustParseAddr(a)}, nil
		},
		Dial: func(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
			n.dialled.Store(to.Addr().String(), true)
			if to.Port() == portNowhere {
				n.started <- to.String()
				<-ctx.Done()
				return nil, ctx.Err()
			}
			var d net.Dialer
			if to.Port() == portLater {
				n.started <- to.String()
				select {
				case err := <-n.later:
					if err != nil {
						return nil, err
					}
					return d.DialContext(ctx, "tcp", n.plain)
				case <-ctx.Done():
					return nil, ctx.Err()
				}
			}
			switch to.Port() {
			case 80, 8080:
				return d.DialContext(ctx, "tcp", n.plain)
			case 443:
				return d.DialContext(ctx, "tcp", n.secure)
			}
			return d.DialContext(ctx, "tcp", n.raw)
		},
	})
}

// TestEgress checks that programs in a sandbox reach what the policy names,
// through whatever they speak, and nothing else; and that with another policy the
// same programs get through.
func TestEgress(t *testing.T, b sandbox.Backend, o Options) {
	n := newInternet(t)
	ctx := n.context(bounded(t))
	strict := sandbox.NetworkPolicy{Allow: []string{"ok.test", "*.ok.test:443", "inside.test", "metadata.test", "192.88.0.0/16"}}
	// Everything that the cases ask for.
	lax := sandbox.NetworkPolicy{Allow: []string{
		"ok.test", "*.ok.test", "evil.test", "inside.test", "metadata.test", "0.0.0.0/0", "127.0.0.0/8", "10.0.0.0/8", "169.254.0.0/16",
	}}
	spec := o.Spec
	spec.Network = strict
	spec.Limits.OpenFiles = 512 // which the tool runner has, too: see testEgressHoard
	s := start(t, ctx, b, sandbox.Options{Spec: spec})
	if got := s.Enforcement().Network; got != "stream" {
		t.Errorf("the network is %q", got)
	}
	for _, c := range []struct {
		probe []string
		want  string // with the policy
		free  string // without it; empty: the same
	}{
		{[]string{"fetch", "http://ok.test/a?b=c"}, "200 GET ok.test/a?b=c 0", ""},
		{[]string{"fetch", "http://OK.test/"}, "200 GET OK.test/ 0", ""},
		{[]string{"fetch", "http://ok.test:8080/"}, "200 GET ok.test:8080/ 0", ""},
		{[]string{"fetch", "https://ok.test/a"}, "200 GET ok.test/a 0", ""},
		{[]string{"fetch", "https://www.ok.test/"}, "200 GET www.ok.test/ 0", ""},
		{[]string{"fetch", "http://www.ok.test/"}, "403 stepward: www.ok.test:80 is not allowed: of this host only port 443 is allowed", "200"},
		{[]string{"fetch", "http://evil.test/"}, "403 stepward: evil.test:80 is not allowed: no entry of Network.Allow names it", "200"},
		{[]string{"fetch", "https://evil.test/"}, "Forbidden", "200"},
		{[]string{"fetch", "http://inside.test/"}, "127.0.0.0/8 (loopback)", "200"},
		{[]string{"fetch", "http://metadata.test/"}, "169.254.0.0/16 (link-local, metadata)", "200"},
		{[]string{"fetch", "http://169.254.169.254/latest/meta-data"}, "no entry", "200"},
		{[]string{"fetch", "http://10.0.0.1/"}, "no entry", "200"},
		{[]string{"fetch", "http://192.88.0.9/"}, "200 GET 192.88.0.9/ 0", ""},
		{[]string{"fetch", "http://192.88.99.9/"}, "6to4 relay", ""},
		{[]string{"fetch", "http://[::ffff:169.254.169.254]/"}, "no entry", "200"},
		{[]string{"fetch", "http://2130706433/"}, "it ends in a number", ""},
		{[]string{"fetch", "http://none.ok.test:443/"}, "502 stepward: none.ok.test:443: no such host", ""},
		// What is said inside is for another host.
		{[]string{"front", "https", "ok.test:443", "evil.test"}, "unrecognized name", ""},
		{[]string{"front", "https", "ok.test:443", ""}, "unrecognized name", ""},
		{[]string{"front", "https", "ok.test:443", "ok.test"}, "200 GET", ""},
		{[]string{"front", "https", "evil.test:443", "evil.test"}, "403", "200 GET"},
		{[]string{"front", "http", "ok.test:80", "evil.test"}, "403 stepward: not allowed: the request is for another host: evil.test", ""},
		{[]string{"front", "http", "ok.test:80", "ok.test"}, "200 GET", ""},
		// Another reader of the name could read something else.
		{[]string{"socks", "ok.test", "80", "ok.test"}, "200 GET", ""},
		{[]string{"socks", "evil.test", "80", "evil.test"}, "SOCKS 2", "200 GET"},
		{[]string{"socks", "169.254.169.254", "80", "x"}, "SOCKS 2", "200 GET"},
		{[]string{"socks", "evil.test\x00.ok.test", "443", "x"}, "SOCKS 2", ""},
		{[]string{"socks", "ok.test.", "80", "x"}, "SOCKS 2", ""},
		{[]string{"socks", "none.ok.test", "443", "x"}, "SOCKS 4", ""},
		// A program that brings a proxy of its own gets no further than the other.
		{[]string{"relay", "http://ok.test/"}, "200 GET ok.test/ 0", ""},
		{[]string{"relay", "http://evil.test/"}, "403", "200"},
		{[]string{"relay", "https://evil.test/"}, "Forbidden", "200"},
	} {
		args := slices.Clone(c.probe)
		for i, a := range args {
			args[i] = strings.ReplaceAll(a, "\x00", `\0`) // not possible in an argument
		}
		if got := run(t, s, args[0], args[1:]...); !strings.Contains(got, c.want) {
			t.Errorf("%q: %s, want %s", c.probe, got, c.want)
		}
	}
	// Without the proxy there is no way at all. Where connections are redirected, one that
	// the worker was slow to refuse comes about, and is reset.
	if got := run(t, s, "direct", "93.184.216.34:80", "ok.test"); got == "" || strings.Contains(got, "200 ") {
		t.Errorf("without the proxy: %s", got)
	}
	if _, ok := n.dialled.Load(evilAddr); ok {
		t.Error("a host that is not allowed was connected to")
	}
	t.Run("control", func(t *testing.T) { // the probes can tell
		if err := s.SetNetwork(ctx, lax); err != nil {
			t.Fatal(err)
		}
		for _, probe := range [][]string{
			{"fetch", "http://www.ok.test/"}, {"fetch", "http://evil.test/"}, {"fetch", "https://evil.test/"}, {"fetch", "http://inside.test/"},
			{"fetch", "http://metadata.test/"}, {"fetch", "http://169.254.169.254/latest/meta-data"}, {"fetch", "http://10.0.0.1/"},
			{"fetch", "http://[::ffff:169.254.169.254]/"}, {"front", "https", "evil.test:443", "evil.test"}, {"front", "http", "10.0.0.1:80", "evil.test"},
			{"front", "https", "10.0.0.1:443", "evil.test"},
			{"socks", "evil.test", "80", "evil.test"}, {"socks", "169.254.169.254", "80", "x"}, {"relay", "http://evil.test/"}, {"relay", "https://evil.test/"},
		} {
			if got := run(t, s, probe[0], probe[1:]...); !strings.Contains(got, "200 GET") {
				t.Errorf("%q with everything allowed: %s", probe, got)
			}
		}
	})
	t.Run("update", func(t *testing.T) { testEgressUpdate(t, ctx, n, s) })
	t.Run("kill", func(t *testing.T) { testEgressStalled(t, ctx, n, s) })
	t.Run("many", func(t *testing.T) {
		if got := run(t, s, "many", "http://ok.test/", "40"); got != "40" {
			t.Errorf("%s of 40 requests at a time were answered", got)
		}
	})
	t.Run("hoard", func(t *testing.T) { testEgressHoard(t, ctx, s) })
	if err := s.Destroy(ctx); err != nil {
		t.Error(err)
	}
	t.Run("record", func(t *testing.T) { testEgressRecord(t, s.Egress()) })

	t.Run("transparent", func(t *testing.T) { testTransparent(t, ctx, n, b, o.Spec, s.Enforcement()) })
	t.Run("token", func(t *testing.T) { testEgressToken(t, b, o.Spec) })
	t.Run("none", func(t *testing.T) {
		transparent := s.Enforcement().Transparent
		s := start(t, ctx, b, sandbox.Options{Spec: o.Spec})
		if got := s.Enforcement().Network; got != "none" {
			t.Errorf("the network is %q", got)
		}
		if env := run(t, s, "env"); strings.Contains(strings.ToLower(env), "proxy") {
			t.Errorf("it is told of a proxy: %s", env)
		}
		if transparent { // what would be redirected with a policy
			if got := run(t, s, "direct", "192.88.0.9:80", "x"); !strings.Contains(got, "network is unreachable") {
				t.Errorf("direct: %s", got)
			}
			if got := run(t, s, "resolve", "ok.test"); !strings.Contains(got, "connection refused") {
				t.Errorf("resolve: %s", got)
			}
		}
		if err := s.SetNetwork(ctx, sandbox.NetworkPolicy{Allow: []string{"https://ok.test"}}); err == nil {
			t.Error("a policy that cannot be read was accepted")
		}
		if err := s.SetNetwork(ctx, strict); err != nil {
			t.Fatal(err)
		}
		if got := s.Handle().Spec.Network.Allow; !slices.Equal(got, strict.Allow) {
			t.Errorf("who opens it next allows %v", got)
		}
		if got := run(t, s, "fetch", "https://ok.test/"); !strings.Contains(got, "200") {
			t.Errorf("after it was given a network: %s", got)
		}
		if env := run(t, s, "env"); !strings.Contains(env, "NO_PROXY=localhost,127.0.0.1,::1") || !strings.Contains(env, "https_proxy=http://127.0.0.1:") {
			t.Errorf("its environment: %s", env)
		}
	})
}

// stall starts a program that begins a download and reads no more of it.
func stall(t *testing.T, ctx context.Context, n *internet, s *sandbox.Sandbox) (*sandbox.Cmd, *spoken) {
	t.Helper()
	c := s.Command(program, verbPrefix+"stall", "http://ok.test:8080/endless")
	w := &spoken{said: make(chan string, 10)}
	c.Stdout = w
	if err := c.Start(ctx); err != nil {
		t.Fatal(err)
	}
	next(t, n.started)
	if got := next(t, w.said); got != "stalled" {
		t.Fatalf("it said %q", got)
	}
	return c, w
}

// spoken hands on what a command prints, line by line.
type spoken struct {
	said chan string
	part string
}

func (l *spoken) Write(p []byte) (int, error) {
	l.part += string(p)
	for {
		line, rest, ok := strings.Cut(l.part, "\n")
		if !ok {
			return len(p), nil
		}
		l.part = rest
		l.said <- line
	}
}

// A download that nobody reads holds up neither its kill nor anything else.
func testEgressStalled(t *testing.T, ctx context.Context, n *internet, s *sandbox.Sandbox) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c, _ := stall(t, ctx, n, s)
	if got := run(t, s, "fetch", "https://ok.test/"); !strings.Contains(got, "200") {
		t.Errorf("another connection: %s", got)
	}
	cancel()
	var ee *sandbox.ExitError
	if err := c.Wait(); !errors.As(err, &ee) || ee.Signal != "SIGKILL" {
		t.Errorf("Wait: %v", err)
	}
	if n := run(t, s, "count", "probe:stall"); n != "0" {
		t.Errorf("%s processes are left", n)
	}
}

// A connection that is not allowed any more ends.
func testEgressUpdate(t *testing.T, ctx context.Context, n *internet, s *sandbox.Sandbox) {
	c, w := stall(t, ctx, n, s)
	if err := s.SetNetwork(ctx, sandbox.NetworkPolicy{Allow: []string{"ok.test:443"}}); err != nil {
		t.Fatal(err)
	}
	if err := s.WriteFile(ctx, "go-on", nil, 0o644); err != nil { // and read the rest of it
		t.Fatal(err)
	}
	if err := c.Wait(); err != nil {
		t.Error(err)
	}
	if got := next(t, w.said); !strings.HasPrefix(got, "ended") {
		t.Errorf("the download: %s", got)
	}
	if got := run(t, s, "fetch", "http://ok.test:8080/"); !strings.Contains(got, "403") {
		t.Errorf("a new connection: %s", got)
	}
	if err := s.SetNetwork(ctx, sandbox.NetworkPolicy{Allow: []string{"ok.test"}}); err != nil {
		t.Fatal(err)
	}
	if got := run(t, s, "fetch", "http://ok.test:8080/"); !strings.Contains(got, "200") {
		t.Errorf("once it is allowed again: %s", got)
	}
}

// Who has no token, or one whose time is over, offers no tunnel: what a program
// says would go to him.
func testEgressToken(t *testing.T, b sandbox.Backend, spec sandbox.Spec) {
	ctx := bounded(t)
	token := []byte("a token that only the worker has")
	id := fmt.Sprintf("suite-%d", time.Now().UnixNano())
	if _, err := b.Create(ctx, sandbox.Creation{ID: id, Spec: spec, TokenHash: sha256.Sum256(token)}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Destroy(context.Background(), id) })
	offer := func(token []byte, epoch int64) (net.Conn, error) {
		c, err := b.Dial(ctx, id)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return tunnel.Offer(c, token, epoch)
	}
	if _, err := offer([]byte("wrong"), 5); err == nil {
		t.Error("a wrong token was accepted")
	}
	stale, err := offer(token, 5)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := offer(token, 4); err == nil {
		t.Error("a stale epoch was accepted")
	}
	if _, err := offer(token, 6); err != nil {
		t.Error(err)
	}
	if _, err := tunnel.Asked(stale); err == nil {
		t.Error("the tunnel of a lower epoch was used")
	}
}

func testEgressRecord(t *testing.T, all []sandbox.Egress) {
	find := func(host string, port int, decision, reason string) (sum sandbox.Egress) {
		for _, e := range all {
			if e.Host == host && e.Port == port && e.Decision == decision && strings.Contains(e.Reason, reason) {
				sum.Count += e.Count
				sum.Sent += e.Sent
				sum.Received += e.Received
			}
		}
		return sum
	}
	for _, c := range []struct {
		host     string
		port     int
		decision string
		reason   string
	}{
		{"ok.test", 443, "allowed", ""}, {"ok.test", 80, "allowed", ""}, {"ok.test", 8080, "allowed", ""},
		{"evil.test", 80, "denied", "no entry"}, {"evil.test", 443, "denied", "no entry"}, {"inside.test", 80, "denied", "loopback"},
		{`evil.test\x00.ok.test`, 443, "denied", "a name has no"}, {"2130706433", 80, "denied", "number"},
		{"ok.test", 443, "denied", "another server: evil.test"}, {"ok.test", 80, "denied", "another host: evil.test"},
		{"ok.test", 8080, "denied", "the policy was changed"}, {"none.ok.test", 443, "allowed", "no such host"},
	} {
		sum := find(c.host, c.port, c.decision, c.reason)
		if sum.Count == 0 || c.decision == "allowed" && c.reason == "" && (sum.Sent == 0 || sum.Received == 0) {
			t.Errorf("%v is on record as %+v", c, sum)
		}
	}
	if t.Failed() {
		t.Logf("all that is on record: %+v", all)
	}
}

// testEgressHoard has a program take all connections that it can get, which leaves others what they need.
func testEgressHoard(t *testing.T, ctx context.Context, s *sandbox.Sandbox) {
	c := s.Command(program, "probe:hoard")
	r, w := io.Pipe()
	defer r.Close()
	c.Stdout = w
	hoarding, stop := context.WithCancel(ctx)
	defer stop()
	if err := c.Start(hoarding); err != nil {
		t.Fatal(err)
	}
	if said, err := bufio.NewReader(r).ReadString('\n'); err != nil || said != "full\n" {
		t.Fatalf("it says %q, %v", said, err)
	}
	if _, err := s.Command(program, "probe:out", "0", "", "").Output(ctx); err != nil {
		t.Errorf("another command: %v", err)
	}
	if err := s.WriteFile(ctx, "file", []byte("x"), 0o644); err != nil {
		t.Errorf("a file: %v", err)
	}
	stop()
	_ = c.Wait()
	for { // the control: what was held is given back, as its ends are heard of
		got := run(t, s, "fetch", "http://ok.test/")
		if strings.HasPrefix(got, "200 ") || ctx.Err() != nil {
			break
		} else if !strings.Contains(got, "503") && !strings.Contains(got, "reset") && !strings.Contains(got, "EOF") {
			t.Fatalf("afterwards: %s", got)
		}
	}
}
