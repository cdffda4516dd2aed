package broker_test

import (
	"context"
	"strings"
	"testing"

	"connectrpc.com/connect"

	"github.com/stepward/stepward/identity"
	"github.com/stepward/stepward/identity/broker"
	"github.com/stepward/stepward/internal/brokerlink"
	"github.com/stepward/stepward/internal/rpc"
)

// check asks before there is a sandbox.
func check(ctx context.Context, l *brokerlink.Link, c *rpc.Claim, step, backend string) error {
	client, err := l.Client(ctx)
	if err != nil {
		return err
	}
	_, err = client.Check(ctx, connect.NewRequest(&rpc.CheckRequest{
		Claim: &rpc.Claim{Run: c.Run, Seq: c.Seq, Attempt: c.Attempt, Epoch: c.Epoch, Session: c.Session}, Step: step, Backend: backend,
	}))
	return err
}

// What no sandbox changes is refused before there is one, for another worker to do better, and is on record. No store
// is asked for it, and what the tenant or a store has wrong is not found so.
func TestCheck(t *testing.T) {
	f := newFixture(t, "GOOD", "BAD?")
	f.store.values["good"] = "s3cr3t-canary"
	f.store.errs["bad"] = broker.ErrCorrupt
	f.put("GOOD", identity.Key{Ref: "mem://good"})
	f.exec("DELETE FROM stepward.attempt") // there is none yet
	link := f.serve()
	for _, c := range []struct {
		name   string
		key    identity.Key
		reason string
	}{
		{"nothing", identity.Key{Ref: "mem://good"}, ""},
		{"no such store", identity.Key{Ref: "vault://bad"}, "store"},
		{"a broken store", identity.Key{Ref: "mem://bad"}, ""},
		{"too high a level", identity.Key{Ref: "mem://good", MinLevel: identity.L1, Required: true}, "level"},
		{"too high a level of what is optional", identity.Key{Ref: "vault://bad", MinLevel: identity.L1}, ""},
		{"denied by a profile", identity.Key{Deny: true, Required: true}, ""},
	} {
		f.exec("DELETE FROM stepward.profile WHERE name = 'bad'")
		f.exec("DELETE FROM stepward.event")
		f.put("BAD", c.key)
		err := check(t.Context(), link, f.claim, "publish#2", "local")
		if (err != nil) != (c.reason != "") || reason(err) != c.reason || err != nil && !strings.Contains(err.Error(), "BAD") {
			t.Errorf("%s: got %v, reason %q", c.name, err, reason(err))
		}
		if n := f.events("envelope.refused"); (n == 1) != (c.reason != "") {
			t.Errorf("%s: %d refusals are on record", c.name, n)
		}
	}
	if len(f.store.asked) != 0 || f.issued() != 0 {
		t.Errorf("the store was asked for %v", f.store.asked)
	}
	f.put("BAD", identity.Key{Ref: "vault://bad"})
	for reasonWanted, c := range map[string]*rpc.Claim{
		"store":  f.claim, // the control
		"fenced": {Run: runID, Seq: 1, Attempt: 1, Epoch: 2, Session: 7},
	} {
		if err := check(t.Context(), link, c, "publish#2", "local"); reason(err) != reasonWanted {
			t.Errorf("got %v, want %s", err, reasonWanted)
		}
	}
	if err := check(t.Context(), link, &rpc.Claim{Run: runID, Seq: 1, Attempt: 1, Epoch: 1, Session: 8}, "publish#2", "local"); reason(err) != "fenced" {
		t.Errorf("got %v", err)
	}
	if err := check(t.Context(), link, f.claim, "other", "local"); reason(err) != "unresolved" {
		t.Errorf("got %v", err)
	}
	if err := f.profiles.Revoke(t.Context(), identity.Revocation{Kind: identity.KindWorker, Target: "old faithful", State: identity.Soft}); err != nil {
		t.Fatal(err)
	}
	if err := check(t.Context(), link, f.claim, "publish#2", "local"); reason(err) != "worker" {
		t.Errorf("got %v", err)
	}
}
