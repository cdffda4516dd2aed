package broker_test

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/stepward/stepward/identity"
	"github.com/stepward/stepward/identity/broker"
	"github.com/stepward/stepward/internal/envelope"
	"github.com/stepward/stepward/internal/rpc"
)

// An attempt gets what its step lists and its tenant has, sealed to its sandbox, and all
// that is on record of it is there without a value.
func TestIssue(t *testing.T) {
	f := newFixture(t, "DEPLOY_TOKEN", "REGION", "NOT_THERE?")
	f.store.values["acme/deploy"] = "s3cr3t-canary"
	f.put("DEPLOY_TOKEN", identity.Key{Ref: "mem://acme/deploy", Commands: []string{"deploy"}, Strict: true})
	f.put("REGION", identity.Key{Knob: "eu-central"})
	f.put("OTHER", identity.Key{Ref: "mem://acme/other"}) // that no step lists
	link := f.serve()
	o, err := get(t.Context(), link, f.claim)
	if err != nil {
		t.Fatal(err)
	}
	if len(o.Items) != 2 || o.Items[0].Name != "DEPLOY_TOKEN" || string(o.Items[0].Value) != "s3cr3t-canary" || !o.Items[0].Guest || !o.Items[0].Strict ||
		o.Items[0].Version != "v1" || o.Items[0].Commands[0] != "deploy" || o.Items[1].Name != "REGION" || string(o.Items[1].Value) != "eu-central" {
		t.Errorf("got %+v", o.Items)
	}
	if h := o.Head; h.Facts.Tenant != "acme" || h.Facts.Step != "publish#2" || h.Facts.Sandbox != f.claim.Sandbox || h.Terms.Freeze != envelope.FreezeDefault || h.Terms.Kill != envelope.KillDefault {
		t.Errorf("got %+v", h)
	}
	if r := f.store.asked[0]; r.Tenant != "acme" || r.Path != "acme/deploy" || !strings.HasSuffix(r.Attempt, "/publish#2/1") || r.Until.IsZero() {
		t.Errorf("the store was asked for %+v", r)
	}
	client, err := link.Client(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // again is no change
		if _, err := client.Opened(t.Context(), connect.NewRequest(&rpc.OpenedRequest{Claim: f.claim})); err != nil {
			t.Fatal(err)
		}
	}
	first, err := renew(t.Context(), link, f.claim, o)
	if err != nil || first.State != envelope.Renewed {
		t.Fatalf("got %+v, %v", first, err)
	}
	if second, err := renew(t.Context(), link, f.claim, o); err != nil || second.Counter < first.Counter {
		t.Errorf("got %+v, %v", second, err)
	}
	for range 2 {
		if _, err := client.Close(t.Context(), connect.NewRequest(&rpc.CloseRequest{Claim: f.claim})); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := renew(t.Context(), link, f.claim, o); reason(err) != "unopened" {
		t.Errorf("what is closed was renewed: %v", err)
	}
	for _, kind := range []string{"envelope.issued", "envelope.opened", "envelope.closed"} {
		if n := f.events(kind); n != 1 {
			t.Errorf("%d events %s", n, kind)
		}
	}
	var all string
	if err := f.pool.QueryRow(t.Context(), f.in(`SELECT (SELECT json_agg(i)::text FROM stepward.issue i) || (SELECT string_agg(convert_from(detail, 'UTF8'), '') FROM stepward.event e WHERE kind LIKE 'envelope%')`)).Scan(&all); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(all, "s3cr3t") || !strings.Contains(all, "L1-dev") || !strings.Contains(all, "mem://acme/deploy") {
		t.Errorf("on record is %s", all)
	}
}

// What a store makes for an attempt ends by itself soon after the time limit of its step; after an hour if that has none.
func TestUntil(t *testing.T) {
	f := newFixture(t, "DEPLOY_TOKEN")
	f.store.values["x"] = "s3cr3t-canary"
	f.put("DEPLOY_TOKEN", identity.Key{Ref: "mem://x"})
	link := f.serve()
	for i, c := range []struct{ limit, least, most time.Duration }{
		{0, time.Hour, time.Hour},
		{time.Second, time.Second, time.Second + broker.LeaseMargin},
		{3 * time.Hour, 3 * time.Hour, 3*time.Hour + broker.LeaseMargin},
		{math.MaxInt64, 10 * 365 * 24 * time.Hour, 11 * 365 * 24 * time.Hour},
	} {
		f.exec(`UPDATE stepward.definition SET steps = convert_to(jsonb_set(convert_from(steps, 'UTF8')::jsonb, '{0,timeout_ns}', to_jsonb($1::bigint))::text, 'UTF8')`, int64(c.limit))
		before := time.Now()
		if _, err := get(t.Context(), link, f.attempt(1, 2+i, "publish#2")); err != nil {
			t.Fatal(err)
		}
		until := f.store.asked[i].Until
		if until.Before(before.Add(c.least)) || until.After(time.Now().Add(c.most)) {
			t.Errorf("of an attempt of %v it is %v from %v", c.limit, until.Sub(before), before)
		}
	}
}

// A tool step's function gets nothing: its commands do.
func TestIssueToToolStep(t *testing.T) {
	f := newFixture(t, "DEPLOY_TOKEN")
	f.store.values["x"] = "s3cr3t-canary"
	f.put("DEPLOY_TOKEN", identity.Key{Ref: "mem://x"})
	o, err := get(t.Context(), f.serve(), f.attempt(2, 1, "page[3]/drive"))
	if err != nil || len(o.Items) != 1 || o.Items[0].Guest {
		t.Errorf("got %+v, %v", o.Items, err)
	}
}

// What a worker says of an attempt has to be what is on record, or nothing is fetched.
func TestFenced(t *testing.T) {
	f := newFixture(t, "DEPLOY_TOKEN")
	f.store.values["x"] = "s3cr3t-canary"
	f.put("DEPLOY_TOKEN", identity.Key{Ref: "mem://x"})
	link := f.serve()
	own, err := begin(t.Context(), link, f.claim)
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*rpc.Claim){
		"run":       func(c *rpc.Claim) { c.Run++ },
		"seq":       func(c *rpc.Claim) { c.Seq++ },
		"attempt":   func(c *rpc.Claim) { c.Attempt++ },
		"epoch":     func(c *rpc.Claim) { c.Epoch++ },
		"no epoch":  func(c *rpc.Claim) { c.Epoch = 0 },
		"session":   func(c *rpc.Claim) { c.Session++ },
		"sandbox":   func(c *rpc.Claim) { c.Sandbox += "x" },
		"nobody's":  func(c *rpc.Claim) { *c = rpc.Claim{} },
		"a new run": func(c *rpc.Claim) { c.Run = -1 },
	} {
		c := proto.CloneOf(f.claim)
		change(c)
		own.claim = c
		if _, err := own.ask(t.Context()); reason(err) != "fenced" {
			t.Errorf("another %s: got %v", name, err)
		}
		if _, err := begin(t.Context(), link, c); reason(err) != "fenced" {
			t.Errorf("begin with another %s: got %v", name, err)
		}
	}
	own.claim = f.claim
	for name, sql := range map[string][2]string{
		"it was claimed":       {"UPDATE stepward.run SET epoch = 2, session = 8", "UPDATE stepward.run SET epoch = 1, session = 7"},
		"it ended":             {"UPDATE stepward.run SET state = 'failed'", "UPDATE stepward.run SET state = 'live'"},
		"the attempt failed":   {"UPDATE stepward.attempt SET error = ''", "UPDATE stepward.attempt SET error = NULL"},
		"the attempt is taken": {"UPDATE stepward.attempt SET epoch = 2", "UPDATE stepward.attempt SET epoch = 1"},
		"the mode is lower":    {"UPDATE stepward.attempt SET mode = 1", "UPDATE stepward.attempt SET mode = 2"},
	} {
		f.exec(sql[0])
		if _, err := own.ask(t.Context()); reason(err) == "" {
			t.Errorf("%s: got %v", name, err)
		}
		f.exec(sql[1])
	}
	if n := f.issued(); n != 0 || len(f.store.asked) != 0 {
		t.Errorf("%d envelopes are on record, and the store was asked for %v", n, f.store.asked)
	}
	if _, err := own.ask(t.Context()); err != nil { // the control
		t.Error(err)
	}
}

