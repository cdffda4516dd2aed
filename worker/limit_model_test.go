//go:build unix

package worker_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

// crowd counts who is in a step at the same time, by limit.
type crowd struct {
	mu        sync.Mutex
	now, most map[string]int
}

func (c *crowd) enter(key string, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.now == nil {
		c.now, c.most = make(map[string]int), make(map[string]int)
	}
	c.now[key] += n
	c.most[key] = max(c.most[key], c.now[key])
}

// TestLimitModel enqueues runs with limits, some of which sleep, and cancels them,
// lets workers come, go and lose their leases. Never may more turns of a limit
// be on record than it allows, and never more be in their steps while no
// worker is taken for dead; in the end all slots are free.
func TestLimitModel(t *testing.T) {
	checks(t, 30)
	f := newFixture(t)
	rapid.Check(t, func(rt *rapid.T) {
		limit := rapid.IntRange(1, 3).Draw(rt, "limit")
		troubles := rapid.SliceOfN(rapid.SampledFrom([]string{"run", "run", "run", "sleeper", "cancel", "reap", "deploy"}), 1, 25).Draw(rt, "troubles")
		var in crowd
		busy := workflow.NewStep("busy", func(ctx context.Context, key string) (int, error) {
			in.enter(key, 1)
			defer in.enter(key, -1)
			_, err := f.pool.Exec(ctx, "SELECT") // a while
			return 0, err
		}, workflow.StepOptions{})
		w := workflow.DurableWorkflow[string, int]{Name: "limited"}
		def := workflow.Define(w, func(ctx workflow.Context, key string) (int, error) {
			if _, err := busy.Run(ctx, key); err != nil {
				return 0, err
			}
			if key == "sleeper" {
				if err := workflow.Sleep(ctx, 40*time.Millisecond); err != nil {
					return 0, err
				}
			}
			return busy.Run(ctx, key)
		}, workflow.Options{Steps: []workflow.Declared{busy}})
		stops := make(map[string]func())
		begin := func(name string) {
			stops[name] = f.start(worker.Config{Name: name, LeaseTTL: 2 * time.Second, DrainTimeout: time.Second, Workflows: []*workflow.Definition{def}})
		}
		begin("one")
		begin("two")
		defer func() {
			for _, stop := range stops {
				stop()
			}
		}()
		var runs []workflow.Run[int]
		reaped := false
		for i, trouble := range troubles {
			switch trouble {
			case "run", "sleeper":
				run, err := w.Enqueue(t.Context(), f.client, trouble, workflow.EnqueueOptions{
					Tenant: fmt.Sprint(i % 2), Limit: workflow.Limit{Key: trouble, Concurrency: limit, Rate: 1000},
				})
				if err != nil {
					rt.Fatal(err)
				}
				runs = append(runs, run)
			case "cancel":
				if len(runs) > 0 {
					if err := runs[len(runs)/2].Cancel(t.Context()); err != nil && !finished(err) {
						rt.Fatal(err)
					}
				}
			case "reap":
				reaped = true
				f.expire("one")
			case "deploy":
				stops["two"]()
				begin("two")
			}
			if n := f.count("SELECT coalesce(max(n), 0) FROM (SELECT count(*) AS n FROM stepward.turn WHERE limit_key IS NOT NULL GROUP BY limit_key) t"); n > limit {
				rt.Fatalf("%d turns hold a limit of %d", n, limit)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		for _, run := range runs {
			if _, err := run.Result(ctx); err != nil && !errors.Is(err, workflow.ErrCanceled) {
				s, serr := f.client.Get(t.Context(), run.ID)
				rt.Fatalf("%v: %+v, %v", err, s, serr)
			}
		}
		for _, table := range []string{"ready", "turn", "timer", "parked", "wait"} {
			eventually(t, "nothing is left in "+table, func() bool { return f.count("SELECT count(*) FROM stepward."+table) == 0 })
		}
		for key, most := range in.most {
			if most > limit && !reaped {
				rt.Fatalf("%d of %s were in a step at once, the limit is %d", most, key, limit)
			}
		}
	})
}
