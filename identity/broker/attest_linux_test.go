package broker_test

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/stepward/stepward/identity"
	"github.com/stepward/stepward/identity/broker"
	"github.com/stepward/stepward/internal/envelope"
	"github.com/stepward/stepward/internal/testenv"
	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/sandbox/docker"
)

// roll knows the secrets of sandboxes.
type roll map[string]string

func (r roll) Attest(_ context.Context, sandbox string, secret []byte) error {
	rolls.Lock()
	has := r[sandbox]
	rolls.Unlock()
	switch has {
	case string(secret):
		return nil
	case "panic":
		panic("with " + string(secret))
	case "goexit":
		runtime.Goexit()
	case "late":
		select {}
	case "unknown":
		return fmt.Errorf("connection refused, said about %s", secret)
	}
	return fmt.Errorf("%w: it is no secret of %s", broker.ErrDenied, sandbox)
}

var rolls sync.Mutex // of all: one that is late has read its own

// A secret that demands L2 is issued to a sandbox that proves its key, and to no other, whatever a worker makes of
// what it has seen. What is wrong is on record, and a secret that demands L1 is issued with it.
func TestAttest(t *testing.T) {
	testenv.Require(t, testenv.PartRoot)
	defer broker.SetEngines()()
	f := newFixture(t, "DEPLOY_TOKEN")
	f.store.values["x"] = "s3cr3t-canary"
	f.cfg.Peers = []uint32{other}
	f.cfg.Timeout = time.Second
	boxes := roll{}
	f.cfg.Attestors = map[string]broker.Attestor{"docker": boxes}
	public, err := broker.ProofKey(f.cfg.Dir)
	if err != nil {
		t.Fatal(err)
	}
	key, err := base64.StdEncoding.DecodeString(public)
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := broker.ProofKey(t.TempDir())
	if err != nil || foreign == public {
		t.Fatalf("got %q, %v", foreign, err)
	}
	foreignKey, _ := base64.StdEncoding.DecodeString(foreign)
	link := f.serveTo(other)
	witness := func(secret string) envelope.Witness {
		return envelope.Witness{Backend: "docker", Secret: []byte(secret), Broker: key}
	}
	n := 1
	for _, c := range []struct {
		name string
		with envelope.Witness
		hand func(envelope.Hello) envelope.Hello // what the worker makes of it
		does string                              // the attestor, in the place of an answer
		want identity.Level
		why  string
	}{
		{name: "attested", with: witness("its own secret"), want: identity.L2},
		{name: "no proof", want: identity.L1, why: "not proven"},
		{name: "the secret of another", with: witness("another secret"), want: identity.L1, why: "no secret of box"},
		{name: "another backend", with: envelope.Witness{Backend: "other", Secret: []byte("its own secret"), Broker: key}, want: identity.L1, why: "no attestor for sandboxes of other"},
		{name: "another broker", with: envelope.Witness{Backend: "docker", Secret: []byte("its own secret"), Broker: foreignKey}, want: identity.L1, why: "not of this attempt and key"},
		{name: "stripped", with: witness("its own secret"), want: identity.L1, why: "not proven", hand: func(h envelope.Hello) envelope.Hello {
			h.Backend, h.Proof = "", nil
			return h
		}},
		{name: "another key", with: witness("its own secret"), want: identity.L1, why: "not of this attempt and key", hand: func(h envelope.Hello) envelope.Hello {
			s, err := beginAs(t.Context(), link, f.claim, witness("of the worker"))
			if err != nil {
				t.Fatal(err)
			}
			swapped, err := envelope.ReadHello(s.key.Hello())
			if err != nil {
				t.Fatal(err)
			}
			h.PublicKey = swapped.PublicKey
			return h
		}},
		{name: "away", with: witness("its own secret"), does: "unknown", want: identity.L1, why: "could not be attested"},
		{name: "panics", with: witness("its own secret"), does: "panic", want: identity.L1, why: "could not be attested: it panicked with a string"},
		{name: "ends its goroutine", with: witness("its own secret"), does: "goexit", want: identity.L1, why: "could not be attested: it ended its goroutine"},
		{name: "does not return", with: witness("its own secret"), does: "late", want: identity.L1, why: "could not be attested: the attestor did not answer in time"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, least := range []identity.Level{identity.L1, identity.L2} {
				f.exec("DELETE FROM stepward.profile")
				f.put("DEPLOY_TOKEN", identity.Key{Ref: "mem://x", MinLevel: least})
				n++
				claim := f.attempt(1, n, "publish#2")
				rolls.Lock()
				boxes[claim.Sandbox] = cmp.Or(c.does, "its own secret")
				rolls.Unlock()
				s, err := beginAs(t.Context(), link, claim, c.with)
				if err != nil {
					t.Fatal(err)
				}
				hello := s.key.Hello()
				if c.hand != nil {
					h, err := envelope.ReadHello(hello)
					if err != nil {
						t.Fatal(err)
					}
					hello = c.hand(h).Encode()
				}
				before := f.issued()
				o, err := s.send(t.Context(), hello)
				switch {
				case least > c.want && c.does != "":
					if reason(err) != "" || connect.CodeOf(err) != connect.CodeUnavailable || strings.Contains(err.Error(), "its own secret") {
						t.Errorf("%v: got %v", least, err)
					}
				case least > c.want:
					if reason(err) != "level" || !strings.Contains(err.Error(), c.why) {
						t.Errorf("%v: got %v", least, err)
					}
				case c.hand != nil: // it was sealed to what the sandbox has not said
					if !errors.Is(err, envelope.ErrFacts) && !errors.Is(err, envelope.ErrSealed) {
						t.Errorf("%v: got %v", least, err)
					}
				case err != nil || len(o.Items) != 1:
					t.Errorf("%v: got %v", least, err)
				}
				if issued := f.issued() - before; (issued == 1) != (least <= c.want) {
					t.Errorf("%v: %d were issued", least, issued)
				}
			}
			var level, why, event string
			if err := f.pool.QueryRow(t.Context(), f.in(`SELECT i.level, i.why, (SELECT convert_from(detail, 'UTF8') FROM stepward.event WHERE kind = 'envelope.issued' ORDER BY id DESC LIMIT 1)
				FROM stepward.issue i ORDER BY issued_at DESC LIMIT 1`)).Scan(&level, &why, &event); err != nil {
				t.Fatal(err)
			}
			if level != c.want.String() || !strings.Contains(why, c.why) || (why == "") != (c.why == "") || !strings.Contains(event, c.want.String()) || !strings.Contains(event, c.why) {
				t.Errorf("on record is %s: %s; %s", level, why, event)
			}
			if strings.Contains(why+event, "its own secret") {
				t.Errorf("so is the secret: %s %s", why, event)
			}
		})
	}
}

