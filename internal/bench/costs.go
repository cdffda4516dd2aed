package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stepward/stepward/internal/bench/measure"
	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

// A load is a fixed amount of work whose cost is counted. Its bars are per unit;
// zero is none.
type load struct {
	name, unit string
	units      int // of one repetition
	cfg        worker.Config
	do         func(ctx context.Context, a *app) error
	statements float64 // that the turns send, see counter
	commits    float64 // transactions that write
	rows       float64 // inserted, updated and deleted
	bytes      float64 // of WAL
}

var (
	fan   = workflow.DurableWorkflow[int, int]{Name: "fan"}
	fanV1 = workflow.Define(fan, func(ctx workflow.Context, n int) (int, error) {
		outs, err := workflow.Map(ctx, make([]int, n), increment, workflow.MapOptions{Limit: 100})
		return len(outs), err
	}, workflow.Options{Steps: []workflow.Declared{increment}})
	increment = workflow.NewStep("increment", func(_ context.Context, n int) (int, error) { return n + 1, nil }, workflow.StepOptions{})

	letter  = workflow.NewSignal[int]("letter")
	mailbox = workflow.DurableWorkflow[int, int]{Name: "mailbox"}
	boxV1   = workflow.Define(mailbox, func(ctx workflow.Context, n int) (sum int, err error) {
		for range n {
			v, err := letter.Receive(ctx, 0)
			if err != nil {
				return 0, err
			}
			sum += v
		}
		return sum, nil
	}, workflow.Options{})

	nap   = workflow.DurableWorkflow[time.Duration, int]{Name: "nap"}
	napV1 = workflow.Define(nap, func(ctx workflow.Context, d time.Duration) (int, error) {
		return 0, workflow.Sleep(ctx, d)
	}, workflow.Options{})

	loadWorkflows = []*workflow.Definition{chainV1, fanV1, boxV1, napV1}
)

// loads are what the cost of a run is held to.
var loads = []load{
	{
		name: "runs of 1 step, 100 at once, with enqueueing, tickets and records", unit: "run", units: 500, statements: 0.2, commits: 0.4, rows: 9.1, bytes: 1500,
		cfg: worker.Config{MaxRuns: 100},
		do:  func(ctx context.Context, a *app) error { return a.crowd(ctx, 1, 500) },
	},
	{
		name: "runs of 10 steps, 100 at once, with enqueueing, tickets and records", unit: "run", units: 200, statements: 0.7, commits: 1, rows: 18.2, bytes: 4200,
		cfg: worker.Config{MaxRuns: 100},
		do:  func(ctx context.Context, a *app) error { return a.crowd(ctx, 10, 200) },
	},
	{
		name: "turns alone of 100 runs of 10 steps at once", unit: "step", units: 2000, statements: 0.2, commits: 0.1, rows: 1.85,
		cfg: worker.Config{MaxRuns: 100},
		do: func(ctx context.Context, a *app) error {
			if err := a.add(ctx, 10, 200); err != nil {
				return err
			}
			return a.settled(ctx)
		},
	},
	{
		name: "a fan-out over 1,000 items, 100 at once", unit: "step", units: 1000, statements: 0.06, commits: 0.06, rows: 1.05, bytes: 260,
		do: func(ctx context.Context, a *app) error {
			run, err := fan.Enqueue(ctx, a.client, 1000, workflow.EnqueueOptions{})
			if err == nil {
				_, err = run.Result(ctx)
			}
			return err
		},
	},
	{
		name: "runs of 1 step, enqueued together", unit: "run", units: 500, statements: 0.2, commits: 0.2, rows: 9.1, bytes: 1500,
		do: func(ctx context.Context, a *app) error { return a.batch(ctx, 500, workflow.Limit{}) },
	},
	{ // a fifth more at most
		name: "the same with a limit of concurrency and rate that holds none back", unit: "run", units: 500, statements: 0.24, commits: 0.24, rows: 9.2, bytes: 1725,
		do: func(ctx context.Context, a *app) error { return a.batch(ctx, 500, wide) },
	},
	{
		name: "100 signals to one run", unit: "signal", units: 100, statements: 2.5, commits: 2.5, rows: 5.2, bytes: 1100,
		do: func(ctx context.Context, a *app) error {
			run, err := mailbox.Enqueue(ctx, a.client, 100, workflow.EnqueueOptions{})
			if err != nil {
				return err
			}
			for range 100 {
				if err := letter.Send(ctx, a.client, run.ID, 1); err != nil {
					return err
				}
			}
			_, err = run.Result(ctx)
			return err
		},
	},
	{
		name: "1,000 runs that begin to wait, 100 at once", unit: "run", units: 1000, statements: 1.3, commits: 1.3, rows: 10.1, bytes: 2000,
		cfg: worker.Config{MaxRuns: 100},
		do: func(ctx context.Context, a *app) error {
			from, err := a.waiting(ctx)
			if err != nil {
				return err
			}
			if err := measure.Parallel(ctx, 100, 1000, func(ctx context.Context) error {
				_, err := nap.Enqueue(ctx, a.client, time.Hour, workflow.EnqueueOptions{})
				return err
			}); err != nil {
				return err
			}
			return a.until(ctx, fmt.Sprintf("SELECT count(*) = %d FROM %s.timer", from+1000, a.schema))
		},
	},
}

