package broker_test

import (
	"context"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/stepward/stepward/audit"
	"github.com/stepward/stepward/identity"
	"github.com/stepward/stepward/identity/broker"
	"github.com/stepward/stepward/internal/brokerlink"
	"github.com/stepward/stepward/internal/rpc"
	"github.com/stepward/stepward/internal/testenv"
)

// looks has a broker look often at what it puts into requests, and says when it has looked, and when it has dropped it.
func looks(t *testing.T, idle time.Duration) (looked, ended <-chan struct{}) {
	broker.SetInject(t, 10*time.Millisecond, idle)
	all := map[string]chan struct{}{"looked": make(chan struct{}), "ended": make(chan struct{}, 1)}
	broker.SetPoint(func(at string) {
		select {
		case all[at] <- struct{}{}:
		default:
		}
	})
	t.Cleanup(func() { broker.SetPoint(func(string) {}) }) // after the broker has ended
	return all["looked"], all["ended"]
}

// waits makes a request with the secret that the host goes on answering.
func (n *injecting) waits() io.ReadCloser {
	n.t.Helper()
	r, err := http.NewRequestWithContext(n.t.Context(), http.MethodGet, "https://example.com/wait", nil)
	if err != nil {
		n.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+n.placeholder)
	resp, err := n.client().Do(r)
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { resp.Body.Close() })
	testenv.Receive(n.t, n.entered)
	return resp.Body
}

// uses is how many uses of secrets are on record.
func (n *injecting) uses() int {
	return n.count("SELECT coalesce(sum((convert_from(detail, 'UTF8')::jsonb->>'count')::int), 0)::int FROM stepward.event WHERE kind = 'key.injected'")
}

// What must not be used any more is not, though no worker asks for anything; nor is what cannot be looked up for as long
// as a sandbox would go on.
func TestInjectWatch(t *testing.T) {
	for name, end := range map[string]func(n *injecting){
		"revoked": func(n *injecting) {
			if err := n.profiles.Revoke(n.t.Context(), identity.Revocation{Tenant: "acme", Kind: identity.KindKey, Target: "API_TOKEN", State: identity.Hard}); err != nil {
				n.t.Fatal(err)
			}
		},
		"taken":     func(n *injecting) { n.exec("UPDATE stepward.run SET epoch = 2") },
		"closed":    func(n *injecting) { n.exec("UPDATE stepward.issue SET closed_at = now()") },
		"not known": func(n *injecting) { n.exec("ALTER TABLE stepward.revocation RENAME TO away") },
	} {
		t.Run(name, func(t *testing.T) {
			looked, _ := looks(t, time.Hour)
			n := newInjecting(t, "93.184.216.34", func(f *fixture, _ *identity.Key) { f.cfg.Freeze = 20 * time.Millisecond })
			n.issue()
			body := n.waits()
			testenv.Receive(t, looked)
			testenv.Receive(t, looked)
			if _, err := n.dial(t.Context(), "example.com:443"); err != nil { // a control
				t.Errorf("it was ended before: %v", err)
			}
			end(n)
			if _, err := io.ReadAll(body); err == nil {
				t.Error("the answer ended by itself")
			}
		})
	}
}

// Values that nothing is connected for are dropped, and fetched again when something is. What is on its way to be
// connected counts.
func TestInjectIdle(t *testing.T) {
	looked, ended := looks(t, 0)
	var slow atomic.Bool
	n := newInjecting(t, "93.184.216.34", func(f *fixture, _ *identity.Key) {
		f.store.wait = func(context.Context, string) {
			for range 2 {
				if slow.Load() {
					testenv.Receive(t, looked)
				}
			}
		}
	})
	n.issue()
	slow.Store(true)
	fetched := func() int {
		n.store.mu.Lock()
		defer n.store.mu.Unlock()
		return len(n.store.asked)
	}
	body := n.waits()
	for range 3 {
		testenv.Receive(t, looked)
	}
	if got := fetched(); got != 2 { // the control: for the issue, and for the connection
		t.Errorf("fetched %d times", got)
	}
	body.Close()
	testenv.Receive(t, ended)
	c, err := n.dial(t.Context(), "example.com:443")
	if err != nil || fetched() != 3 {
		t.Fatalf("%v, and fetched %d times", err, fetched())
	}
	c.Close()
}

