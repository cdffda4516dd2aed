package broker_test

import (
	"strings"
	"testing"

	"connectrpc.com/connect"

	"github.com/stepward/stepward/identity"
	"github.com/stepward/stepward/identity/broker"
	"github.com/stepward/stepward/internal/testenv"
)

// What is revoked after the broker has looked, and before it has recorded, does not leave. What has nothing to do
// with the attempt is looked at as well, and stops nothing.
func TestRevokedMeanwhile(t *testing.T) {
	f := newFixture(t, "DEPLOY_TOKEN")
	f.store.values["x"], f.store.leases = "s3cr3t-canary", true
	f.put("DEPLOY_TOKEN", identity.Key{Ref: "mem://x"})
	meanwhile := make(chan identity.Revocation, 1)
	looks := make(chan struct{}, 10)
	broker.SetPoint(func(at string) {
		if at != "checked" {
			return
		}
		looks <- struct{}{}
		select {
		case r := <-meanwhile:
			if err := f.profiles.Revoke(t.Context(), r); err != nil {
				t.Error(err)
			}
		default:
		}
	})
	t.Cleanup(func() { broker.SetPoint(func(string) {}) })
	link := f.serve()
	issued, ended := 0, 0
	for i, c := range []struct {
		r      identity.Revocation
		looks  int
		reason string
	}{
		{identity.Revocation{Tenant: "globex", Kind: identity.KindTenant}, 1, ""}, // the control: of nobody here
		{identity.Revocation{Tenant: "acme", Kind: identity.KindKey, Target: "OTHER"}, 2, ""},
		{identity.Revocation{Kind: identity.KindWorkflow, Target: "other"}, 2, ""},
		{identity.Revocation{Tenant: "acme", Kind: identity.KindKey, Target: "DEPLOY_TOKEN"}, 1, "revoked"},
		{identity.Revocation{Kind: identity.KindWorkflow, Target: "site"}, 1, "revoked"},
	} {
		f.exec("DELETE FROM stepward.revocation")
		c.r.State = identity.Soft
		meanwhile <- c.r
		o, err := get(t.Context(), link, f.attempt(1, 2+i, "publish#2"))
		if (err == nil) != (c.reason == "") || reason(err) != c.reason || (err == nil) != (len(o.Items) == 1) {
			t.Errorf("%+v: got %+v, %v", c.r, o.Items, err)
		}
		if err == nil {
			issued++
		} else {
			ended++
		}
		if f.issued() != issued || f.events("envelope.issued") != issued || len(f.store.ended) != ended {
			t.Errorf("%+v: %d are on record, and ended are %v", c.r, f.issued(), f.store.ended)
		}
		if len(looks) != c.looks {
			t.Errorf("%+v: it looked %d times, want %d", c.r, len(looks), c.looks)
		}
		for len(looks) > 0 {
			<-looks
		}
	}
}

// The first revocation of a tenant waits, as all do, for what is being recorded, and does not
// return before a secret that has not left yet.
func TestRevokedFirst(t *testing.T) {
	f := newFixture(t, "DEPLOY_TOKEN")
	f.store.values["x"] = "s3cr3t-canary"
	f.put("DEPLOY_TOKEN", identity.Key{Ref: "mem://x"})
	link := f.serve()
	tx, err := f.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(t.Context())
	if _, err := tx.Exec(t.Context(), f.in("SELECT FROM stepward.run WHERE id = $1 FOR NO KEY UPDATE"), int64(runID)); err != nil {
		t.Fatal(err)
	}
	waiting := func() int {
		return f.count("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%'||$1||'%'", f.schema)
	}
	issued, revoked := make(chan error, 1), make(chan error, 1)
	go func() {
		_, err := get(t.Context(), link, f.claim)
		issued <- err
	}()
	testenv.Eventually(t, "the issue waits", func() bool { return waiting() >= 1 })
	go func() {
		revoked <- f.profiles.Revoke(t.Context(), identity.Revocation{Tenant: "acme", Kind: identity.KindKey, Target: "DEPLOY_TOKEN", State: identity.Soft})
	}()
	testenv.Eventually(t, "the revocation waits", func() bool { return waiting() >= 2 || len(revoked) > 0 })
	if len(revoked) > 0 {
		t.Error("the revocation is over before the envelope is on record")
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-issued; err != nil {
		t.Error(err)
	}
	if err := <-revoked; err != nil {
		t.Error(err)
	}
}

// Who holds up what is revoked, and does not go on, holds up a start for a time: what was fetched for it is ended, the worker may ask
// again, and then gets it.
func TestHeldUp(t *testing.T) {
	f := newFixture(t, "DEPLOY_TOKEN")
	f.store.values["x"], f.store.leases = "s3cr3t-canary", true
	f.put("DEPLOY_TOKEN", identity.Key{Ref: "mem://x"})
	f.exec("ALTER FUNCTION stepward.put_issue SET lock_timeout = '10ms'")
	link := f.serve()
	tx, err := f.pool.Begin(t.Context())
	if err == nil {
		_, err = tx.Exec(t.Context(), f.in("INSERT INTO stepward.identity_epoch VALUES ('acme', 0)"))
	}
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(t.Context())
	_, err = get(t.Context(), link, f.claim)
	if connect.CodeOf(err) != connect.CodeUnavailable || !strings.Contains(err.Error(), "holds up") || f.issued() != 0 || len(f.store.ended) != 1 {
		t.Errorf("got %v, and ended are %v", err, f.store.ended)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.exec("ALTER FUNCTION stepward.put_issue SET lock_timeout = '1min'")
	if _, err := get(t.Context(), link, f.claim); err != nil {
		t.Error(err)
	}
}
