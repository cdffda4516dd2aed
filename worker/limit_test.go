//go:build unix

package worker_test

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stepward/stepward/internal/enqueue"
	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

// open returns the limits that are open, and until when others have no tokens.
func (c *claims) open(n int) (keys []string, wait time.Duration) {
	c.t.Helper()
	args := c.args(n)
	rows, err := c.pool.Query(c.t.Context(), c.q.LimitOpen, args[1], n, args[2], args[6], args[7], args[8])
	if err != nil {
		c.t.Fatal(err)
	}
	var key string
	var s float64
	if _, err := pgx.ForEachRow(rows, []any{&key, &s}, func() error {
		if key != "" {
			keys = append(keys, key)
		} else {
			wait = time.Duration(s * float64(time.Second))
		}
		return nil
	}); err != nil {
		c.t.Fatal(err)
	}
	return keys, wait
}

// claimLimited claims as a worker does: the limits that are open, then runs. It
// returns the runs, their tenants, and until when there are no tokens.
func (c *claims) claimLimited(n int) (runs []int64, tenants []string, wait time.Duration) {
	c.t.Helper()
	keys, wait := c.open(n)
	if len(keys) > 0 {
		runs, tenants = c.claimOf(n, keys...)
	}
	return runs, tenants, wait
}

// claimOf claims runs of these limits.
func (c *claims) claimOf(n int, keys ...string) (runs []int64, tenants []string) {
	c.t.Helper()
	args := c.args(n)
	args[5] = keys
	rows, err := c.pool.Query(c.t.Context(), c.q.ClaimLimited, args...)
	if err != nil {
		c.t.Fatal(err)
	}
	for rows.Next() {
		values, err := rows.Values()
		if err != nil {
			c.t.Fatal(err)
		}
		if run := values[0].(int64); run != 0 {
			runs, tenants = append(runs, run), append(tenants, values[2].(string))
		}
	}
	if err := rows.Err(); err != nil {
		c.t.Fatal(err)
	}
	return runs, tenants
}

// leave ends a turn; the run is ready again.
func (c *claims) leave(run int64, epoch int) {
	c.t.Helper()
	var dest string
	if err := c.pool.QueryRow(c.t.Context(), c.q.TurnLeave, c.session, run, epoch, "ready", nil, "", []byte("{}"), "test", nil, false, false).Scan(&dest); err != nil {
		c.t.Fatal(err)
	}
}

// A limit lets as many runs through as it says; those it holds back delay
// nobody, and the end of a turn lets the next one through.
func TestLimitConcurrency(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	c := f.claims()
	two := enqueue.Limit{Key: "two", Concurrency: 2, Per: time.Second}
	c.add(20000, enqueue.Item{Tenant: "a", Limit: two})
	c.add(1, enqueue.Item{Tenant: "b", Limit: two})
	c.add(1, enqueue.Item{Tenant: "a"})
	c.add(1, enqueue.Item{Tenant: "a", Limit: enqueue.Limit{Key: "other", Concurrency: 1}})
	f.exec("ANALYZE stepward.ready, stepward.run")
	if runs, _, _ := c.claim(10); len(runs) != 1 {
		t.Errorf("claimed %d runs without a limit", len(runs))
	}
	runs, tenants, _ := c.claimLimited(10)
	if len(runs) != 3 {
		t.Fatalf("claimed %d, of %v", len(runs), tenants)
	}
	if n := f.count("SELECT count(*) FROM stepward.turn t JOIN stepward.run r ON r.id = t.run_id WHERE t.limit_key = 'two' AND r.tenant = 'b'"); n != 1 {
		t.Error("the two places were not shared by the tenants")
	}
	if more, _, _ := c.claimLimited(10); len(more) != 0 {
		t.Errorf("claimed %d more", len(more))
	}
	if n := c.buffers(32); n > 200 {
		t.Errorf("a claim that finds nothing touches %d buffers", n)
	}
	again := int64(f.count("SELECT run_id FROM stepward.turn WHERE limit_key = 'two' ORDER BY slot LIMIT 1"))
	c.leave(again, 1)
	if runs, _, _ := c.claimLimited(10); len(runs) != 1 || runs[0] != again {
		t.Errorf("claimed %v, want %v, which has begun", runs, again)
	}
	f.exec("DELETE FROM stepward.turn WHERE limit_key = 'two'")
	if runs, _, _ := c.claimLimited(1); len(runs) != 1 {
		t.Errorf("claimed %d for one place", len(runs))
	}
	if runs, _, _ := c.claimLimited(10); len(runs) != 1 {
		t.Errorf("claimed %d for one slot", len(runs))
	}
	var id int64
	err := f.pool.QueryRow(t.Context(), f.sql("INSERT INTO stepward.turn (run_id, session, epoch, limit_key, slot) SELECT 1, 1, 1, limit_key, slot FROM stepward.turn WHERE limit_key = 'two' LIMIT 1 RETURNING run_id")).Scan(&id)
	if err == nil {
		t.Error("two turns have the same slot")
	}
}