// A connection that waits for what its own attempt does keeps nobody else waiting.
func TestInjectBeside(t *testing.T) {
	held, release := make(chan struct{}), make(chan struct{})
	free := sync.OnceFunc(func() { close(release) })
	t.Cleanup(func() { broker.SetPoint(func(string) {}) }) // after the broker has ended
	var once sync.Once
	broker.SetPoint(func(at string) {
		if at == "enter" {
			once.Do(func() { close(held); <-release })
		}
	})
	n := newInjecting(t, "93.184.216.34", nil)
	n.issue()
	n.waits()
	other := n.beside("globex")
	second := make(chan error, 1)
	go func() {
		c, err := n.dial(t.Context(), "example.com:443")
		if err == nil {
			c.Close()
		}
		second <- err
	}()
	defer free() // or the broker would not end, if this fails
	testenv.Receive(t, held)
	client, err := n.link.Client(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	beside := make(chan error, 1)
	go func() {
		c, err := brokerlink.Inject(t.Context(), client, other, "example.com:443")
		if err == nil {
			c.Close()
		}
		beside <- err
	}()
	if err := testenv.Receive(t, beside); err != nil {
		t.Error(err)
	}
	free()
	if err := testenv.Receive(t, second); err != nil {
		t.Error(err)
	}
}

// How often a secret was used is on record while it is, and once, though not each use is written down.
func TestInjectCounts(t *testing.T) {
	looked, _ := looks(t, time.Hour)
	n := newInjecting(t, "93.184.216.34", nil)
	n.issue()
	for range 3 {
		n.do("GET", "/", "", "Authorization", "Bearer "+n.placeholder)
	}
	for n.uses() < 3 { // who is killed now has forgotten nothing
		testenv.Receive(t, looked)
	}
	n.do("GET", "/", "", "Authorization", "Bearer "+n.placeholder)
	n.close()
	if got := n.uses(); got != 4 {
		t.Errorf("%d uses are on record", got)
	}
}

// What is ended while its uses are being written down has ended when they are on record.
func TestInjectCountsToTheEnd(t *testing.T) {
	looks(t, time.Hour)
	held, release, let := make(chan struct{}), make(chan struct{}), atomic.Bool{}
	free := sync.OnceFunc(func() { close(release) })
	defer free() // or the broker would not end, if this fails
	var once sync.Once
	broker.SetPoint(func(at string) {
		switch {
		case at == "flush":
			once.Do(func() { close(held); <-release })
		case at == "ended" && !let.Load():
			t.Error("it ended before")
		}
	})
	n := newInjecting(t, "93.184.216.34", nil)
	n.issue()
	body := n.waits() // the first is on record before
	n.do("GET", "/", "", "Authorization", "Bearer "+n.placeholder)
	testenv.Receive(t, held)
	go func() {
		_, _ = io.Copy(io.Discard, body) // until its end has begun
		let.Store(true)
		free()
	}()
	n.close()
	if got := n.uses(); got != 2 {
		t.Errorf("%d uses are on record", got)
	}
}

// A run that uses its secrets too often hears so, and others do not.
func TestInjectRate(t *testing.T) {
	broker.SetRatePer(t, time.Hour)
	n := newInjecting(t, "93.184.216.34", nil)
	n.issue()
	client := n.client()
	client.Transport.(*http.Transport).DisableKeepAlives = false // connections count too
	t.Cleanup(client.CloseIdleConnections)
	use := func(auth string) (code int, retry string) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://example.com/", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", auth)
		resp, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if _, err = io.Copy(io.Discard, resp.Body); err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, resp.Header.Get("Retry-After")
	}
	through := 0
	for {
		code, retry := use("Bearer " + n.placeholder)
		if code == http.StatusTooManyRequests {
			if retry == "" {
				t.Error("it does not say when to try again")
			}
			break
		}
		if through++; through > 250 {
			break
		}
	}
	if through < 150 || through > 250 {
		t.Errorf("%d uses were let through", through)
	}
	if code, _ := use("Bearer nothing of it"); code != http.StatusOK {
		t.Errorf("a request without a secret: %d", code)
	}
	n.claim = n.beside("beta")
	n.issue()
	if code, _ := n.do("GET", "/", "", "Authorization", "Bearer "+n.placeholder); code != http.StatusOK {
		t.Errorf("another run: %d", code)
	}
}