// Each way not to get a secret has its reason, which is on record, and nothing is issued in part.
func TestRefusals(t *testing.T) {
	f := newFixture(t, "GOOD", "BAD")
	f.store.values["good"] = "s3cr3t-canary"
	f.put("GOOD", identity.Key{Ref: "mem://good"})
	link := f.serve()
	for _, c := range []struct {
		name   string
		key    identity.Key
		value  string
		err    error
		reason string // empty: it may be asked for again
		says   string
	}{
		{"no profile has it", identity.Key{}, "", nil, "unresolved", "no profile sets it"},
		{"the store does not", identity.Key{Ref: "mem://bad"}, "", nil, "unresolved", "no such secret"},
		{"nobody has set the store up", identity.Key{Ref: "mem://bad"}, "", errors.Join(broker.ErrNoSecret, broker.ErrEmpty), "store", "is empty"},
		{"denied by a profile", identity.Key{Deny: true}, "", nil, "denied", "denied"},
		{"denied by the store", identity.Key{Ref: "mem://bad"}, "", broker.ErrDenied, "denied", "is denied"},
		{"no name for the store", identity.Key{Ref: "mem://bad"}, "", broker.ErrName, "unresolved", "no name of a secret"},
		{"a version that is gone", identity.Key{Ref: "mem://bad", Version: "v0"}, "", broker.ErrNoVersion, "pin", "no such version"},
		{"no such store", identity.Key{Ref: "vault://bad"}, "", nil, "store", "no store for vault://"},
		{"a broken store", identity.Key{Ref: "mem://bad"}, "", broker.ErrCorrupt, "store", "is corrupt"},
		{"a store that is away", identity.Key{Ref: "mem://bad"}, "", errors.New("connection refused"), "", "connection refused"},
		{"too high a level", identity.Key{Ref: "mem://good", MinLevel: identity.L1}, "", nil, "level", "L1"},
		{"too short a value", identity.Key{Ref: "mem://bad"}, "zq7#", nil, "unresolved", "Key.Weak"},
		{"too plain a value", identity.Key{Ref: "mem://bad"}, strings.Repeat("ab", 5) + strings.Repeat(" ", 40), nil, "unresolved", "Key.Weak"},
		{"a NUL in a variable", identity.Key{Ref: "mem://bad"}, "long enough\x00", nil, "unresolved", "it has a NUL"},
		{"too long a value", identity.Key{Ref: "mem://bad"}, strings.Repeat("x", 64<<10+1), nil, "unresolved", "over 65536 bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f.exec("DELETE FROM stepward.profile WHERE name = 'bad'")
			f.exec("DELETE FROM stepward.event")
			if c.name != "no profile has it" {
				f.put("BAD", c.key)
			}
			f.store.mu.Lock()
			f.store.errs["bad"] = c.err
			delete(f.store.values, "bad")
			if c.value != "" {
				f.store.values["bad"] = c.value
			}
			f.store.mu.Unlock()
			_, err := get(t.Context(), link, f.claim)
			if err == nil || reason(err) != c.reason || c.reason == "" && connect.CodeOf(err) != connect.CodeUnavailable {
				t.Fatalf("got %v, reason %q", err, reason(err))
			}
			if strings.Contains(err.Error(), "s3cr3t") || c.value != "" && strings.Contains(err.Error(), c.value[:4]) || !strings.Contains(err.Error(), "BAD") || !strings.Contains(err.Error(), c.says) {
				t.Errorf("the text is %v", err)
			}
			if strings.Count(err.Error(), "broker: ") != 1 {
				t.Errorf("the text says twice whose it is: %v", err)
			}
			if n, m := f.issued(), f.events("envelope.refused"); n != 0 || (m == 1) != (c.reason != "") {
				t.Errorf("%d envelopes and %d refusals are on record", n, m)
			}
		})
	}
	f.exec("DELETE FROM stepward.profile WHERE name = 'bad'")
	f.put("BAD", identity.Key{Ref: "mem://bad", File: true, Weak: true})
	f.store.values["bad"] = "a\x00b"
	if o, err := get(t.Context(), link, f.claim); err != nil || len(o.Items) != 2 { // the control: as a file it is fine
		t.Errorf("got %v, %v", o.Items, err)
	}
}