// wide is a limit that holds nothing back.
var wide = workflow.Limit{Key: "wide", Concurrency: 10_000, Rate: 1_000_000}

// limitFactor is how many times as much a run with a limit may cost as one without.
const limitFactor = 1.2

// waiting counts the runs that are in no worker's memory.
func (a *app) waiting(ctx context.Context) (n int, err error) {
	err = a.pool.QueryRow(ctx, "SELECT count(*) FROM "+a.schema+".timer").Scan(&n)
	return n, err
}

// crowd enqueues n runs from 100 callers and waits for each result.
func (a *app) crowd(ctx context.Context, steps, n int) error {
	if err := measure.Parallel(ctx, 100, n, func(ctx context.Context) error { return a.execute(ctx, steps) }); err != nil {
		return err
	}
	return a.settled(ctx)
}

// batch enqueues runs of one step together and waits for them.
func (a *app) batch(ctx context.Context, n int, l workflow.Limit) error {
	for _, err := range chain.EnqueueMany(ctx, a.client, func(yield func(int, workflow.EnqueueOptions) bool) {
		for range n {
			if !yield(1, workflow.EnqueueOptions{Limit: l}) {
				return
			}
		}
	}) {
		if err != nil {
			return err
		}
	}
	return a.settled(ctx)
}

// counter counts the statements that a worker sends, by name. What it sends
// once a second or less often, whatever there is to do, is left out, and so is
// River's.
type counter struct {
	mu sync.Mutex
	n  map[string]int
}

var upkeep = []string{"NoticeTake", "TimerWake", "WorkerReap", "TurnReap", "TurnList", "WorkerForget", "Backlog", "SessionsAlive", "SandboxOrphans"}

// TraceQueryStart implements pgx.QueryTracer.
func (c *counter) TraceQueryStart(ctx context.Context, _ *pgx.Conn, q pgx.TraceQueryStartData) context.Context {
	name, ok := strings.CutPrefix(q.SQL, "/* stepward ")
	if name, _, _ = strings.Cut(name, " "); ok && !slices.Contains(upkeep, name) {
		c.mu.Lock()
		c.n[name]++
		c.mu.Unlock()
	}
	return ctx
}

// TraceQueryEnd implements pgx.QueryTracer.
func (c *counter) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// take returns what was counted since the last time.
func (c *counter) take() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.n
	c.n = make(map[string]int)
	return n
}

// A price is what one unit of a load costs.
type price struct {
	statements, commits, bytes, rows float64
	names                            map[string]int // of the statements of one repetition
}

// price repeats a load and returns what each repetition cost, without the first,
// which makes pages and plans. The rows are those of all repetitions, and the
// few of the worker's start.
func (b *bench) price(ctx context.Context, l load, times int) (prices []price, err error) {
	l.cfg.Workflows, l.cfg.LeaseTTL = loadWorkflows, time.Hour
	l.cfg.Logger = b.log
	a, err := b.newApp(ctx, l.cfg)
	if err != nil {
		return nil, err
	}
	defer a.close()
	if err := a.work(ctx); err != nil {
		return nil, err
	}
	a.counter.take()
	for i := range 1 + times {
		p, x, err := a.priceOnce(ctx, l)
		if err != nil {
			return nil, err
		}
		if b.wal && i == times {
			if err := b.walTable(ctx, a.schema, l.name, x, l.units); err != nil {
				return nil, err
			}
		}
		prices = append(prices, p)
	}
	rows, err := a.rows(ctx)
	for i := range prices {
		prices[i].rows = rows / float64((1+times)*l.units)
	}
	return prices[1:], err
}

