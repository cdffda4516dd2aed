package broker_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/stepward/stepward/identity"
	"github.com/stepward/stepward/identity/broker"
	"github.com/stepward/stepward/internal/rpc"
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
	client, err := link.Client(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Close(t.Context(), connect.NewRequest(&rpc.CloseRequest{Claim: f.claim})); err != nil {
		t.Fatal(err)
	}
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