// A proof is of use for what it was made for: not for another attempt, nor in another claim of the same, with the
// same key.
func TestProofAgain(t *testing.T) {
	testenv.Require(t, testenv.PartRoot)
	defer broker.SetEngines()()
	f := newFixture(t, "DEPLOY_TOKEN")
	f.store.values["x"] = "s3cr3t-canary"
	f.put("DEPLOY_TOKEN", identity.Key{Ref: "mem://x", MinLevel: identity.L2})
	f.cfg.Peers = []uint32{other}
	later := f.attempt(1, 2, "publish#2")
	f.cfg.Attestors = map[string]broker.Attestor{"docker": roll{f.claim.Sandbox: "one secret", later.Sandbox: "one secret"}} // which a worker has no sandboxes of
	public, err := broker.ProofKey(f.cfg.Dir)
	if err != nil {
		t.Fatal(err)
	}
	key, _ := base64.StdEncoding.DecodeString(public)
	link := f.serveTo(other)
	first, err := beginAs(t.Context(), link, f.claim, envelope.Witness{Backend: "docker", Secret: []byte("one secret"), Broker: key})
	if err != nil {
		t.Fatal(err)
	}
	hello := first.key.Hello()
	first.claim = later
	if _, err := first.send(t.Context(), hello); reason(err) != "level" {
		t.Errorf("for another attempt: %v", err)
	}
	f.exec("INSERT INTO stepward.claim (run_id, epoch, session) VALUES ($1, 1, 7), ($1, 2, 7)", int64(runID))
	f.exec("UPDATE stepward.run SET epoch = 2")
	f.exec("UPDATE stepward.attempt SET epoch = 2")
	first.claim = f.claim
	f.claim.Epoch = 2
	if _, err := first.send(t.Context(), hello); reason(err) != "level" {
		t.Errorf("in another claim: %v", err)
	}
	f.exec("UPDATE stepward.run SET epoch = 1")
	f.exec("UPDATE stepward.attempt SET epoch = 1")
	f.claim.Epoch = 1
	if o, err := first.send(t.Context(), hello); err != nil || len(o.Items) != 1 { // the control
		t.Errorf("for what it was made for: %v", err)
	}
}