// What is revoked softly is not given out, and lasts where it is; what is revoked hard is not
// renewed either, and the sandbox is told so.
func TestRevoked(t *testing.T) {
	f := newFixture(t, "DEPLOY_TOKEN")
	f.store.values["x"] = "s3cr3t-canary"
	f.put("DEPLOY_TOKEN", identity.Key{Ref: "mem://x"})
	link := f.serve()
	o, err := get(t.Context(), link, f.claim)
	if err != nil {
		t.Fatal(err)
	}
	later := f.attempt(1, 2, "publish#2")
	revoke := func(r identity.Revocation) {
		t.Helper()
		r.Tenant = "acme"
		if err := f.profiles.Revoke(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	revoke(identity.Revocation{Kind: identity.KindKey, Target: "DEPLOY_TOKEN", State: identity.Soft})
	if _, err := get(t.Context(), link, later); reason(err) != "revoked" {
		t.Errorf("got %v", err)
	}
	if n, err := renew(t.Context(), link, f.claim, o); err != nil || n.State != envelope.Renewed {
		t.Errorf("got %+v, %v", n, err)
	}
	revoke(identity.Revocation{Kind: identity.KindKey, Target: "DEPLOY_TOKEN", State: identity.Hard})
	if n, err := renew(t.Context(), link, f.claim, o); err != nil || n.State != envelope.Revoked {
		t.Errorf("got %+v, %v", n, err)
	}
	for _, r := range []identity.Revocation{
		{Kind: identity.KindWorker, Target: "old faithful"}, {Kind: identity.KindWorkflow, Target: "site"}, {Kind: identity.KindTenant},
	} {
		f.exec("DELETE FROM stepward.revocation")
		if _, err := renew(t.Context(), link, f.claim, o); err != nil {
			t.Fatal(err)
		}
		r.State = identity.Hard
		revoke(r)
		if n, err := renew(t.Context(), link, f.claim, o); err != nil || n.State != envelope.Revoked {
			t.Errorf("%s: got %+v, %v", r.Kind, n, err)
		}
		want := "revoked"
		if r.Kind == identity.KindWorker {
			want = "worker"
		}
		if _, err := get(t.Context(), link, later); reason(err) != want {
			t.Errorf("%s: got %v", r.Kind, err)
		}
	}
}

// Who takes an attempt over from a worker that is revoked softly goes on with it. From one that is revoked hard it
// gets neither a renewal nor a secret in that sandbox, to which the other knows the way; in a new one it does.
func TestRevokedWorkerBefore(t *testing.T) {
	f := newFixture(t, "DEPLOY_TOKEN")
	f.store.values["x"] = "s3cr3t-canary"
	f.put("DEPLOY_TOKEN", identity.Key{Ref: "mem://x"})
	link := f.serve()
	f.exec("INSERT INTO stepward.worker (session, name, lease_until, lease_s, requirements, backends) VALUES (8, 'heir', now(), 10, '{}', '{}'), (171, 'long ago', now(), 10, '{}', '{}')")
	f.exec("INSERT INTO stepward.claim (run_id, epoch, session, at) VALUES ($1, 1, 171, now() - interval '1 h'), ($1, 2, 7, now() - interval '1 min')", int64(runID))
	f.exec("UPDATE stepward.run SET epoch = 2")
	f.exec("UPDATE stepward.attempt SET epoch = 2")
	f.claim.Epoch = 2
	o, err := get(t.Context(), link, f.claim)
	if err != nil {
		t.Fatal(err)
	}
	f.exec("INSERT INTO stepward.claim (run_id, epoch, session) VALUES ($1, 3, 8)", int64(runID))
	f.exec("UPDATE stepward.run SET epoch = 3, session = 8")
	f.exec("UPDATE stepward.attempt SET epoch = 3")
	f.claim.Epoch, f.claim.Session = 3, 8
	for _, r := range []struct {
		target string
		state  identity.State
		want   envelope.State
	}{{"ab", identity.Hard, envelope.Renewed}, {"long ago", identity.Hard, envelope.Renewed}, {"old faithful", identity.Soft, envelope.Renewed}, {"7", identity.Hard, envelope.Revoked}} {
		if err := f.profiles.Revoke(t.Context(), identity.Revocation{Kind: identity.KindWorker, Target: r.target, State: r.state}); err != nil {
			t.Fatal(err)
		}
		if n, err := renew(t.Context(), link, f.claim, o); err != nil || n.State != r.want {
			t.Errorf("%s %v: got %+v, %v", r.target, r.state, n, err)
		}
	}
	if _, err := get(t.Context(), link, f.claim); reason(err) != "sandbox" {
		t.Errorf("got %v", err)
	}
	again := f.attempt(1, 2, "publish#2")
	f.exec("UPDATE stepward.attempt SET epoch = 3")
	again.Epoch, again.Session = 3, 8
	if _, err := get(t.Context(), link, again); err != nil {
		t.Error(err)
	}
}

// Which version a store gives is known when it has: one that is revoked is not passed on, and one that was
// revoked with its key is not renewed because another has become current.
func TestRevokedVersion(t *testing.T) {
	f := newFixture(t, "DEPLOY_TOKEN", "PLAIN")
	f.store.values["x"], f.store.values["plain"] = "s3cr3t-canary", "s3cr3t-canary of no version"
	f.store.now["plain"] = "-"
	f.put("DEPLOY_TOKEN", identity.Key{Ref: "mem://x"})
	f.put("PLAIN", identity.Key{Ref: "mem://plain"})
	link := f.serve()
	revoke := func(r identity.Revocation) {
		t.Helper()
		r.Tenant = "acme"
		if err := f.profiles.Revoke(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	rotate := func(name, version string) {
		t.Helper()
		if err := f.profiles.Rotate(t.Context(), "acme", name, version); err != nil {
			t.Fatal(err)
		}
	}
	version := func(v string) {
		f.store.mu.Lock()
		defer f.store.mu.Unlock()
		f.store.now["x"] = v
	}
	state := func(c *rpc.Claim, o envelope.Opened, want envelope.State) {
		t.Helper()
		if n, err := renew(t.Context(), link, c, o); err != nil || n.State != want {
			t.Errorf("got %+v, %v", n, err)
		}
	}
	version("v1@monday")
	first, err := get(t.Context(), link, f.claim)
	if err != nil {
		t.Fatal(err)
	}
	revoke(identity.Revocation{Kind: identity.KindVersion, Target: "DEPLOY_TOKEN", Version: "v1", State: identity.Soft})
	second := f.attempt(1, 2, "publish#2")
	if _, err := get(t.Context(), link, second); reason(err) != "revoked" || !strings.Contains(err.Error(), "version v1 of key DEPLOY_TOKEN is revoked (soft)") {
		t.Errorf("a version that is revoked: %v", err)
	}
	if n := f.issued(); n != 1 {
		t.Errorf("%d envelopes are on record", n)
	}
	state(f.claim, first, envelope.Renewed) // what has it keeps it
	version("v2")
	o, err := get(t.Context(), link, second)
	if err != nil {
		t.Fatal(err)
	}

	revoke(identity.Revocation{Kind: identity.KindKey, Target: "PLAIN", State: identity.Hard})
	rotate("PLAIN", "new")
	state(second, o, envelope.Revoked) // it was issued before
	third := f.attempt(1, 3, "publish#2")
	o, err = get(t.Context(), link, third)
	if err != nil {
		t.Fatal(err)
	}
	state(third, o, envelope.Renewed) // and this one after

	revoke(identity.Revocation{Kind: identity.KindKey, Target: "DEPLOY_TOKEN", State: identity.Soft})
	rotate("DEPLOY_TOKEN", "v3")
	fourth := f.attempt(1, 4, "publish#2")
	if _, err := get(t.Context(), link, fourth); reason(err) != "pin" || !strings.Contains(err.Error(), `version "v3" is current, and the store gives version "v2"`) {
		t.Errorf("a version that was revoked with its key: %v", err)
	}
	revoke(identity.Revocation{Kind: identity.KindVersion, Target: "DEPLOY_TOKEN", Version: "v2", State: identity.Soft})
	if _, err := get(t.Context(), link, fourth); reason(err) != "revoked" { // whatever else is current
		t.Errorf("a version that was revoked with its key, and by itself: %v", err)
	}
	version("v3")
	if _, err := get(t.Context(), link, fourth); err != nil {
		t.Error(err)
	}

	// What a tenant has on record is not what is current of a key that was revoked for all.
	if err := f.profiles.Revoke(t.Context(), identity.Revocation{Kind: identity.KindKey, Target: "DEPLOY_TOKEN", State: identity.Soft}); err != nil {
		t.Fatal(err)
	}
	fifth := f.attempt(1, 5, "publish#2")
	if _, err := get(t.Context(), link, fifth); reason(err) != "revoked" {
		t.Errorf("a key that was revoked for all: %v", err)
	}
	if err := f.profiles.Rotate(t.Context(), "", "DEPLOY_TOKEN", "v4"); err != nil {
		t.Fatal(err)
	}
	if _, err := get(t.Context(), link, fifth); reason(err) != "pin" || !strings.Contains(err.Error(), `version "v4" is current, and the store gives version "v3"`) {
		t.Errorf("a key that was revoked for all, and is current in another version: %v", err)
	}
}

// What was said with the run re-points a name to what any profile of its tenant has, at its start as
// when it was bound.
func TestKeysOfRun(t *testing.T) {
	f := newFixture(t, "DEPLOY_TOKEN")
	f.store.values["x"], f.store.values["y"] = "s3cr3t-canary x", "s3cr3t-canary y"
	f.put("DEPLOY_TOKEN", identity.Key{Ref: "mem://x"})
	err := f.profiles.Put(t.Context(), identity.Profile{Name: "test", Scope: identity.Scope{Tenant: "acme", Environment: "test"}, Keys: map[string]identity.Key{"OTHER": {Ref: "mem://y"}}})
	if err != nil {
		t.Fatal(err)
	}
	f.bind(map[string]identity.Key{"DEPLOY_TOKEN": {Ref: "mem://y"}})
	o, err := get(t.Context(), f.serve(), f.claim)
	if err != nil || len(o.Items) != 1 || string(o.Items[0].Value) != "s3cr3t-canary y" {
		t.Errorf("got %v, %v", o.Items, err)
	}
}

// What demands a level does not get out at a lower one by a run's own key of another name, wherever it is demanded.
func TestRestrictedByKeysOfRun(t *testing.T) {
	for name, scope := range map[string]identity.Scope{"here": {Tenant: "acme"}, "in another project": {Tenant: "acme", Project: "else"}} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, "LOW")
			f.store.values["acme/low"], f.store.values["acme/high"] = "low-value-0123456789", "high-value-0123456789"
			f.put("LOW", identity.Key{Ref: "mem://acme/low"})
			own := map[string]identity.Key{"LOW": {Ref: "mem://acme/high"}}
			high := func(k identity.Key) {
				t.Helper()
				p := identity.Profile{Name: "high", Scope: scope, Keys: map[string]identity.Key{"HIGH": k}}
				if old, err := f.profiles.Get(t.Context(), "acme", "high"); err == nil {
					p.Generation = old.Generation
				}
				if err := f.profiles.Put(t.Context(), p); err != nil {
					t.Fatal(err)
				}
			}
			high(identity.Key{Ref: "mem://acme/high"})
			f.bind(own) // before anything was demanded
			high(identity.Key{Ref: "mem://acme/high", MinLevel: identity.L2})
			if o, err := get(t.Context(), f.serve(), f.claim); reason(err) != "unresolved" || !strings.Contains(err.Error(), "profile high") {
				t.Errorf("got %d items, %v", len(o.Items), err)
			}
		})
	}
}

