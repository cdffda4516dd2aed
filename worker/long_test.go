//go:build unix

package worker_test

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/stepward/stepward/internal/db"
	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

// A run of 100,000 steps changes hands when half of them are recorded, and ends.
func TestManySteps(t *testing.T) {
	const n = 100_000
	f := newFixture(t)
	half := make(chan struct{})
	reached := sync.OnceFunc(func() { close(half) })
	next := workflow.NewStep("next", func(_ context.Context, i int) (int, error) {
		if i == n/2 {
			reached()
		}
		return i + 1, nil
	}, workflow.StepOptions{})
	w := workflow.DurableWorkflow[int, int]{Name: "many"}
	def := workflow.Define(w, func(ctx workflow.Context, n int) (sum int, err error) {
		items := make([]int, n)
		for i := range items {
			items[i] = i
		}
		outs, err := workflow.Map(ctx, items, next, workflow.MapOptions{Limit: 500})
		for _, v := range outs {
			sum += v
		}
		return sum, err
	}, workflow.Options{Steps: []workflow.Declared{next}})
	stop := f.start(worker.Config{Name: "one", DrainTimeout: time.Millisecond, Workflows: []*workflow.Definition{def}})
	run, err := w.Enqueue(t.Context(), f.client, n, workflow.EnqueueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	arrives(t, half)
	stop()
	f.start(worker.Config{Name: "two", Workflows: []*workflow.Definition{def}})
	if sum, err := outcomeIn(t, 5*patience, f.client, run); err != nil || sum != n*(n+1)/2 {
		t.Fatalf("got %d, %v", sum, err)
	}
	if recorded := f.count("SELECT count(*) FROM stepward.step"); recorded != n {
		t.Errorf("%d checkpoints", recorded)
	}
}

// A history is read in pages, and what a body took of it is not kept: a replay of
// 32 MiB of outputs, and the turn that wrote them, hold little more at any time than
// what the body does, which is nothing.
func TestHistoryIsNotKept(t *testing.T) {
	const batches, each, size = 20, 100, 16 << 10
	f := newFixture(t)
	heap := func() uint64 {
		runtime.GC()
		runtime.GC() // pools
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	most := make(chan uint64, 2)
	fill := workflow.NewStep("fill", func(context.Context, int) (string, error) { return strings.Repeat("x", size), nil }, workflow.StepOptions{})
	end := workflow.NewSignal[int]("end")
	w := workflow.DurableWorkflow[int, int]{Name: "not-kept"}
	def := workflow.Define(w, func(ctx workflow.Context, n int) (bytes int, err error) {
		held := heap()
		for range n {
			outs, err := workflow.Map(ctx, make([]int, each), fill, workflow.MapOptions{Limit: each})
			if err != nil {
				return 0, err
			}
			for _, out := range outs {
				bytes += len(out)
			}
			held = max(held, heap())
		}
		most <- held
		_, err = end.Receive(ctx, 0)
		return bytes, err
	}, workflow.Options{Steps: []workflow.Declared{fill}})
	cfg := worker.Config{DrainTimeout: time.Millisecond, Workflows: []*workflow.Definition{def}}.WithHistory(4 << 20)
	stop := f.start(cfg)
	before := heap()
	run, err := w.Enqueue(t.Context(), f.client, batches, workflow.EnqueueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	first := arrives(t, most)
	stop()
	if err := end.Send(t.Context(), f.client, run.ID, 1); err != nil {
		t.Fatal(err)
	}
	f.start(cfg)
	replayed := arrives(t, most)
	ends(t, f.client, run, batches*each*size)
	for name, now := range map[string]uint64{"executed": first, "replayed": replayed} {
		if now > before+batches*each*size/2 {
			t.Errorf("%s: the heap has grown from %d to %d KiB", name, before>>10, now>>10)
		}
	}
}

// What a turn has not read of its history when its run is taken from it, it does
// not read any more: the results are another turn's, perhaps.
func TestHistoryIsFenced(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	var turns atomic.Int32
	var saw atomic.Bool
	began, taken, left := make(chan struct{}), make(chan struct{}), make(chan struct{})
	body := func(ctx workflow.Context, n int) (int, error) {
		if turns.Add(1) == 2 {
			defer close(left)
			close(began)
			<-taken
		}
		n, err := double.Run(ctx, n)
		if turns.Load() == 2 {
			saw.Store(true)
		}
		if err != nil {
			return 0, err
		}
		_, err = note.Receive(ctx, 0)
		return n, err
	}
	cfg := worker.Config{DrainTimeout: time.Millisecond, Workflows: []*workflow.Definition{defines(body, double)}}.WithHistory(1)
	stop := f.start(cfg)
	run := f.enqueue(21)
	eventually(t, "the run waits", func() bool { return f.count("SELECT count(*) FROM stepward.wait") == 1 })
	stop()
	saw.Store(false)
	stop = f.start(cfg)
	if err := note.Send(t.Context(), f.client, run.ID, "x"); err != nil {
		t.Fatal(err)
	}
	arrives(t, began)
	f.exec("UPDATE stepward.step SET output = '99'")
	f.exec("UPDATE stepward.run SET epoch = epoch + 1")
	close(taken)
	arrives(t, left)
	if saw.Load() {
		t.Error("the body got the result of another turn")
	}
	stop()
	q, err := db.New(f.schema)
	if err != nil {
		t.Fatal(err)
	}
	results := "SELECT count(*) FROM (" + strings.TrimSuffix(strings.TrimSpace(q.StepResults), ";") + ") x"
	args := func(back int) []any {
		var epoch int
		var session int64
		if err := f.pool.QueryRow(t.Context(), f.sql("SELECT epoch, session FROM stepward.run")).Scan(&epoch, &session); err != nil {
			t.Fatal(err)
		}
		return []any{run.ID, epoch - back, session, []int{1}}
	}
	f.exec("UPDATE stepward.run SET session = coalesce(session, 1)")
	if n, old := f.count(results, args(0)...), f.count(results, args(1)...); n != 1 || old != 0 {
		t.Errorf("%d results of the turn that holds the run, %d of the one before", n, old)
	}
}

// taking takes a run from the turn that reads a second page of its history.
type taking struct {
	take        func() error
	pages, held atomic.Int32
	err         atomic.Value
}

func (x *taking) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	switch {
	case strings.HasPrefix(data.SQL, "/* stepward TurnHeld */"):
		x.held.Add(1)
	case strings.HasPrefix(data.SQL, "/* stepward StepHistory */") && x.pages.Add(1) == 2:
		if err := x.take(); err != nil {
			x.err.Store(err)
		}
	}
	return ctx
}

func (*taking) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// Nor does it execute the body with pages of its history that are of different turns.
func TestPagesAreFenced(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	x := &taking{take: func() error {
		_, err := f.pool.Exec(t.Context(), f.sql("UPDATE stepward.run SET epoch = epoch + 1"))
		return err
	}}
	var mixed atomic.Bool
	steps := passes(double, keep)
	body := func(ctx workflow.Context, n int) (int, error) {
		if n := x.pages.Load(); n > 0 && n <= 3 { // a later turn has read more
			mixed.Store(true)
		}
		if n, err := steps(ctx, n); err != nil {
			return n, err
		}
		_, err := note.Receive(ctx, 0)
		return n, err
	}
	cfg := worker.Config{DrainTimeout: time.Millisecond, Workflows: []*workflow.Definition{defines(body, double, keep)}}.WithPage(1)
	stop := f.start(cfg)
	run := f.enqueue(21)
	eventually(t, "the run waits", func() bool { return f.count("SELECT count(*) FROM stepward.wait") == 1 })
	stop()
	pool := f.pool.Config()
	pool.ConnConfig.Tracer = x
	var err error
	if cfg.Pool, err = pgxpool.NewWithConfig(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cfg.Pool.Close)
	stop = f.start(cfg)
	if err := note.Send(t.Context(), f.client, run.ID, "x"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the turn looks whether it has the run", func() bool { return x.held.Load() > 0 })
	stop()
	if mixed.Load() {
		t.Error("the body was executed")
	}
	if err := x.err.Load(); err != nil {
		t.Error(err)
	}
}

// 10,000 signals that nobody awaited yet are received in their order.
func TestManySignals(t *testing.T) {
	t.Parallel()
	const n = 10_000
	f := newFixture(t)
	number := workflow.NewSignal[int]("number")
	w := workflow.DurableWorkflow[int, int]{Name: "many-signals"}
	def := workflow.Define(w, func(ctx workflow.Context, n int) (wrong int, err error) {
		for i := range n {
			got, err := number.Receive(ctx, 0)
			if err != nil {
				return 0, err
			}
			if got != i {
				wrong++
			}
		}
		return wrong, nil
	}, workflow.Options{})
	run, err := w.Enqueue(t.Context(), f.client, n, workflow.EnqueueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	tx := f.begin()
	for i := range n {
		if err := number.SendTx(t.Context(), f.client, tx, run.ID, i); err != nil {
			t.Fatal(err)
		}
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.start(worker.Config{Workflows: []*workflow.Definition{def}})
	left := func() int { return f.count("SELECT count(*) FROM stepward.signal WHERE NOT received") }
	for to := n * 4 / 5; to > 0; to -= n / 5 { // 20,000 round trips have to wait for a processor
		eventually(t, fmt.Sprintf("%d signals are left", to), func() bool { return left() <= to })
	}
	ends(t, f.client, run, 0)
	if n := left(); n != 0 {
		t.Errorf("%d signals are left", n)
	}
}

// Runs that wait are in no worker's memory: a worker that has put many of them
// away holds none, and as little as before.
func TestManyWaiting(t *testing.T) {
	const n = 4_000
	f := newFixture(t)
	w := workflow.DurableWorkflow[int, int]{Name: "many-waiting"}
	def := workflow.Define(w, func(ctx workflow.Context, n int) (int, error) {
		return n, workflow.Sleep(ctx, 24*time.Hour)
	}, workflow.Options{})
	var health worker.Health
	f.start(worker.Config{Health: &health, MaxRuns: 200, Workflows: []*workflow.Definition{def}})
	enqueue := func(n int) {
		t.Helper()
		tx := f.begin()
		for i := range n {
			if _, err := w.EnqueueTx(t.Context(), f.client, tx, i, workflow.EnqueueOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		if err := tx.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	waiting := func(n int) func() bool {
		return func() bool {
			r, ok := health.Report()
			return ok && r.Runs == 0 && f.count("SELECT count(*) FROM stepward.timer") == n
		}
	}
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	enqueue(500)
	eventually(t, "some runs wait", waiting(500))
	before := heap()
	enqueue(n)
	eventually(t, "all runs wait", waiting(n+500))
	// A goroutine alone would take 2 KiB. What is on its way, and pools, go with a collection or two.
	eventually(t, "as little memory is kept as before", func() bool { return heap() <= before+n*100 })
}

// A look that leaves some behind of those that sleep says so, also beside parked runs that are tried again.
func TestManyAreDue(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.exec(`INSERT INTO stepward.run (id, tenant, workflow, input, version, requirement_id)
		SELECT n, '', 'many-due', '0', '1', 1 FROM generate_series(1, 503) n`)
	f.exec("INSERT INTO stepward.timer SELECT id, clock_timestamp() FROM stepward.run WHERE id > 2")
	f.exec("INSERT INTO stepward.parked (run_id, requirement_id, reason, detail, retry_at) SELECT id, 1, 'image', '', clock_timestamp() FROM stepward.run WHERE id <= 2")
	q, err := db.New(f.schema)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []int{500, 1, 0} {
		var n int
		var overdue bool
		if err := f.pool.QueryRow(t.Context(), q.TimerWake, "worker").Scan(&n, new(*float64), new(*float64), &overdue); err != nil || n != want {
			t.Errorf("%d, not %d: %v", n, want, err)
		}
	}
}

// What every worker asks once a second does not read what is not due: it takes no
// more pages beside many runs that sleep and have deadlines.
func TestLooksReadLittle(t *testing.T) {
	t.Parallel()
	const n = 20_000
	f := newFixture(t)
	f.exec(`INSERT INTO stepward.run (id, tenant, workflow, input, version, requirement_id)
		SELECT n, '', 'many-waiting', '0', '1', 1 FROM generate_series(1, $1) n`, n)
	f.exec("INSERT INTO stepward.timer SELECT id, CASE WHEN id % 2 = 0 THEN clock_timestamp() + id * interval '1 minute' END FROM stepward.run")
	f.exec("INSERT INTO stepward.deadline SELECT id, clock_timestamp() + id * interval '1 minute' FROM stepward.run")
	f.exec("INSERT INTO stepward.parked (run_id, requirement_id, reason, detail, retry_at) SELECT id, 1, 'image', '', clock_timestamp() + id * interval '1 minute' FROM stepward.run")
	f.exec("ANALYZE stepward.run, stepward.timer, stepward.parked, stepward.deadline")
	q, err := db.New(f.schema)
	if err != nil {
		t.Fatal(err)
	}
	given := map[string][]any{"TimerWake": {"worker"}}
	for name, statement := range map[string]string{"TimerWake": q.TimerWake, "DeadlineTake": q.DeadlineTake} {
		var plans []struct {
			Plan struct {
				Hit  int `json:"Shared Hit Blocks"`
				Read int `json:"Shared Read Blocks"`
			}
		}
		if err := f.pool.QueryRow(t.Context(), "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) "+statement, given[name]...).Scan(&plans); err != nil {
			t.Fatal(err)
		}
		if pages := plans[0].Plan.Hit + plans[0].Plan.Read; pages > 100 {
			t.Errorf("%s reads %d pages", name, pages)
		}
	}
}
