//go:build unix

package worker_test

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stepward/stepward/internal/db"
	"github.com/stepward/stepward/internal/enqueue"
	"github.com/stepward/stepward/workflow"
)

// claims executes statement Claim, as a worker of its own would.
type claims struct {
	*fixture
	q       *db.Queries
	session int64
	served  string // tenant

	pin    int32  // the requirement of what is claimed, if it is another
	handed [3]any // on: requirements, tenants and bindings
}

func (f *fixture) claims() *claims {
	f.t.Helper()
	q, err := db.New(f.schema)
	if err != nil {
		f.t.Fatal(err)
	}
	c := &claims{fixture: f, q: q, session: 1}
	if _, err := f.pool.Exec(f.t.Context(), q.WorkerInsert, c.session, "claims", time.Hour.Seconds(), []int32{}, []int32{}, []string{}, 100); err != nil {
		f.t.Fatal(err)
	}
	return c
}

// add inserts runs of workflow chain, without announcing them.
func (c *claims) add(n int, it enqueue.Item) {
	c.t.Helper()
	it.Workflow, it.Input = chain.Name, []byte("0")
	for n > 0 {
		items := slices.Repeat([]enqueue.Item{it}, min(n, 10000))
		n -= len(items)
		err := pgx.BeginFunc(c.t.Context(), c.pool, func(tx pgx.Tx) error {
			_, err := enqueue.Insert(c.t.Context(), tx, c.q, items)
			return err
		})
		if err != nil {
			c.t.Fatal(err)
		}
	}
}

func (c *claims) args(n int) []any {
	c.t.Helper()
	ids := []int32{int32(c.count("SELECT id FROM stepward.requirement WHERE workflow = 'chain'"))}
	return append([]any{c.session, ids, []int32{cmp.Or(c.pin, ids[0])}, []string{"1"}, n, c.served}, c.handed[:]...)
}

// claim returns the runs claimed and the tenants that they are of; more says
// that there was something else.
func (c *claims) claim(n int) (runs []int64, tenants map[string]int, more bool) {
	c.t.Helper()
	rows, err := c.pool.Query(c.t.Context(), c.q.Claim, c.args(n)...)
	if err != nil {
		c.t.Fatal(err)
	}
	tenants = make(map[string]int)
	for rows.Next() {
		values, err := rows.Values()
		if err != nil {
			c.t.Fatal(err)
		}
		if values[0] == int64(0) {
			more = true
			continue
		}
		c.served, _ = values[2].(string)
		runs = append(runs, values[0].(int64))
		tenants[c.served]++
	}
	if err := rows.Err(); err != nil {
		c.t.Fatal(err)
	}
	return runs, tenants, more
}

// However many runs of a tenant wait, one of another is in the next claim, and
// the claim reads no more than it takes.
func TestFairness(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	c := f.claims()
	c.add(100000, enqueue.Item{Tenant: "m"})
	for _, tenant := range []string{"a", ""} {
		c.add(1, enqueue.Item{Tenant: tenant})
	}
	f.exec("ANALYZE stepward.ready, stepward.run")
	_, tenants, more := c.claim(32)
	if tenants["m"] != 30 || tenants["a"] != 1 || tenants[""] != 1 || more {
		t.Errorf("claimed of each tenant: %v, more %v", tenants, more)
	}
	c.add(1, enqueue.Item{Tenant: "a"})
	var both []string
	for range 2 { // a worker with one place
		_, tenants, _ := c.claim(1)
		for tenant := range tenants {
			both = append(both, tenant)
		}
	}
	if !slices.Contains(both, "m") || !slices.Contains(both, "a") {
		t.Errorf("two claims of one run each: %v", both)
	}
	c.add(1, enqueue.Item{Tenant: "a"})
	for _, c.served = range []string{"a", "m", "z"} {
		if n := c.buffers(32); n > 32*40 {
			t.Errorf("after tenant %q a claim of 32 runs touches %d buffers", c.served, n)
		}
	}
}

// buffers executes a claim of n runs and returns how many buffers it touched.
func (c *claims) buffers(n int) int {
	c.t.Helper()
	var plan []struct {
		Plan struct {
			Hit  int `json:"Shared Hit Blocks"`
			Read int `json:"Shared Read Blocks"`
		}
	}
	if err := c.pool.QueryRow(c.t.Context(), "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) "+c.q.Claim, c.args(n)...).Scan(&plan); err != nil {
		c.t.Fatal(err)
	}
	c.t.Logf("after tenant %q: %d buffers", c.served, plan[0].Plan.Hit+plan[0].Plan.Read)
	return plan[0].Plan.Hit + plan[0].Plan.Read
}