// A run that says itself what its profile has is the profile's still: what is revoked with that, or deleted, it
// loses as others do. The first renewal is the control.
func TestProfileOfKeysOfRun(t *testing.T) {
	f := newFixture(t, "DEPLOY_TOKEN")
	f.store.values["x"] = "s3cr3t-canary"
	f.put("DEPLOY_TOKEN", identity.Key{Ref: "mem://x"})
	f.bind(map[string]identity.Key{"DEPLOY_TOKEN": {Ref: "mem://x", Commands: []string{"deploy"}}})
	link := f.serve()
	o, err := get(t.Context(), link, f.claim)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := renew(t.Context(), link, f.claim, o); err != nil || n.State != envelope.Renewed {
		t.Fatalf("got %+v, %v", n, err)
	}
	revoke := func(state identity.State, want envelope.State) {
		t.Helper()
		err := f.profiles.Revoke(t.Context(), identity.Revocation{Tenant: "acme", Kind: identity.KindProfile, Target: "deploy_token", State: state})
		if err != nil {
			t.Fatal(err)
		}
		if n, err := renew(t.Context(), link, f.claim, o); err != nil || n.State != want {
			t.Errorf("%v: got %+v, %v", state, n, err)
		}
	}
	revoke(identity.Soft, envelope.Renewed)
	if _, err := get(t.Context(), link, f.attempt(1, 2, "publish#2")); reason(err) != "revoked" {
		t.Errorf("a start: %v", err)
	}
	revoke(identity.Hard, envelope.Revoked)
}

