package main

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/stepward/stepward/internal/bench/measure"
	"github.com/stepward/stepward/internal/devdb"
	"github.com/stepward/stepward/internal/testenv"
	"github.com/stepward/stepward/worker"
)

// countingBench has a server of the test's own, without what blurs counts.
func countingBench(t *testing.T) *bench {
	t.Helper()
	// Not DATABASE_URL: others may write there.
	server, err := measure.Open(t.Context(), false, []devdb.Way{devdb.WayLocal, devdb.WayDocker, devdb.WayEmbedded})
	var unavailable *devdb.UnavailableError
	if errors.As(err, &unavailable) {
		testenv.Skip(t, testenv.PartPostgres, err.Error())
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	if got := server.Settings["full_page_writes"]; got != "off" {
		t.Fatalf("full_page_writes is %s", got)
	}
	if err := server.Set(t.Context(), "autovacuum = off"); err != nil {
		t.Fatal(err)
	}
	return &bench{options: options{scale: 1, log: slog.New(slog.DiscardHandler)}, cluster: &cluster{Cluster: server}, report: &report{}}
}

// A run that is alone stays within its bars. These are counts, not times, on a
// server of the test's own. What the worker and River write for themselves only
// adds to them and comes every few seconds: the cheapest of several batches has
// the least of it.
func TestRunCosts(t *testing.T) {
	b := countingBench(t)
	for _, steps := range []int{1, 10} {
		t.Run(fmt.Sprint(steps), func(t *testing.T) {
			a, execute, err := b.newLoner(t.Context(), worker.Config{LeaseTTL: time.Hour}, steps)
			if err != nil {
				t.Fatal(err)
			}
			defer a.close()
			const batches, runs = 5, 10
			var commits, bytes []float64
			for range 1 + batches { // the first one makes pages and plans
				from, err := b.cluster.Mark(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if err := execute(runs); err != nil {
					t.Fatal(err)
				}
				to, err := b.cluster.Mark(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				x := from.To(to)
				commits, bytes = append(commits, x.Xacts/runs), append(bytes, x.Bytes/runs)
			}
			commits, bytes = commits[1:], bytes[1:]
			t.Logf("write transactions per run: %.2f", commits)
			t.Logf("bytes of WAL per run: %.0f", bytes)
			bar := stepBars[steps]
			if got := slices.Min(commits); got > bar.commits {
				t.Errorf("a run of %s takes %.2f write transactions, more than %v", plural(steps, "step"), got, bar.commits)
			}
			if got := slices.Min(bytes); got > bar.bytes {
				t.Errorf("a run of %s writes %.0f bytes of WAL, more than %v", plural(steps, "step"), got, bar.bytes)
			}
		})
	}
}

// Fixed loads cost no more than they did. The counts of statements and
// transactions depend on how much comes together, so their bounds are twice what
// was seen; what a row costs does not.
func TestLoadCosts(t *testing.T) {
	b := countingBench(t)
	for _, l := range loads {
		t.Run(l.name, func(t *testing.T) {
			prices, err := b.price(t.Context(), l, 3)
			if err != nil {
				t.Fatal(err)
			}
			p := least(prices)
			t.Logf("per %s: %.3f statements, %.3f write transactions, %.2f rows, %.0f bytes of WAL; statements %v", l.unit, p.statements, p.commits, p.rows, p.bytes, p.names)
			for _, x := range []struct {
				what     string
				got, bar float64
			}{{"statements", p.statements, l.statements}, {"write transactions", p.commits, l.commits}, {"rows", p.rows, l.rows}, {"bytes of WAL", p.bytes, l.bytes}} {
				if x.bar > 0 && x.got > x.bar {
					t.Errorf("%.3f %s per %s, more than %v", x.got, x.what, l.unit, x.bar)
				}
			}
		})
	}
}

// A limit that holds nothing back costs a run at most a fifth of what it costs
// anyway. How many statements there are depends on how many runs come together, so
// there is room for a few of a batch's: 0.03 per run.
func TestLimitCosts(t *testing.T) {
	b := countingBench(t)
	without, with, err := b.priceLimits(t.Context(), 5)
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		what                string
		with, without, room float64
	}{
		{"statements", with.statements, without.statements, 0.03},
		{"write transactions", with.commits, without.commits, 0.03},
		{"bytes of WAL", with.bytes, without.bytes, 0},
	} {
		t.Logf("%s per run: %.3f with a limit, %.3f without: %.2f times", x.what, x.with, x.without, x.with/x.without)
		if x.with > limitFactor*x.without+x.room {
			t.Errorf("a limit takes %.3f %s per run instead of %.3f", x.with, x.what, x.without)
		}
	}
}