// engine is a backend that says where its engine listens.
type engine struct {
	sandbox.Backend
	path string
}

func (e engine) Socket() string { return e.path }

// An engine that anybody could use makes nothing that is attested, and whoever is on its host root.
func TestLevelOfExposedEngine(t *testing.T) {
	testenv.Require(t, testenv.PartRoot)
	defer broker.SetEngines()()
	keys := filepath.Join(t.TempDir(), "keys")
	if err := chain(os.Mkdir(keys, 0o700), os.WriteFile(filepath.Join(keys, "broker.key"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		host  string
		certs bool
		want  identity.Level
	}{
		{"unix:///nonexistent/docker.sock", false, identity.L2},
		{"unix://@docker", false, identity.L1Dev},
		{"tcp://127.0.0.1:2375", false, identity.L1Dev},
		{"http://127.0.0.1:2375", true, identity.L1Dev},
		{"tcp://engine.example:2376", true, identity.L2},
	} {
		t.Setenv("DOCKER_CERT_PATH", "")
		t.Setenv("DOCKER_TLS_VERIFY", "1")
		if c.certs {
			t.Setenv("DOCKER_CERT_PATH", keys)
		}
		b := docker.New(docker.Config{Host: c.host})
		got, why := broker.StandsBeside(keys, other, b)
		err := broker.AttestBeside(t.TempDir(), b)
		if c.want == identity.L2 && (got != identity.L1 || err != nil) || c.want == identity.L1Dev && (got != identity.L1Dev || !errors.Is(err, broker.ErrDenied)) {
			t.Errorf("%s: got %v (%s), %v", c.host, got, why, err)
		}
	}
}

// Who may use the engine that makes the broker's sandboxes, wherever that listens, could look into them.
func TestLevelBesideEngine(t *testing.T) {
	testenv.Require(t, testenv.PartRoot)
	defer broker.SetEngines()()
	keys, path := filepath.Join(t.TempDir(), "keys"), filepath.Join(t.TempDir(), "engine")
	if err := chain(os.Mkdir(keys, 0o700), os.WriteFile(filepath.Join(keys, "broker.key"), nil, 0o600), os.WriteFile(path, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if got, why := broker.StandsBeside(keys, other, engine{path: path}); got != identity.L1 {
		t.Errorf("got %v: %s", got, why)
	}
	if err := chain(os.Chmod(path, 0o666)); err != nil {
		t.Fatal(err)
	}
	if got, why := broker.StandsBeside(keys, other, engine{path: path}); got != identity.L1Dev || !strings.Contains(why, path) {
		t.Errorf("got %v: %s", got, why)
	}
}

// A policy is asked about the level that the sandbox has shown: one that permits a key at L2 has it issued to a sandbox
// that proves itself, and to no other. Whether one does that could not be found out is no denial.
func TestPolicyAtLevel(t *testing.T) {
	testenv.Require(t, testenv.PartRoot)
	defer broker.SetEngines()()
	f := newFixture(t, "DEPLOY_TOKEN", "API_TOKEN?")
	f.store.values["x"], f.store.values["y"] = "s3cr3t-canary", "0ther-canary"
	f.allow("example.com")
	f.cfg.Peers = []uint32{other}
	boxes := roll{}
	f.cfg.Attestors = map[string]broker.Attestor{"docker": boxes}
	public, err := broker.ProofKey(f.cfg.Dir)
	if err != nil {
		t.Fatal(err)
	}
	key, err := base64.StdEncoding.DecodeString(public)
	if err != nil {
		t.Fatal(err)
	}
	link := f.serveTo(other)
	f.put("DEPLOY_TOKEN", identity.Key{Ref: "mem://x"})
	f.put("API_TOKEN", identity.Key{Ref: "mem://y", Inject: &identity.Inject{Hosts: []string{"example.com"}}})
	attempt := 1
	ask := func(secret string, with envelope.Witness) (names string, err error) {
		t.Helper()
		attempt++
		c := f.attempt(1, attempt, "publish#2")
		boxes[c.Sandbox] = secret
		s, err := beginAs(t.Context(), link, c, with)
		if err != nil {
			t.Fatal(err)
		}
		o, err := s.ask(t.Context())
		for _, i := range o.Items {
			if i.Store != envelope.Authority {
				names += i.Name + " "
			}
		}
		return names, err
	}
	proof := envelope.Witness{Backend: "docker", Secret: []byte("its own secret"), Broker: key}
	for _, c := range []struct {
		policy                  string
		proven, bare, away, why string // what is issued, or the error's reason
	}{
		{`permit (principal, action, resource);`, "DEPLOY_TOKEN API_TOKEN ", "DEPLOY_TOKEN API_TOKEN ", "DEPLOY_TOKEN API_TOKEN ", ""}, // the control
		{`permit (principal, action, resource) when { context.level == "L2" };`, "DEPLOY_TOKEN ", "denied", "", "policy"},
		{`permit (principal, action, resource) when { context.level == "L2" || context.level == "L3" };`, "DEPLOY_TOKEN API_TOKEN ", "denied", "", "policy"},
		{`permit (principal, action, resource) when { context.level != "L2" };`, "denied", "DEPLOY_TOKEN API_TOKEN ", "DEPLOY_TOKEN API_TOKEN ", ""},
	} {
		f.policy(c.policy)
		f.bind(nil)
		for what, want := range map[string]string{"proven": c.proven, "bare": c.bare, "away": c.away} {
			secret, with := "its own secret", proof
			switch what {
			case "bare":
				with = envelope.Witness{}
			case "away":
				secret = "unknown"
			}
			got, err := ask(secret, with)
			if err != nil {
				got = reason(err)
			}
			if got != want || want == "" && (connect.CodeOf(err) != connect.CodeUnavailable || !strings.Contains(err.Error(), c.why)) {
				t.Errorf("%s: %s: got %q, %v; want %q", c.policy, what, got, err, want)
			}
		}
	}
	if n, m := f.events("envelope.refused"), f.events("key.withheld"); n != 3 || m != 1 {
		t.Errorf("%d refusals, and %d keys that were withheld, are on record", n, m)
	}
}

// A level that no sandbox of a backend can have is refused before one is made; that of one which has an attestor is not
// known before.
func TestCheckLevel(t *testing.T) {
	testenv.Require(t, testenv.PartRoot)
	defer broker.SetEngines()()
	for _, launches := range []bool{false, true} {
		f := newFixture(t, "DEPLOY_TOKEN")
		f.cfg.Peers = []uint32{other}
		f.cfg.Attestors = map[string]broker.Attestor{"docker": roll{}}
		if launches {
			f.cfg.Sandboxes = piped{}
		}
		link := f.serveTo(other)
		for least, refused := range map[identity.Level]map[string]bool{
			identity.L1: {},
			identity.L2: {"local": true, "launcher": !launches},
		} {
			f.exec("DELETE FROM stepward.profile")
			f.put("DEPLOY_TOKEN", identity.Key{Ref: "mem://x", MinLevel: least})
			for _, backend := range []string{"docker", "local", "launcher"} {
				err := check(t.Context(), link, f.claim, "publish#2", backend)
				if got := reason(err) == "level"; got != refused[backend] || !got && err != nil {
					t.Errorf("a broker that launches: %v, a level of %v for sandboxes of %s: %v", launches, least, backend, err)
				}
			}
		}
	}
}
