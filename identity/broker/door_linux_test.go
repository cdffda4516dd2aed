package broker_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/stepward/stepward/identity"
	"github.com/stepward/stepward/identity/broker"
	"github.com/stepward/stepward/internal/brokerlink"
	"github.com/stepward/stepward/internal/testenv"
	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/sandbox/launcher"
)

// One worker cannot have all connections, however many it makes: it hears why, and another one is served. Who does not
// say who it is takes none of these, and leaves room for others that have not yet.
func TestShareOfWorker(t *testing.T) {
	broker.SetPlaces(t, 4, 8, 4, 4, 4)
	broker.SetHallFor(t, time.Hour)
	f := newFixture(t)
	ca := newAuthority(t)
	f.cfg.TLS = &tls.Config{Certificates: []tls.Certificate{ca.issue(t)}, ClientCAs: ca.pool}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.serveOn(ln, "unix:///nowhere")
	connects := func(c tls.Certificate) error {
		t.Helper()
		link, err := brokerlink.New("https://"+ln.Addr().String(), &tls.Config{RootCAs: ca.pool, Certificates: []tls.Certificate{c}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(link.Close)
		_, err = begin(t.Context(), link, f.claim)
		return err
	}
	greedy, other := ca.issue(t), ca.issue(t)
	for range 2 {
		if err := connects(greedy); err != nil { // the control
			t.Fatal(err)
		}
	}
	if err := connects(greedy); connect.CodeOf(err) != connect.CodeResourceExhausted || !strings.Contains(err.Error(), "has 2 of 4 connections to the broker") {
		t.Errorf("a third connection: %v", err)
	}
	if err := connects(other); err != nil {
		t.Errorf("another worker: %v", err)
	}

	silent := func() net.Conn {
		t.Helper()
		c, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}).DialContext(t.Context(), "tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	for range 4 {
		silent()
	}
	if n, err := silent().Read(make([]byte, 1)); n > 0 || err == nil {
		t.Errorf("a fifth that says nothing is not sent away: %d, %v", n, err)
	}
	if err := connects(ca.issue(t)); err != nil {
		t.Errorf("a worker beside those that say nothing: %v", err)
	}
}

// One worker cannot keep the broker from answering others, whatever its calls wait for.
func TestShareOfCalls(t *testing.T) {
	broker.SetCalls(t, 4)
	f := newFixture(t, "DEPLOY_TOKEN")
	f.store.values["x"] = "s3cr3t-canary"
	f.put("DEPLOY_TOKEN", identity.Key{Ref: "mem://x"})
	waiting, free := make(chan struct{}, 2), make(chan struct{})
	f.store.wait = func(context.Context, string) {
		waiting <- struct{}{}
		<-free
	}
	ca := newAuthority(t)
	f.cfg.TLS = &tls.Config{Certificates: []tls.Certificate{ca.issue(t)}, ClientCAs: ca.pool}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.serveOn(ln, "unix:///nowhere")
	connects := func() *brokerlink.Link {
		t.Helper()
		link, err := brokerlink.New("https://"+ln.Addr().String(), &tls.Config{RootCAs: ca.pool, Certificates: []tls.Certificate{ca.issue(t)}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(link.Close)
		return link
	}
	greedy, other := connects(), connects()
	var all sync.WaitGroup
	for i := range 2 {
		c := f.attempt(10+i, 1, "publish#9")
		all.Go(func() {
			if _, err := get(t.Context(), greedy, c); err != nil {
				t.Error(err)
			}
		})
	}
	for range 2 {
		testenv.Receive(t, waiting)
	}
	if _, err := begin(t.Context(), greedy, f.claim); connect.CodeOf(err) != connect.CodeResourceExhausted || !strings.Contains(err.Error(), "has 2 of 4 calls") {
		t.Errorf("a third call: %v", err)
	}
	if _, err := begin(t.Context(), other, f.claim); err != nil {
		t.Errorf("another worker: %v", err)
	}
	close(free)
	all.Wait()
	if _, err := begin(t.Context(), greedy, f.claim); err != nil { // the control
		t.Error(err)
	}
}

// Who says nothing is sent away.
func TestSilent(t *testing.T) {
	broker.SetHallFor(t, time.Millisecond)
	f := newFixture(t)
	ca := newAuthority(t)
	f.cfg.TLS = &tls.Config{Certificates: []tls.Certificate{ca.issue(t)}, ClientCAs: ca.pool}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.serveOn(ln, "unix:///nowhere")
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if n, err := c.Read(make([]byte, 1)); n > 0 || err == nil {
		t.Errorf("got %d, %v", n, err)
	}
}

// piped is a backend whose sandboxes echo.
type piped struct{ sandbox.Backend }

func (piped) Name() string { return "piped" }

func (piped) Dial(context.Context, string) (net.Conn, error) {
	near, far := net.Pipe()
	go func() {
		defer far.Close()
		_, _ = io.Copy(far, far)
	}()
	return near, nil
}

// The sandboxes of one tenant cannot have all connections that lead to sandboxes, nor can those that are nobody's yet,
// nor do they take any from the workers.
func TestShareOfSandboxes(t *testing.T) {
	broker.SetPlaces(t, 8, 4, 8, 4, 4)
	f := newFixture(t)
	f.cfg.Sandboxes = piped{}
	f.exec("INSERT INTO stepward.run (id, tenant, workflow, input, version, requirement_id) VALUES (2, 'beta', 'site', '', '1', 1)")
	for id, run := range map[string]any{"acme": int64(runID), "beta": 2, "warm": nil} {
		f.exec("INSERT INTO stepward.sandbox (id, run_id, session, backend) VALUES ($1, $2, 7, 'piped')", id, run)
	}
	dir, err := os.MkdirTemp("", "broker")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	link := f.serveOn(ln, "unix://"+path)
	l, err := launcher.New(launcher.Config{Broker: "unix://" + path})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, c := range []struct {
		id, who string
		want    int
	}{{"acme", "tenant acme", 4}, {"beta", "tenant beta", 2}, {"warm", fmt.Sprintf("process %d of user %d", os.Getpid(), os.Getuid()), 1}} {
		n := 0
		for ; n < 8; n++ {
			conn, err := l.Dial(t.Context(), c.id)
			if err != nil {
				if !strings.Contains(err.Error(), fmt.Sprintf("%s has %d of 8 connections to sandboxes", c.who, n)) {
					t.Errorf("%s: %v", c.id, err)
				}
				break
			}
			defer conn.Close()
			if _, err := conn.Write([]byte{7}); err != nil {
				t.Error(err)
			}
			if _, err := conn.Read(make([]byte, 1)); err != nil {
				t.Error(err)
			}
		}
		if n != c.want {
			t.Errorf("%s has %d connections, want %d", c.id, n, c.want)
		}
	}
	if _, err := begin(t.Context(), link, f.claim); err != nil {
		t.Errorf("a worker's own: %v", err)
	}
}
