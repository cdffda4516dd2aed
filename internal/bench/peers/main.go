// Command peers measures Stepward beside other ways to run durable work in Go on
// Postgres, in one program on one server, in turns (A B C A B C), so that whatever
// else the machine does is alike for all.
//
//	cd internal/bench/peers && go run .            # everything, as Markdown
//	cd internal/bench/peers && go run . -h         # what is measured, and how each system is used
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/stepward/stepward/internal/bench/measure"
)

const help = `Usage: go run . [flags]

Every system has its client and its worker in this process, a database of its own in
one throw-away Postgres, and one pool of 20 connections for both. Values are integers,
and a step adds one. What the documents of a system call its production use is what is
done here, with its own intervals of polling; only the limit of what is done at once is
set, to 100, where there is one.

Systems:
%s
What -run names:
  times
    	runs per second and the time from before enqueue to the result. Each load lasts
    	3 s, or until a number of runs is done; all systems have their turn, each with a
    	worker just started and warmed up, before the next load. Callers wait for the result as the system's client
    	does it, polling included. A backlog is timed to its last step, which no
    	client has to hear of. The ratio to Stepward is the median of those of the
    	rounds. fsync and full_page_writes are on.
  counts
    	what a run costs Postgres: statements sent (without BEGIN and COMMIT), transactions
    	committed, those of them that wrote, and bytes of WAL, with full_page_writes off, and
    	on (the first run on each page after a checkpoint pays for the page, so that depends
    	on how many runs come between two checkpoints). Enqueue and waiting for the result
    	included. An idle worker's share is subtracted, and listed for itself. Autovacuum
    	is off.
  parked
    	1,000 runs, each with one step, that wait for a signal: live heap and stacks of this
    	process per run, after 15 s, and how fast all are signalled until the last result.

A Postgres is started for it, unless DATABASE_URL names one: nobody else may use that
meanwhile, and databases peers_* come and go there.

Flags:
`

// bench is what the parts share.
type bench struct {
	cluster   *measure.Cluster
	databases map[string]*database
	systems   []system
	rounds    int
	idle      time.Duration // for which an idle worker is looked at, at least
	scale     float64
	log       *slog.Logger
	report    *report
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "peers:", err)
		os.Exit(1)
	}
}