// Runs like one that the worker has handed on are passed over, and those alone: neither another tenant's, nor what the same
// tenant has bound otherwise, waits for them, not even for the only place; nor is anything of one tenant passed over for what
// another has bound. How a run was bound counts, and not whether a worker has pinned it.
func TestClaimPassesOver(t *testing.T) {
	t.Parallel()
	for _, limit := range []string{"", "k"} {
		f := newFixture(t)
		c := f.claims()
		claim := func(n int) (runs []int64) {
			if runs, _, _ = c.claim(n); limit != "" {
				runs, _, _ = c.claimLimited(n)
			}
			return runs
		}
		add := func(n int, tenant, binding string) {
			c.add(n, enqueue.Item{Tenant: tenant, Limit: enqueue.Limit{Key: limit, Concurrency: min(1000, len(limit)*1000)}})
			f.exec("INSERT INTO stepward.binding (run_id, body) SELECT id, $1 FROM stepward.run WHERE id NOT IN (SELECT run_id FROM stepward.binding)", []byte(binding))
		}
		for i := range 5 {
			add(100, fmt.Sprintf("handed %d", i), "theirs")
		}
		add(3, "z", "other")
		add(2, "handed 3", "other")
		add(2, "otherwise", "theirs")
		c.pin = 4711
		hash := func(binding string) int64 {
			return int64(c.count("SELECT hash_record_extended(ROW($1::text::bytea), 0)", binding))
		}
		theirs := hash("theirs")
		c.handed = [3]any{slices.Repeat([]int32{c.pin}, 6), []string{"handed 0", "handed 1", "handed 2", "handed 3", "handed 4", "otherwise"},
			[]int64{theirs, theirs, theirs, theirs, theirs, hash("other")}}
		var got []int64
		for range 7 { // with one place, of which five tenants have nothing to offer
			c.served = "handed"
			got = append(got, claim(1)...)
		}
		if n := f.count("SELECT count(*) FROM stepward.ready WHERE tenant NOT LIKE 'handed%' OR run_id IN (SELECT run_id FROM stepward.binding WHERE body = 'other')"); len(got) != 7 || n != 0 {
			t.Errorf("limit %q: with one place %d were claimed, and %d are left", limit, len(got), n)
		}
		add(10, "z", "other")
		if runs := claim(10); len(runs) != 10 {
			t.Errorf("limit %q: one claim of ten has %d", limit, len(runs))
		}
		if runs := claim(100); len(runs) != 0 {
			t.Errorf("limit %q: claimed %d that were handed on", limit, len(runs))
		}
		c.handed[0] = c.args(1)[1] // of another requirement
		if runs := claim(100); len(runs) != 100 {
			t.Errorf("limit %q: claimed %d of what others have handed on", limit, len(runs))
		}
	}
}

// However many tenants' runs are passed over, a claim looks at some thousand of them at most.
func TestClaimPassesOverFew(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	c := f.claims()
	var tenants []string
	for i := range 10 {
		c.add(1000, enqueue.Item{Tenant: fmt.Sprintf("t%d", i)})
		tenants = append(tenants, fmt.Sprintf("t%d", i))
	}
	c.handed = [3]any{slices.Repeat(c.args(1)[1].([]int32), 10), tenants, make([]int64, 10)} // bound to nothing
	f.exec("ANALYZE stepward.ready, stepward.run")
	if n := c.buffers(32); n > 3*5000 {
		t.Errorf("a claim that passes over 10000 runs touches %d buffers", n)
	}
}

// Tenants take turns, also when a claim has fewer places than there are tenants,
// and what one leaves is the others'.
func TestTenantsTakeTurns(t *testing.T) {
	t.Parallel()
	c := newFixture(t).claims()
	for i := range 7 {
		c.add(9, enqueue.Item{Tenant: fmt.Sprintf("t%d", i)})
	}
	total := make(map[string]int)
	for range 7 {
		_, tenants, _ := c.claim(4)
		for tenant, n := range tenants {
			total[tenant] += n
		}
	}
	for tenant, n := range total {
		if n != 4 {
			t.Errorf("after 28 runs of 7 tenants, tenant %s had %d", tenant, n)
		}
	}
	c.add(300, enqueue.Item{Tenant: "deep"})
	runs, tenants, more := c.claim(100)
	if len(runs) == 100 || !more {
		t.Errorf("claimed %d, %v, more %v", len(runs), tenants, more)
	}
	if rest, tenants, more := c.claim(100); len(rest) != 100 || tenants["deep"] != 100 || more {
		t.Errorf("claimed %d, %v, more %v", len(rest), tenants, more)
	}
}

