//go:build unix

package broker_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/stepward/stepward/identity"
	"github.com/stepward/stepward/internal/brokerlink"
	"github.com/stepward/stepward/internal/envelope"
)

// said is what a child writes.
type said struct {
	mu sync.Mutex
	b  strings.Builder
}

func (s *said) line(l string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.b.WriteString(l + "\n")
}

func (s *said) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func (f *fixture) child(log *said) *brokerlink.Link {
	l := brokerlink.Child(brokerlink.NewSetup(f.pool, f.schema), log.line)
	f.t.Cleanup(l.Close)
	return l
}

// A broker that is a child of its worker is there when it is first needed, knows the worker's
// database, comes back when it has died, and is still the one that sandboxes know.
func TestChild(t *testing.T) {
	f := newFixture(t, "DEPLOY_TOKEN")
	f.put("DEPLOY_TOKEN", identity.Key{Ref: "mem://x"})
	t.Setenv(envDir, t.TempDir())
	var log said
	link := f.child(&log)
	o, err := get(t.Context(), link, f.claim)
	if err != nil || string(o.Items[0].Value) != "canary of x" {
		t.Fatalf("got %v, %v", o.Items, err)
	}
	before := link.Pid()
	if err := syscall.Kill(before, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for { // until its death is noticed, a call may fail
		n, err := renew(t.Context(), link, f.claim, o)
		if err == nil && n.State == envelope.Renewed {
			break
		}
		if reason(err) != "" || t.Context().Err() != nil {
			t.Fatalf("got %+v, %v", n, err)
		}
	}
	after := link.Pid()
	if after == before {
		t.Error("the broker that was killed answers")
	}
	link.Close()
	if err := syscall.Kill(after, 0); err == nil {
		t.Error("the broker outlives its worker")
	}
}

// Wherever a broker dies on its way, no secret has left that is not on record; and the next
// one issues what is needed.
func TestKilledWhileIssuing(t *testing.T) {
	for point, before := range map[string]int{"fetched": 0, "recorded": 1} {
		t.Run(point, func(t *testing.T) {
			f := newFixture(t, "DEPLOY_TOKEN")
			f.put("DEPLOY_TOKEN", identity.Key{Ref: "mem://x"})
			t.Setenv(envDir, t.TempDir())
			t.Setenv(envPoint, point)
			var log said
			link := f.child(&log)
			s, err := begin(t.Context(), link, f.claim)
			if err != nil {
				t.Fatal(err)
			}
			if o, err := s.ask(t.Context()); err == nil {
				t.Fatalf("a broker that died answered %v", o.Items)
			}
			if n := f.issued(); n != before || f.events("envelope.issued") != before {
				t.Errorf("%d envelopes are on record", n)
			}
			for {
				if s.client, err = link.Client(t.Context()); err != nil {
					t.Fatal(err)
				}
				if o, err := s.ask(t.Context()); err == nil {
					if len(o.Items) != 1 {
						t.Errorf("got %v", o.Items)
					}
					break
				} else if reason(err) != "" || t.Context().Err() != nil {
					t.Fatal(err)
				}
			}
			if n := f.issued(); n != before+1 {
				t.Errorf("%d envelopes are on record", n)
			}
		})
	}
}

// What cannot be recorded does not leave.
func TestNoAuditNoSecret(t *testing.T) {
	f := newFixture(t, "DEPLOY_TOKEN")
	f.store.values["x"] = "s3cr3t-canary"
	f.store.leases = true
	f.put("DEPLOY_TOKEN", identity.Key{Ref: "mem://x"})
	link := f.serve()
	f.exec("ALTER TABLE stepward.event ADD CONSTRAINT full_disk CHECK (kind <> 'envelope.issued')")
	if o, err := get(t.Context(), link, f.claim); err == nil || reason(err) != "" {
		t.Fatalf("got %v, %v", o.Items, err)
	}
	if n := f.issued(); n != 0 || len(f.store.ended) != 1 {
		t.Errorf("%d envelopes are on record, and the leases that were ended are %v", n, f.store.ended)
	}
	f.exec("ALTER TABLE stepward.event DROP CONSTRAINT full_disk")
	if _, err := get(t.Context(), link, f.claim); err != nil {
		t.Error(err)
	}
}

// Why a broker does not start is what its worker hears, and logs, without values that what it says quotes.
func TestChildDoesNotStart(t *testing.T) {
	f := newFixture(t)
	t.Setenv(envDir, t.TempDir())
	var log said
	for _, c := range []struct{ env, says, heard string }{
		{envSays, "the passphrase is wrong", "the passphrase is wrong"}, // the control
		{envSays, "cannot reach https://ada:canary1@vault.example.com/x?key=canary2", "cannot reach https://…@vault.example.com/x?…"},
		{envSays, "Vault did not take hvs." + strings.Repeat("canary3", 6), "kept back: it has vault-token"},
		{envPanic, "no store for canary4", "panic: what it is about is kept back"},
	} {
		t.Setenv(c.env, c.says)
		_, err := f.child(&log).Client(t.Context())
		start, ok := errors.AsType[*brokerlink.StartError](err)
		if !ok || start.Away || !strings.Contains(err.Error(), c.heard) || !strings.Contains(log.text(), c.heard) {
			t.Errorf("%s: got %v", c.says, err)
		}
		if shown := fmt.Sprint(err) + log.text(); strings.Contains(shown, "canary") {
			t.Errorf("%s: it says too much: %s", c.says, shown)
		}
		t.Setenv(c.env, "")
	}
	t.Setenv(envEnds, "now")
	if _, err := f.child(&log).Client(t.Context()); !strings.Contains(fmt.Sprint(err), "does not start: it ended before it served, with exit status 7") {
		t.Errorf("got %v", err)
	}
	t.Setenv(envEnds, "")
	setup := brokerlink.NewSetup(f.pool, f.schema)
	setup.Host, setup.Port = "127.0.0.1", 1 // where nobody listens
	link := brokerlink.Child(setup, log.line)
	defer link.Close()
	_, err := link.Client(t.Context())
	if start, ok := errors.AsType[*brokerlink.StartError](err); !ok || !start.Away { // that passes
		t.Errorf("got %v", err)
	}
}