// The numbers of the newest enqueue hold for all; one that changes nothing in a
// transaction of the application holds up nobody.
func TestLimitChanges(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	c := f.claims()
	c.add(10, enqueue.Item{Limit: enqueue.Limit{Key: "k", Concurrency: 1}})
	if runs, _, _ := c.claimLimited(10); len(runs) != 1 {
		t.Fatalf("claimed %d", len(runs))
	}
	c.add(1, enqueue.Item{Limit: enqueue.Limit{Key: "k", Concurrency: 4}})
	tx := f.begin()
	if _, err := enqueue.Insert(t.Context(), tx, c.q, []enqueue.Item{{Workflow: chain.Name, Input: []byte("0"), Limit: enqueue.Limit{Key: "k", Concurrency: 4}}}); err != nil {
		t.Fatal(err)
	}
	if runs, _, _ := c.claimLimited(10); len(runs) != 3 {
		t.Errorf("claimed %d", len(runs))
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.add(1, enqueue.Item{Limit: enqueue.Limit{Key: "k", Concurrency: 2}})
	for _, held := range []int{3, 2} {
		f.exec("DELETE FROM stepward.turn WHERE run_id = (SELECT max(run_id) FROM stepward.turn)")
		if runs, _, _ := c.claimLimited(10); len(runs) != 0 {
			t.Errorf("claimed %d while %d are held", len(runs), held)
		}
	}
	f.exec("DELETE FROM stepward.turn WHERE run_id = (SELECT max(run_id) FROM stepward.turn)")
	if runs, _, _ := c.claimLimited(10); len(runs) != 1 {
		t.Errorf("claimed %d", len(runs))
	}
}

// A rate counts what begins, on the clock of the database; what goes on needs no
// token.
func TestLimitRate(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	c := f.claims()
	c.add(10, enqueue.Item{Limit: enqueue.Limit{Key: "k", Rate: 2, Per: time.Hour}})
	runs, _, _ := c.claimLimited(10)
	if len(runs) != 2 {
		t.Fatalf("claimed %d", len(runs))
	}
	none, _, wait := c.claimLimited(10)
	if len(none) != 0 || wait < 20*time.Minute || wait > 30*time.Minute {
		t.Errorf("claimed %d, and the next one in %v", len(none), wait)
	}
	c.leave(runs[0], 1)
	if again, _, _ := c.claimLimited(10); len(again) != 1 || again[0] != runs[0] {
		t.Errorf("claimed %v, want %v", again, runs[0])
	}
	f.exec("UPDATE stepward.run_limit SET filled_at = filled_at - interval '30 min'")
	if runs, _, _ := c.claimLimited(10); len(runs) != 1 {
		t.Errorf("claimed %d", len(runs))
	}
	f.exec("UPDATE stepward.run_limit SET filled_at = filled_at - interval '30 days'")
	if runs, _, _ := c.claimLimited(1); len(runs) != 1 {
		t.Errorf("claimed %d for one place", len(runs))
	}
	if runs, _, _ := c.claimLimited(10); len(runs) != 1 {
		t.Errorf("claimed %d after a long pause", len(runs))
	}
}

// Both at once, and many limits.
func TestLimitsTogether(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	c := f.claims()
	for i := range 50 {
		c.add(3, enqueue.Item{Tenant: "a", Limit: enqueue.Limit{Key: fmt.Sprint("k", i), Concurrency: 2, Rate: 3, Per: time.Hour}})
	}
	total := 0
	for range 20 {
		runs, _, _ := c.claimLimited(13)
		if total += len(runs); len(runs) > 13 {
			t.Errorf("claimed %d", len(runs))
		}
	}
	if n := f.count("SELECT count(DISTINCT (limit_key, slot)) FROM stepward.turn WHERE slot <= 2"); total != 100 || n != 100 {
		t.Errorf("claimed %d, and %d slots are taken", total, n)
	}
	f.exec("DELETE FROM stepward.turn WHERE slot = 1")
	for range 20 {
		runs, _, _ := c.claimLimited(13)
		total += len(runs)
	}
	if total != 150 {
		t.Errorf("claimed %d", total)
	}
	if s := f.state(workflow.RunID(f.count("SELECT max(run_id) FROM stepward.turn"))); s.Limit == "" {
		t.Errorf("it has no limit: %+v", s)
	}
}

// Limits behind which nothing waits but what the worker has handed on are not looked at before one that it can do something
// for, however many there are; nor does such a run that has begun, and needs no token, open a limit for those that need one.
func TestLimitPassesOver(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	c := f.claims()
	add := func(key, tenant, binding string) {
		c.add(1, enqueue.Item{Tenant: tenant, Limit: enqueue.Limit{Key: key, Concurrency: 1, Rate: 1, Per: time.Hour}})
		f.exec("INSERT INTO stepward.binding (run_id, body) SELECT id, $1 FROM stepward.run WHERE id NOT IN (SELECT run_id FROM stepward.binding)", []byte(binding))
	}
	for i := range 200 {
		add(fmt.Sprintf("theirs %d", i), "acme", "theirs")
	}
	for key, binding := range map[string]string{"other binding": "other", "other tenant": "theirs"} {
		add(key, "acme", "theirs")
		add(key, map[bool]string{true: "acme", false: "z"}[binding == "other"], binding)
	}
	add("begun", "acme", "theirs")
	begun, _ := c.claimOf(1, "begun")
	add("begun", "z", "theirs")
	c.leave(begun[0], 1)
	c.pin = 4711
	open := func(n int) []string {
		keys, wait := c.open(n)
		if wait < 59*time.Minute { // until there is a token for what has not begun
			t.Errorf("the next one opens in %v", wait)
		}
		slices.Sort(keys)
		return keys
	}
	c.handed = [3]any{[]int32{c.pin}, []string{"acme"}, []int64{int64(c.count("SELECT hash_record_extended(ROW($1::text::bytea), 0)", "theirs"))}}
	if keys := open(3); !slices.Equal(keys, []string{"other binding", "other tenant"}) {
		t.Errorf("open are %v", keys)
	}
	c.handed[0] = c.args(1)[1] // of another requirement
	if keys, _ := c.open(1000); len(keys) != 203 {
		t.Errorf("%d are open", len(keys))
	}
}

// Why names the limit that holds a run back.
func TestWhyLimited(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	c := f.claims()
	c.add(2, enqueue.Item{Limit: enqueue.Limit{Key: "slots", Concurrency: 1}})
	c.claimLimited(10)
	c.add(2, enqueue.Item{Limit: enqueue.Limit{Key: "tokens", Rate: 1, Per: time.Hour}})
	c.claimLimited(10)
	f.exec("UPDATE stepward.worker SET requirements = ARRAY(SELECT id FROM stepward.requirement)")
	held := func(key string) workflow.RunID {
		return workflow.RunID(f.count("SELECT run_id FROM stepward.ready WHERE gate = $1", key))
	}
	f.because(held("slots"), "limit", "it is ready, and limit slots has 1 of 1 in use since", "wait until one of them ends or waits")
	f.because(held("tokens"), "limit", "it is ready, and limit tokens lets 1 begin in 1h0m0s since", "wait, for ")
	f.exec("DELETE FROM stepward.turn")
	f.because(held("slots"), "claim")
}

// Claims that meet at a limit never exceed it, and none of them fails for it.
func TestLimitClaimsTogether(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	c := f.claims()
	const runs, most = 200, 3
	c.add(runs, enqueue.Item{Limit: enqueue.Limit{Key: "k", Concurrency: most}})
	args := c.args(2)
	args[5] = []string{"k"}
	var done atomic.Int64
	var group sync.WaitGroup
	for range 6 {
		group.Go(func() {
			for done.Load() < runs && !t.Failed() {
				rows, err := f.pool.Query(t.Context(), c.q.ClaimLimited, args...)
				if err != nil {
					t.Error(err)
					return
				}
				var held []int64
				for rows.Next() {
					if values, err := rows.Values(); err != nil {
						t.Error(err)
					} else if run := values[0].(int64); run != 0 {
						held = append(held, run)
					}
				}
				if err := rows.Err(); err != nil {
					t.Error(err)
				}
				if n := f.count("SELECT count(*) FROM stepward.turn"); n > most {
					t.Errorf("%d turns of a limit of %d", n, most)
				}
				f.exec("DELETE FROM stepward.turn WHERE run_id = ANY($1)", held)
				done.Add(int64(len(held)))
			}
		})
	}
	group.Wait()
}

// Runs with and without a limit share the places of a worker: a backlog of one
// kind does not keep a run of the other waiting.
func TestLimitShare(t *testing.T) {
	t.Parallel()
	limit := enqueue.Limit{Key: "k", Concurrency: 5, Per: time.Second}
	for name, of := range map[string][2]enqueue.Limit{"limited": {{}, limit}, "others": {limit, {}}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			f.claims().add(200, enqueue.Item{Limit: of[0]})
			run, err := chain.Enqueue(t.Context(), f.client, 0, workflow.EnqueueOptions{Limit: workflow.Limit{Key: of[1].Key, Concurrency: of[1].Concurrency}})
			if err != nil {
				t.Fatal(err)
			}
			f.start(worker.Config{MaxRuns: 1, Workflows: []*workflow.Definition{chainV1}})
			if _, err := outcome(t, f.client, run); err != nil {
				t.Fatal(err)
			}
			if n := f.count("SELECT count(*) FROM stepward.ready"); n < 100 {
				t.Errorf("%d of the others were left then", n)
			}
		})
	}
}
