//go:build unix

package worker_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"

	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

// A part of a random workflow. Its value is a number that the model knows.
type part struct {
	Op    string
	N     int
	Parts []part
}

var (
	random = workflow.DurableWorkflow[part, int]{Name: "random"}
	child  = workflow.DurableWorkflow[part, int]{Name: "random-child"}
	coin   = workflow.NewSignal[int]("coin")

	plus = workflow.NewStep("plus", func(_ context.Context, n int) (int, error) { return n + 1, nil }, workflow.StepOptions{})
	odd  = workflow.NewStep("odd", func(ctx context.Context, n int) (int, error) {
		if info, _ := workflow.StepInfoFrom(ctx); info.Attempt <= n%3 {
			return 0, fmt.Errorf("attempt %d fails", info.Attempt)
		}
		return n, nil
	}, workflow.StepOptions{Retry: workflow.Retry{MaxAttempts: 100, Backoff: time.Millisecond}})
	never = workflow.NewStep("never", func(context.Context, int) (int, error) {
		return 0, workflow.Permanent(errors.New("never"))
	}, workflow.StepOptions{})

	randomSteps = []workflow.Declared{plus, odd, never}
	randomV1    = workflow.Define(random, interpret, workflow.Options{Steps: randomSteps})
	childV1     = workflow.Define(child, interpret, workflow.Options{Steps: randomSteps})
)

// interpret executes a part.
func interpret(ctx workflow.Context, p part) (int, error) {
	switch p.Op {
	case "plus":
		return plus.Run(ctx, p.N)
	case "odd":
		return odd.Run(ctx, p.N)
	case "never": // its failure is worth 7
		if _, err := never.Run(ctx, p.N); err == nil || errors.Is(err, workflow.ErrCanceled) {
			return 0, fmt.Errorf("never returned %w", err)
		}
		return 7, nil
	case "tell":
		return 0, lines.Append(ctx, fmt.Sprint(p.N))
	case "nap":
		return 0, workflow.Sleep(ctx, time.Duration(p.N)*time.Millisecond)
	case "coin":
		return coin.Receive(ctx, 0)
	case "map":
		outs, err := workflow.Map(ctx, make([]int, p.N), plus, workflow.MapOptions{Limit: 3})
		return sum(outs), err
	case "each":
		outs, err := workflow.MapFunc(ctx, "each", p.Parts, interpret, workflow.MapOptions{Limit: 2})
		return sum(outs), err
	case "ready":
		total := 0
		for _, f := range workflow.Ready(ctx, branches(ctx, p.Parts)...) {
			v, err := f.Get(ctx)
			if err != nil {
				return 0, err
			}
			total += v
		}
		return total, nil
	case "late": // a branch that is given up when a nap is over
		short, cancel := workflow.WithTimeout(ctx, time.Duration(p.N)*time.Millisecond)
		defer cancel()
		_, err := coin2.Receive(short, 0)
		if !errors.Is(err, workflow.ErrTimeout) {
			return 0, fmt.Errorf("a coin that nobody sends: %w", err)
		}
		return 0, nil
	case "child":
		return child.Run(ctx, p.Parts[0])
	}
	total := 0 // seq
	for _, q := range p.Parts {
		v, err := interpret(ctx, q)
		if err != nil {
			return 0, err
		}
		total += v
	}
	return total, nil
}

var coin2 = workflow.NewSignal[int]("never-sent")

func branches(ctx workflow.Context, parts []part) []*workflow.Future[int] {
	var fs []*workflow.Future[int]
	for _, q := range parts {
		fs = append(fs, workflow.Go(ctx, "branch", func(ctx workflow.Context) (int, error) { return interpret(ctx, q) }))
	}
	return fs
}

// model returns the value of a part, and how many coins it takes.
func (p part) model() (value, coins int) {
	switch p.Op {
	case "plus":
		return p.N + 1, 0
	case "odd":
		return p.N, 0
	case "never":
		return 7, 0
	case "coin":
		return 1, 1
	case "map":
		return p.N, 0
	}
	for _, q := range p.Parts {
		v, c := q.model()
		value, coins = value+v, coins+c
	}
	return value, coins
}

// tells returns what a part appends, branches and children included.
func (p part) tells() (values []string) {
	if p.Op == "tell" {
		values = append(values, fmt.Sprint(p.N))
	}
	for _, q := range p.Parts {
		values = append(values, q.tells()...)
	}
	return values
}

// parts generates random workflows.
func parts(depth int, inChild bool) *rapid.Generator[part] {
	return rapid.Custom(func(t *rapid.T) part {
		ops := []string{"plus", "odd", "never", "nap", "late", "map", "tell"}
		if !inChild {
			ops = append(ops, "coin")
		}
		if depth > 0 {
			ops = append(ops, "seq", "seq", "each", "ready", "child")
		}
		p := part{Op: rapid.SampledFrom(ops).Draw(t, "op"), N: rapid.IntRange(0, 9).Draw(t, "n")}
		switch p.Op {
		case "seq", "each", "ready":
			p.Parts = rapid.SliceOfN(parts(depth-1, inChild), 0, 4).Draw(t, "parts")
		case "child":
			p.Parts = []part{parts(depth-1, true).Draw(t, "part")}
		}
		return p
	})
}