// What a run may have shrinks after its enqueue, and does not grow: a key that is new is not given
// out, one that refers to something else neither, unless it says that runs follow; a new version of the
// same is.
func TestSetDoesNotGrow(t *testing.T) {
	f := newFixture(t, "DEPLOY_TOKEN", "LATER?", "MOVED?", "FOLLOWED?")
	for _, path := range []string{"x", "y"} {
		f.store.values[path] = "s3cr3t-canary " + path
	}
	f.put("DEPLOY_TOKEN", identity.Key{Ref: "mem://x"})
	f.put("MOVED", identity.Key{Ref: "mem://x"})
	f.put("FOLLOWED", identity.Key{Ref: "mem://x", Retarget: true})
	link := f.serve()
	f.put("LATER", identity.Key{Ref: "mem://x"})
	f.exec("UPDATE stepward.binding SET body = convert_to(replace(convert_from(body, 'UTF8'), 'LATER', 'OTHER'), 'UTF8')") // as if it had been enqueued before
	f.exec("UPDATE stepward.profile SET keys = replace(keys::text, 'mem://x', 'mem://y')::jsonb WHERE name IN ('moved', 'followed')")
	o, err := get(t.Context(), link, f.claim)
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]string)
	for _, i := range o.Items {
		got[i.Name] = string(i.Value)
	}
	if len(got) != 2 || got["DEPLOY_TOKEN"] != "s3cr3t-canary x" || got["FOLLOWED"] != "s3cr3t-canary y" {
		t.Errorf("got %v", got)
	}
	f.exec("DELETE FROM stepward.binding")
	if _, err := get(t.Context(), link, f.attempt(1, 2, "publish#2")); reason(err) != "denied" {
		t.Errorf("a run that was bound to nothing: %v", err)
	}
}