// Within a tenant, a step of priority is worth a minute of waiting.
func TestPriority(t *testing.T) {
	t.Parallel()
	c := newFixture(t).claims()
	for _, p := range []int16{0, -1, 0, 7, 3, -7} {
		c.add(1, enqueue.Item{Tenant: "acme", Priority: p})
	}
	// As if they had been enqueued earlier.
	for p, age := range map[int]string{-1: "61 s", -7: "6 min", 3: "5 min"} {
		c.exec("UPDATE stepward.run SET id = id - ((extract(epoch FROM $2::interval) * 1000)::bigint << 20) WHERE priority = $1", p, age)
	}
	c.exec("TRUNCATE stepward.ready")
	c.exec("INSERT INTO stepward.ready (requirement_id, run_id) SELECT requirement_id, id FROM stepward.run ORDER BY random()")
	var got []int
	for range 6 {
		runs, _, _ := c.claim(1)
		got = append(got, c.state(workflow.RunID(runs[0])).Priority)
	}
	if want := []int{3, 7, -1, 0, 0, -7}; !slices.Equal(got, want) {
		t.Errorf("claimed in this order of priorities: %v, want %v", got, want)
	}
}

// What others have locked is passed over, in its lane and beyond.
func TestClaimWaitsForNobody(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	c := f.claims()
	c.add(3, enqueue.Item{Tenant: "a"})
	c.add(1, enqueue.Item{Tenant: "b"})
	tx := f.begin()
	if _, err := tx.Exec(t.Context(), f.sql("SELECT FROM stepward.run WHERE tenant = 'b' OR id IN (SELECT min(id) FROM stepward.run) FOR NO KEY UPDATE")); err != nil {
		t.Fatal(err)
	}
	if runs, tenants, more := c.claim(10); len(runs) != 2 || tenants["a"] != 2 || !more {
		t.Errorf("claimed %v, more %v", tenants, more)
	}
	if runs, _, more := c.claim(1); len(runs) != 0 || !more {
		t.Errorf("claimed %v, more %v", runs, more)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if runs, tenants, more := c.claim(10); len(runs) != 2 || tenants["b"] != 1 || more {
		t.Errorf("claimed %v, more %v", tenants, more)
	}
}

// A run that comes back from a wait stands in the lane of its tenant again.
func TestPlaceAfterWait(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	c := f.claims()
	c.add(1, enqueue.Item{Tenant: "acme", Priority: 5})
	runs, _, _ := c.claim(1)
	if n := f.count("SELECT count(*) FROM stepward.ready"); n != 0 {
		t.Fatalf("%d ready", n)
	}
	c.leave(runs[0], 1)
	if n := f.count("SELECT count(*) FROM stepward.ready WHERE tenant = 'acme' AND rank = run_id - 5 * (60000::bigint << 20)"); n != 1 {
		t.Error("it is not in its place")
	}
	if s := f.state(workflow.RunID(runs[0])); s.State != workflow.StateReady || s.Since.IsZero() || s.Priority != 5 {
		t.Errorf("it is %+v", s)
	}
	if err := f.client.Cancel(t.Context(), workflow.RunID(runs[0])); err != nil {
		t.Fatal(err)
	}
	if again, _, _ := c.claim(1); !slices.Equal(again, runs) {
		t.Errorf("claimed %v, want %v", again, runs)
	}
}

// Claims at the same time take each run once: the epoch would say otherwise.
func TestClaimsTogether(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	c := f.claims()
	const runs = 3000
	c.add(runs, enqueue.Item{})
	args := c.args(7)
	var wg sync.WaitGroup
	var claimed atomic.Int64
	for range 6 {
		wg.Go(func() {
			for claimed.Load() < runs && t.Context().Err() == nil {
				rows, err := f.pool.Query(t.Context(), c.q.Claim, args...)
				if err != nil {
					t.Error(err)
					return
				}
				for rows.Next() {
					if values, err := rows.Values(); err != nil || values[0] != int64(0) {
						claimed.Add(1)
					}
				}
				if err := rows.Err(); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if n := f.count("SELECT count(*) FROM stepward.run WHERE epoch = 1"); n != runs || claimed.Load() != runs {
		t.Errorf("%d of %d runs were claimed once, by %d claims", n, runs, claimed.Load())
	}
}
