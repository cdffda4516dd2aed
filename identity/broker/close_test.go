package broker_test

import (
	"context"
	"maps"
	"slices"
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

// What an attempt leaves open, as its worker died, is closed when the attempt is over, and
// what was leased for it is ended at its source: asked for again until that has worked.
func TestSweep(t *testing.T) {
	f := newFixture(t, "DEPLOY_TOKEN")
	f.store.values["x"] = "s3cr3t-canary"
	f.store.leases = true
	f.put("DEPLOY_TOKEN", identity.Key{Ref: "mem://x"})
	link := f.serve()
	attempts := []*rpc.Claim{f.claim, f.attempt(2, 1, "publish#3"), f.attempt(3, 1, "publish#4")}
	for _, c := range attempts {
		if _, err := get(t.Context(), link, c); err != nil {
			t.Fatal(err)
		}
	}
	f.stop()
	open := func() (seqs []int) {
		rows, err := f.pool.Query(t.Context(), f.in("SELECT seq FROM stepward.issue WHERE closed_at IS NULL ORDER BY seq"))
		if err != nil {
			t.Fatal(err)
		}
		defer rows.Close()
		for rows.Next() {
			var n int
			if err := rows.Scan(&n); err != nil {
				t.Fatal(err)
			}
			seqs = append(seqs, n)
		}
		return seqs
	}
	sweep := func() {
		t.Helper()
		f.exec("UPDATE stepward.issue SET issued_at = issued_at - interval '1 minute'")
		if err := broker.Sweep(t.Context(), f.cfg); err != nil {
			t.Fatal(err)
		}
	}
	f.exec("UPDATE stepward.run SET session = 8, epoch = 2") // another worker has it, and may go on
	sweep()
	if got := open(); !slices.Equal(got, []int{1, 2, 3}) {
		t.Errorf("of attempts that go on, open are %v", got)
	}
	f.exec("UPDATE stepward.attempt SET error = '' WHERE seq = 1")
	f.exec("INSERT INTO stepward.step (run_id, started_at, input_hash, seq, done, epoch, elapsed, attempt, mode, key) VALUES ($1, now(), 0, 2, 1, 2, 0, 1, 2::\"char\", 'publish#3')", f.claim.Run)
	f.store.fails = 1
	sweep()
	if got := open(); !slices.Equal(got, []int{3}) {
		t.Errorf("open are %v", got)
	}
	f.exec("UPDATE stepward.run SET state = 'canceled'")
	sweep()
	f.store.mu.Lock()
	defer f.store.mu.Unlock()
	if got := open(); len(got) != 0 || len(f.store.ended) != 3 || f.store.ended[0] != "lease of x" {
		t.Errorf("open are %v, ended are %v", got, f.store.ended)
	}
	if n := f.count("SELECT count(*)::int FROM stepward.issue WHERE leases IS NOT NULL"); n != 0 {
		t.Errorf("of %d envelopes leases are due", n)
	}
	if n := f.events("envelope.closed"); n != 3 {
		t.Errorf("%d events", n)
	}
}

// Leases that another broker has sealed are not in the way of those that this one can end.
func TestSweepPassesOver(t *testing.T) {
	f := newFixture(t, "DEPLOY_TOKEN")
	f.store.values["x"] = "s3cr3t-canary"
	f.store.leases = true
	f.put("DEPLOY_TOKEN", identity.Key{Ref: "mem://x"})
	if _, err := get(t.Context(), f.serve(), f.claim); err != nil {
		t.Fatal(err)
	}
	f.exec(`INSERT INTO stepward.issue (id, run_id, seq, attempt, step, sandbox_id, level, revocation, pins, renewal, leases, closed_at)
		SELECT decode(lpad(to_hex(n), 32, '0'), 'hex'), run_id, seq, attempt, step, sandbox_id, level, revocation, pins, renewal, decode(repeat('00', 64), 'hex'), now()
		FROM stepward.issue, generate_series(1, 100) AS n`)
	f.exec("UPDATE stepward.issue SET closed_at = now(), tried_at = now() WHERE closed_at IS NULL")
	for range 2 {
		if err := broker.Sweep(t.Context(), f.cfg); err != nil {
			t.Fatal(err)
		}
	}
	f.store.mu.Lock()
	defer f.store.mu.Unlock()
	if len(f.store.ended) == 0 {
		t.Errorf("ended are %v", f.store.ended)
	}
}

// closed tells the broker that an attempt is over.
func (f *fixture) closed(link *brokerlink.Link, c *rpc.Claim) {
	f.t.Helper()
	client, err := link.Client(f.t.Context())
	if err != nil {
		f.t.Fatal(err)
	}
	if _, err := client.Close(f.t.Context(), connect.NewRequest(&rpc.CloseRequest{Claim: c})); err != nil {
		f.t.Fatal(err)
	}
}

// leaseEvents are those of the run, by kind without "lease.".
func (f *fixture) leaseEvents() map[string][]string {
	f.t.Helper()
	events, err := audit.Events(f.t.Context(), f.pool, audit.Filter{Schema: f.schema, Run: runID, Kinds: []string{audit.LeaseRevoked, audit.LeasePending, audit.LeaseUnsupported}})
	if err != nil {
		f.t.Fatal(err)
	}
	out := map[string][]string{}
	for _, e := range events {
		out[strings.TrimPrefix(e.Kind, "lease.")] = append(out[strings.TrimPrefix(e.Kind, "lease.")], string(e.Detail))
	}
	return out
}

// What came of a lease is on record, for a client too: that its source has not ended it, why, and how often it was asked; and when it has.
func TestLeaseOnRecord(t *testing.T) {
	f := newFixture(t, "DEPLOY_TOKEN", "OTHER", "THIRD")
	f.store.values["x"], f.store.leases, f.store.fails = "s3cr3t-canary", true, 1000
	f.store.trouble = "the source is away: \x00\xff lease of x"
	f.cfg.Stores["gone"], f.cfg.Stores["fixed"] = f.store, getOnly{f.store}
	f.put("DEPLOY_TOKEN", identity.Key{Ref: "mem://x"})
	f.put("OTHER", identity.Key{Ref: "gone://x"})
	f.put("THIRD", identity.Key{Ref: "fixed://x"})
	if _, err := get(t.Context(), f.serve(), f.claim); err != nil {
		t.Fatal(err)
	}
	f.stop()
	row := func() (out [3]string) {
		t.Helper()
		if err := f.pool.QueryRow(t.Context(), f.in("SELECT lease_state, lease_tries::text, lease_error FROM stepward.issue")).Scan(&out[0], &out[1], &out[2]); err != nil {
			t.Fatal(err)
		}
		return out
	}
	if got := row(); got != [3]string{"held", "0", ""} {
		t.Errorf("before its end: %q", got)
	}
	f.exec("UPDATE stepward.issue SET issued_at = issued_at - interval '1 minute'")
	f.exec("UPDATE stepward.attempt SET error = ''")
	cfg := f.cfg
	cfg.Stores = maps.Clone(f.cfg.Stores) // not those of the one that serves
	delete(cfg.Stores, "gone")
	for range 3 {
		if err := broker.Sweep(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
	}
	if got := row(); got[0] != "pending" || got[1] != "3" || got[2] == "" {
		t.Errorf("asked in vain: %q", got)
	}
	events := f.leaseEvents()
	if len(events["pending"]) != 2 || len(events["unsupported"]) != 1 || len(events["revoked"]) != 0 {
		t.Errorf("asked in vain: %q", events)
	}
	all := strings.Join(events["pending"], "")
	for _, want := range []string{`"DEPLOY_TOKEN"`, `"OTHER"`, "the source is away", "no store for gone://", `"until"`} {
		if !strings.Contains(all, want) {
			t.Errorf("%s is not in %s", want, all)
		}
	}
	if strings.Contains(all, "lease of x") {
		t.Errorf("what names the lease at its source is in %s", all)
	}
	if all := strings.Join(events["unsupported"], ""); !strings.Contains(all, `"THIRD"`) || !strings.Contains(all, `"until"`) {
		t.Errorf("what cannot be ended: %s", all)
	}
	cfg.Stores["gone"], f.store.fails = f.store, 0
	for range 2 {
		if err := broker.Sweep(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
	}
	events = f.leaseEvents()
	if got := row(); got != [3]string{"unsupported", "4", ""} || len(events["revoked"]) != 2 || len(events["pending"]) != 2 || len(f.store.ended) != 2 {
		t.Errorf("after the cure: %q, %q, ended %q", got, events, f.store.ended)
	}
}

// Leases that no broker with their key has come for are on record as not ended, once.
func TestLeaseOfALostBroker(t *testing.T) {
	f := newFixture(t, "DEPLOY_TOKEN")
	f.store.values["x"], f.store.leases = "s3cr3t-canary", true
	f.put("DEPLOY_TOKEN", identity.Key{Ref: "mem://x"})
	if _, err := get(t.Context(), f.serve(), f.claim); err != nil {
		t.Fatal(err)
	}
	f.stop()
	f.exec("UPDATE stepward.attempt SET error = ''")
	cfg := f.cfg
	cfg.Dir = t.TempDir()
	for i, since := range []string{"0 s", "6 min", "6 min"} {
		f.exec("UPDATE stepward.issue SET closed_at = clock_timestamp() - $1::interval", since)
		if err := broker.Sweep(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
		if n := len(f.leaseEvents()["pending"]); n != min(i, 1) {
			t.Errorf("%s: %d events", since, n)
		}
	}
	if n := f.count("SELECT count(*)::int FROM stepward.issue WHERE leases IS NOT NULL AND lease_state = 'pending'"); n != 1 {
		t.Error("the lease is not due any more")
	}
}

// waiting is a store whose source says nothing until it is told to.
type waiting struct {
	*memory
	began, free chan struct{}
	now, most   atomic.Int32
	gaveUp      atomic.Bool
}

func (w *waiting) Revoke(ctx context.Context, id string) error {
	n := w.now.Add(1)
	defer w.now.Add(-1)
	for m := w.most.Load(); n > m && !w.most.CompareAndSwap(m, n); m = w.most.Load() {
	}
	w.began <- struct{}{}
	select {
	case <-w.free:
		return w.memory.Revoke(ctx, id)
	case <-ctx.Done():
		w.gaveUp.Store(true)
		return ctx.Err()
	}
}

// A source that hangs is asked for a few leases at a time, and neither leases of others nor what is to be closed wait for it.
func TestLeasesOfOneThatHangs(t *testing.T) {
	broker.SetSweepEvery(t, 50*time.Millisecond)
	f := newFixture(t, "DEPLOY_TOKEN")
	f.store.values["x"], f.store.leases = "s3cr3t-canary", true
	slow := &waiting{memory: &memory{values: f.store.values, leases: true}, began: make(chan struct{}, 100), free: make(chan struct{})}
	f.cfg.Stores["slow"], f.cfg.Timeout = slow, time.Minute
	f.put("DEPLOY_TOKEN", identity.Key{Ref: "slow://x"})
	link := f.serve()
	free := sync.OnceFunc(func() { close(slow.free) })
	defer free()
	for i := range 2 * broker.LeasesAtOnce {
		if _, err := get(t.Context(), link, f.attempt(10+i, 1, "publish#3")); err != nil {
			t.Fatal(err)
		}
	}
	f.put("DEPLOY_TOKEN", identity.Key{Ref: "mem://x"})
	if _, err := get(t.Context(), link, f.claim); err != nil {
		t.Fatal(err)
	}
	// All are closed at once, those of the slow store first.
	f.exec("UPDATE stepward.issue SET tried_at = CASE WHEN seq < 10 THEN clock_timestamp() ELSE to_timestamp(0) END, closed_at = clock_timestamp()")
	until := func(what, sql string) {
		t.Helper()
		for f.count(sql) != 0 {
			if slow.gaveUp.Load() {
				t.Fatalf("%s waits for a source that hangs", what)
			}
		}
	}
	for range broker.LeasesAtOnce {
		testenv.Receive(t, slow.began)
	}
	until("a lease of another store", "SELECT count(*)::int FROM stepward.issue WHERE seq < 10 AND leases IS NOT NULL")
	if _, err := get(t.Context(), link, f.attempt(2, 1, "publish#4")); err != nil {
		t.Fatal(err)
	}
	f.exec("UPDATE stepward.issue SET issued_at = issued_at - interval '1 minute'")
	f.exec("UPDATE stepward.attempt SET error = ''")
	until("what is to be closed", "SELECT count(*)::int FROM stepward.issue WHERE closed_at IS NULL")
	free()
	until("the rest", "SELECT count(*)::int FROM stepward.issue WHERE leases IS NOT NULL")
	if n := slow.most.Load(); n != broker.LeasesAtOnce {
		t.Errorf("the store was asked %d times at once", n)
	}
}

// getOnly is a store that cannot end what it gives out.
type getOnly struct{ broker.Store }

// A lease that its store cannot end is not asked about again.
func TestLeaseWithoutRevoker(t *testing.T) {
	f := newFixture(t, "DEPLOY_TOKEN")
	f.store.values["x"], f.store.leases = "s3cr3t-canary", true
	f.cfg.Stores["mem"] = getOnly{f.store}
	f.put("DEPLOY_TOKEN", identity.Key{Ref: "mem://x"})
	link := f.serve()
	if _, err := get(t.Context(), link, f.claim); err != nil {
		t.Fatal(err)
	}
	leases := func() int { return f.count("SELECT count(*)::int FROM stepward.issue WHERE leases IS NOT NULL") }
	if leases() != 1 {
		t.Error("no lease is on record")
	}
	f.closed(link, f.claim)
	for leases() != 0 {
		if t.Context().Err() != nil {
			t.Fatal("it is asked about for ever")
		}
	}
}

// No broker lets secrets last longer without a renewal than a hard revocation promises.
func TestTermsAreBounded(t *testing.T) {
	f := newFixture(t)
	for _, terms := range [][2]time.Duration{{16 * time.Second, 0}, {0, 91 * time.Second}, {10 * time.Second, 5 * time.Second}} {
		f.cfg.Freeze, f.cfg.Kill = terms[0], terms[1]
		if err := broker.Serve(t.Context(), nil, f.cfg); err == nil || !strings.Contains(err.Error(), "Freeze") {
			t.Errorf("%v: got %v", terms, err)
		}
	}
}