// priceOnce does a load once; the rows are not counted.
func (a *app) priceOnce(ctx context.Context, l load) (price, measure.Cost, error) {
	from, err := a.c.Mark(ctx)
	if err != nil {
		return price{}, measure.Cost{}, err
	}
	if err := l.do(ctx, a); err != nil {
		return price{}, measure.Cost{}, fmt.Errorf("%s: %w", l.name, err)
	}
	to, err := a.c.Mark(ctx)
	if err != nil {
		return price{}, measure.Cost{}, err
	}
	x, names, total := from.To(to), a.counter.take(), 0
	for _, n := range names {
		total += n
	}
	n := float64(l.units)
	return price{float64(total) / n, x.Xacts / n, x.Bytes / n, 0, names}, x, nil
}

// priceLimits works off runs without and with a limit that holds none back, in turn on
// one worker, and returns what each costs at least.
func (b *bench) priceLimits(ctx context.Context, pairs int) (without, with price, err error) {
	a, err := b.newApp(ctx, worker.Config{Workflows: loadWorkflows, LeaseTTL: time.Hour, Logger: b.log})
	if err != nil {
		return price{}, price{}, err
	}
	defer a.close()
	if err := a.work(ctx); err != nil {
		return price{}, price{}, err
	}
	a.counter.take()
	var prices [2][]price
	for range 1 + pairs { // the first one makes pages and plans
		for i, l := range []workflow.Limit{{}, wide} {
			p, _, err := a.priceOnce(ctx, load{name: "runs of 1 step", units: 500, do: func(ctx context.Context, a *app) error { return a.batch(ctx, 500, l) }})
			if err != nil {
				return price{}, price{}, err
			}
			prices[i] = append(prices[i], p)
		}
	}
	return least(prices[0][1:]), least(prices[1][1:]), nil
}

// rows counts what was ever written to the application's tables. It ends the
// worker and closes the pools first, as a backend reports at its end.
func (a *app) rows(ctx context.Context) (n float64, err error) {
	for len(a.closers) > 1 { // the first one drops the schema
		last := len(a.closers) - 1
		a.closers[last]()
		a.closers = a.closers[:last]
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		var there int
		err := a.c.Pool.QueryRow(ctx, `SELECT (SELECT count(*) FROM pg_stat_activity WHERE application_name = $1),
			(SELECT coalesce(sum(n_tup_ins + n_tup_upd + n_tup_del), 0)::float8 FROM pg_stat_user_tables WHERE schemaname = $1)`, a.schema).Scan(&there, &n)
		if err != nil || there == 0 {
			return n, err
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-tick.C:
		}
	}
}

// least returns the cheapest of each kind.
func least(prices []price) price {
	p := prices[0]
	for _, x := range prices[1:] {
		if x.statements < p.statements {
			p.statements, p.names = x.statements, x.names
		}
		p.commits, p.bytes = min(p.commits, x.commits), min(p.bytes, x.bytes)
	}
	return p
}

// benchCosts counts fixed loads.
func benchCosts(ctx context.Context, b *bench) error {
	if err := b.cluster.Set(ctx, "autovacuum = off"); err != nil {
		return err
	}
	defer func() { _ = b.cluster.Set(context.WithoutCancel(ctx), "autovacuum = on") }()
	for _, l := range loads {
		prices, err := b.price(ctx, l, b.times(5))
		if err != nil {
			return err
		}
		p := least(prices)
		b.report.bar(fmt.Sprintf("%s: statements per %s", l.name, l.unit), p.statements, "", l.statements)
		b.report.bar(fmt.Sprintf("%s: write transactions per %s", l.name, l.unit), p.commits, "", l.commits)
		b.report.bar(fmt.Sprintf("%s: rows written per %s", l.name, l.unit), p.rows, "", l.rows)
		b.report.bar(fmt.Sprintf("%s: WAL per %s", l.name, l.unit), p.bytes, "B", l.bytes)
		b.report.note("%s: statements of a repetition: %v", l.name, p.names)
	}
	without, with, err := b.priceLimits(ctx, b.times(7))
	if err != nil {
		return err
	}
	b.report.bar("runs with a limit: statements, times as many", with.statements/without.statements, "", limitFactor)
	b.report.bar("runs with a limit: write transactions, times as many", with.commits/without.commits, "", limitFactor)
	b.report.bar("runs with a limit: WAL, times as much", with.bytes/without.bytes, "", limitFactor)
	return nil
}