// The sandboxes of one tenant cannot have all connections to hosts, nor has an attempt more than its own.
func TestShareOfTenant(t *testing.T) {
	broker.SetPlaces(t, 4, 4, 4, 6, 2)
	n := newInjecting(t, "93.184.216.34", nil)
	n.issue()
	theirs := n.beside("beta")
	again := n.attempt(1, 2, "publish#2")
	if _, err := get(t.Context(), n.link, again); err != nil {
		t.Fatal(err)
	}
	dial := func(c *rpc.Claim) error {
		t.Helper()
		client, err := n.link.Client(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		conn, err := brokerlink.Inject(t.Context(), client, c, "example.com:443")
		if err == nil {
			t.Cleanup(func() { conn.Close() })
		}
		return err
	}
	for range 2 {
		if err := dial(n.claim); err != nil { // a control
			t.Fatal(err)
		}
	}
	if err := dial(n.claim); connect.CodeOf(err) != connect.CodeResourceExhausted || !strings.Contains(err.Error(), "the attempt has 2 of 2 connections to hosts with a secret") {
		t.Errorf("a third connection: %v", err)
	}
	if err := dial(again); err != nil {
		t.Errorf("another attempt: %v", err)
	}
	if err := dial(again); connect.CodeOf(err) != connect.CodeResourceExhausted || !strings.Contains(err.Error(), "tenant acme has 3 of 6 connections to hosts with a secret") {
		t.Errorf("a fourth connection: %v", err)
	}
	if err := dial(theirs); err != nil {
		t.Errorf("another tenant: %v", err)
	}
}

// The profiles and policies are asked again: what they take from a key, an attempt that goes on loses, and its connections
// with it. What they add it does not get.
func TestInjectAskedAgain(t *testing.T) {
	looked, _ := looks(t, time.Hour)
	n := newInjecting(t, "93.184.216.34", nil)
	put := func(k identity.Key) {
		t.Helper()
		p, err := n.profiles.Get(t.Context(), "acme", "api_token")
		if err == nil {
			p.Keys = map[string]identity.Key{"API_TOKEN": k}
			err = n.profiles.Put(t.Context(), p)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	key := func(change func(*identity.Key)) func() {
		return func() {
			k := identity.Key{Ref: "mem://acme/token", Inject: &identity.Inject{Hosts: []string{"example.com"}}}
			change(&k)
			put(k)
		}
	}
	key(func(*identity.Key) {})()
	n.bind(nil)
	for i, c := range []struct {
		why    string
		change func()
	}{
		{"", key(func(k *identity.Key) { k.Inject.Hosts = append(k.Inject.Hosts, "www.example.com"); k.Version = "2" })}, // a control
		{"", key(func(k *identity.Key) { k.Inject = nil })},                                                              // it was bound with it
		{"none of the hosts", key(func(k *identity.Key) { k.Inject.Hosts = []string{"www.example.com"} })},
		{"has another Header now", key(func(k *identity.Key) { k.Inject.Header = "X-Token" })},
		{"refers to something else", key(func(k *identity.Key) { k.Ref = "mem://acme/other" })},
		{"demands level L3 now, and this is L1-dev", key(func(k *identity.Key) { k.MinLevel = identity.L3 })},
		{"denied", key(func(k *identity.Key) { *k = identity.Key{Deny: true} })},
		{"unsets it", key(func(k *identity.Key) { *k = identity.Key{Unset: true} })},
		{"nobody forbids it", func() { n.policy(`@id("nobody") forbid (principal, action, resource);`) }},
	} {
		n.claim = n.attempt(1, 2+i, "publish#2")
		n.issue()
		body := n.waits()
		before := n.events(audit.KeyWithheld)
		c.change()
		if c.why == "" {
			for range 2 { // the first may have begun before the change
				testenv.Receive(t, looked)
			}
			if code, _ := n.do("GET", "/", "", "Authorization", "Bearer "+n.placeholder); code != http.StatusOK {
				t.Errorf("%d", code)
			}
			if _, err := n.dial(t.Context(), "www.example.com:443"); reason(err) != "denied" {
				t.Errorf("it has grown: %v", err)
			}
			body.Close()
		} else {
			if _, err := io.ReadAll(body); err == nil {
				t.Errorf("%s: the answer ended by itself", c.why)
			}
			if _, err := n.dial(t.Context(), "example.com:443"); reason(err) != "denied" || !strings.Contains(err.Error(), c.why) {
				t.Errorf("%s: a new connection: %v", c.why, err)
			}
			for n.events(audit.KeyWithheld) == before { // the connections are ended first
				testenv.Receive(t, looked)
			}
			if w := n.last(audit.KeyWithheld); w.Name != "API_TOKEN" || !strings.Contains(w.Error, c.why) {
				t.Errorf("%s: on record is %+v", c.why, w)
			}
		}
		n.close()
		key(func(*identity.Key) {})()
	}
}