func run() error {
	var names []string
	var text strings.Builder
	for _, s := range systems {
		names = append(names, s.name)
		fmt.Fprintf(&text, "  %s (%s)%s\n", s.name, s.module, strings.ReplaceAll(s.how, "\n", "\n    \t"))
	}
	which := flag.String("run", "times,counts,parked", "parts to run")
	chosen := flag.String("systems", strings.Join(names, ","), "systems to compare; the ratios are to the first")
	rounds := flag.Int("rounds", 3, "rounds of times")
	scale := flag.Float64("scale", 1, "factor of all durations and numbers")
	fsync := flag.Bool("fsync", true, "fsync of the throw-away Postgres; off shows what is not the disk")
	verbose := flag.Bool("v", false, "log what the systems log")
	flag.Usage = func() {
		fmt.Fprintf(os.Stderr, help, text.String())
		flag.PrintDefaults()
	}
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second interrupt ends the program at once
	b := &bench{rounds: *rounds, idle: 5 * time.Second, scale: *scale, log: slog.New(slog.DiscardHandler)}
	if *verbose {
		b.log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	for _, name := range strings.Split(*chosen, ",") {
		i := slices.Index(names, name)
		if i < 0 {
			return fmt.Errorf("-systems: no system %q: want some of %s", name, strings.Join(names, ","))
		}
		b.systems = append(b.systems, systems[i])
	}
	parts := strings.Split(*which, ",")
	for _, p := range parts {
		if !slices.Contains([]string{"times", "counts", "parked"}, p) {
			return fmt.Errorf("-run: no part %q: want some of times,counts,parked", p)
		}
	}
	b.report = newReport(b.systems, strings.Join(append([]string{"go run ."}, os.Args[1:]...), " "))
	err := errors.Join(b.on(ctx, *fsync, "on", parts), b.on(ctx, *fsync, "off", parts))
	return errors.Join(err, b.report.write(os.Stdout))
}

// on measures what is measured with full page writes so.
func (b *bench) on(ctx context.Context, fsync bool, fullPages string, parts []string) (err error) {
	if fullPages == "off" && !slices.Contains(parts, "counts") {
		return nil
	}
	measure.Progress("starting Postgres, full_page_writes=%s", fullPages)
	if b.cluster, err = measure.Open(ctx, fsync, nil, "full_page_writes="+fullPages); err != nil {
		return err
	}
	defer b.cluster.Close()
	defer b.dropDatabases(ctx)
	if got := b.cluster.Settings["full_page_writes"]; got != fullPages {
		b.report.note("full_page_writes stayed %s", got)
		fullPages = got
	}
	b.report.source(b.cluster)
	if err := b.makeDatabases(ctx); err != nil {
		return err
	}
	if slices.Contains(parts, "times") && fullPages == "on" {
		if err := b.times(ctx); err != nil {
			return fmt.Errorf("times: %w", err)
		}
	}
	if slices.Contains(parts, "parked") && fullPages == "on" {
		if err := b.parked(ctx, settle); err != nil {
			return fmt.Errorf("parked: %w", err)
		}
	}
	if slices.Contains(parts, "counts") {
		if err := b.counts(ctx, fullPages); err != nil {
			return fmt.Errorf("counts: %w", err)
		}
	}
	return nil
}

func (b *bench) dropDatabases(ctx context.Context) {
	for _, d := range b.databases {
		if _, err := b.cluster.Pool.Exec(context.WithoutCancel(ctx), "DROP DATABASE "+d.name+" WITH (FORCE)"); err != nil {
			measure.Progress("%v", err)
		}
	}
}

func (b *bench) makeDatabases(ctx context.Context) error {
	b.databases = make(map[string]*database)
	for _, s := range b.systems {
		d, err := newDatabase(ctx, b.cluster, s.name, b.log)
		if err != nil {
			return err
		}
		b.databases[s.name] = d
	}
	return nil
}

// warm opens all connections and makes plans.
func warm(ctx context.Context, p peer) error {
	return measure.Parallel(ctx, conns, 2*conns, func(ctx context.Context) error { return execute(ctx, p, chain, 1) })
}

func (b *bench) times(ctx context.Context) error {
	for round := range b.rounds {
		for _, l := range loads {
			for _, s := range b.systems {
				if !slices.Contains(s.shapes, l.shape) {
					continue
				}
				err := b.session(ctx, s, func(ctx context.Context, p peer) error {
					if err := warm(ctx, p); err != nil {
						return err
					}
					t, err := l.time(ctx, p, b.scale)
					measure.Progress("round %d: %s: %s: %s/s, p50 %s ms", round+1, l.name, s.name, measure.Number(t.rate), measure.Number(t.p50))
					b.report.timing(l, s, t)
					return err
				})
				if err != nil {
					return fmt.Errorf("%s: %s: %w", s.name, l.name, err)
				}
			}
		}
	}
	return nil
}

func (b *bench) parked(ctx context.Context, settle time.Duration) error {
	n := max(int(b.scale*1000), 20)
	for _, s := range b.systems {
		if !slices.Contains(s.shapes, letter) {
			continue
		}
		err := b.session(ctx, s, func(ctx context.Context, p peer) error {
			if _, err := park(ctx, p, n/10+1, 0); err != nil { // connections and prepared statements are no run's
				return err
			}
			x, err := park(ctx, p, n, settle)
			measure.Progress("parked: %s: %s B, %s goroutines per run, woken %s/s", s.name, measure.Number(x.bytes), measure.Number(x.goroutines), measure.Number(x.woken))
			b.report.parking(s, x)
			return err
		})
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return nil
}

// A bulk is what is counted.
type bulk struct{ steps, callers, n int }

var bulks = []bulk{{1, 1, 20}, {10, 1, 6}, {1, 100, 1000}, {10, 100, 300}}

func (b *bench) counts(ctx context.Context, fullPages string) error {
	if err := b.cluster.Set(ctx, "autovacuum = off"); err != nil {
		return err
	}
	for _, s := range b.systems { // tables and pages are there before anything is counted
		if err := b.session(ctx, s, warm); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	for _, k := range bulks {
		if fullPages == "on" && k.callers == 1 { // so few runs say nothing about pages
			continue
		}
		for _, s := range b.systems {
			run, idle, err := b.count(ctx, s, k.steps, k.callers, max(int(b.scale*float64(k.n)), 5))
			if err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
			measure.Progress("counts: %s: %d steps, %d callers: %s statements, %s commits, %s writes, %s B", s.name, k.steps, k.callers,
				measure.Number(run.statements), measure.Number(run.commits), measure.Number(run.writes), measure.Number(run.bytes))
			b.report.bill(k, s, fullPages, run, idle)
		}
	}
	return nil
}