// TestModel runs random workflows on two workers while their leases are taken
// away, tickets get lost and doubled, workers come and go, and signals arrive.
// What comes out must be what the model says, and no row may be left behind.
// Longer: go test ./worker -run TestModel -rapid.checks=1000.
func TestModel(t *testing.T) {
	f := newFixture(t)
	rapid.Check(t, func(rt *rapid.T) {
		p := part{Op: "seq", Parts: rapid.SliceOfN(parts(3, false), 1, 5).Draw(rt, "parts")}
		troubles := rapid.SliceOfN(rapid.SampledFrom([]string{"none", "reap", "deploy", "lose", "double", "coin"}), 0, 12).Draw(rt, "troubles")
		want, coins := p.model()
		fleet := &fleet{fixture: f}
		defer fleet.stop()
		fleet.begin("one")
		fleet.begin("two")
		run, err := random.Enqueue(t.Context(), f.client, p, workflow.EnqueueOptions{})
		if err != nil {
			rt.Fatal(err)
		}
		toss := func() {
			if coins == 0 {
				return
			}
			coins--
			if err := coin.Send(t.Context(), f.client, run.ID, 1); err != nil && !errors.Is(err, workflow.ErrFinished) {
				rt.Fatal(err)
			}
		}
		reaps := 0
		for _, trouble := range troubles {
			f.moves(run.ID)
			switch trouble {
			case "reap":
				if reaps++; reaps > 3 { // five losses without a step between park a run
					continue
				}
				f.exec("UPDATE stepward.worker SET lease_until = clock_timestamp() - interval '1 minute' WHERE name = 'one'")
			case "deploy":
				fleet.end("two")
				fleet.begin("two")
			case "lose":
				f.exec("DELETE FROM stepward_river.river_job WHERE state = 'available'")
			case "double":
				f.exec(`INSERT INTO stepward_river.river_job (args, kind, queue, max_attempts, state)
					SELECT '{"count": 1}', 'stepward_ticket', 'stepward', 1, 'available' FROM generate_series(1, 3)`)
			case "coin":
				toss()
			}
		}
		for coins > 0 {
			toss()
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		out, err := run.Result(ctx)
		if err != nil || out != want {
			s, serr := f.client.Get(t.Context(), run.ID)
			rt.Fatalf("got %d, %v; want %d; status %+v, %v", out, err, want, s, serr)
		}
		if err := f.client.Replay(ctx, run.ID, randomV1); err != nil {
			rt.Errorf("what is on record does not fit: %v", err)
		}
		told := p.tells()
		rows, err := f.pool.Query(t.Context(), f.sql("SELECT convert_from(payload, 'UTF8') FROM stepward.entry"))
		if err != nil {
			rt.Fatal(err)
		}
		got, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			rt.Fatal(err)
		}
		for i, s := range got {
			got[i] = strings.Trim(s, `"`)
		}
		slices.Sort(told)
		slices.Sort(got)
		if !slices.Equal(got, told) {
			rt.Fatalf("appended %q, not %q", got, told)
		}
		f.exec("DELETE FROM stepward.entry")
		// Forked at any place, it comes to the same.
		steps, err := f.client.Steps(ctx, run.ID, 0)
		if err != nil {
			rt.Fatal(err)
		}
		if len(steps) > 0 {
			from := steps[rapid.IntRange(0, len(steps)-1).Draw(rt, "fork")].Step
			fork, err := f.client.Fork(ctx, run.ID, workflow.ForkOptions{From: from, Signals: true})
			if err != nil {
				rt.Fatal(err)
			}
			if out, err := random.Handle(f.client, fork).Result(ctx); err != nil || out != want {
				s, serr := f.client.Get(t.Context(), fork)
				rt.Fatalf("forked from %s: got %d, %v; want %d; status %+v, %v", from, out, err, want, s, serr)
			}
			if err := f.client.Replay(ctx, fork, randomV1); err != nil {
				rt.Errorf("what is on record of the fork from %s does not fit: %v", from, err)
			}
		}
		f.exec("DELETE FROM stepward.entry")
		for _, table := range []string{"ready", "turn", "timer", "parked", "wait", "notice"} {
			eventually(t, "nothing is left in "+table, func() bool { return f.count("SELECT count(*) FROM stepward."+table) == 0 })
		}
		if n := f.count("SELECT count(*) FROM stepward.run WHERE state <> 'completed'"); n != 0 {
			rt.Fatalf("%d runs did not complete", n)
		}
		if n := f.count("SELECT count(*) FROM (SELECT FROM stepward.step GROUP BY run_id, done HAVING count(*) > 1) d"); n != 0 {
			rt.Fatalf("%d results have one place", n)
		}
	})
}

// moves waits until a run has got on, or needs somebody.
func (f *fixture) moves(id workflow.RunID) {
	f.t.Helper()
	was := f.count("SELECT count(*) FROM stepward.step") + f.count("SELECT count(*) FROM stepward.claim")
	eventually(f.t, "the run moves", func() bool {
		s := f.state(id)
		return s.State == workflow.StateCompleted || s.State == workflow.StateWaiting ||
			f.count("SELECT count(*) FROM stepward.wait WHERE signal = 'coin'") > 0 ||
			f.count("SELECT count(*) FROM stepward.step")+f.count("SELECT count(*) FROM stepward.claim") > was
	})
}

// fleet is a set of workers by name.
type fleet struct {
	*fixture
	mu    sync.Mutex
	stops map[string]func()
}

func (f *fleet) begin(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stops == nil {
		f.stops = make(map[string]func())
	}
	f.stops[name] = f.start(worker.Config{Name: name, LeaseTTL: 5 * time.Second, DrainTimeout: time.Millisecond,
		Workflows: []*workflow.Definition{randomV1, childV1}})
}

func (f *fleet) end(name string) {
	f.mu.Lock()
	stop := f.stops[name]
	delete(f.stops, name)
	f.mu.Unlock()
	stop()
}

func (f *fleet) stop() {
	for name := range f.stops {
		f.end(name)
	}
}
