// Command bench measures what a run costs: transactions and WAL bytes, which are
// counts and the same on every machine, and times, which are not.
//
//	go run ./internal/bench                      # everything, as Markdown
//	go run ./internal/bench -run steps,sandbox -json
//
// It starts a Postgres of its own unless DATABASE_URL names one. The counts of a
// server that others use at the same time are worthless.
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

	"github.com/stepward/stepward/worker/bootstrap"
)

// A suite is one of the sub-benchmarks.
type suite struct {
	name string
	run  func(ctx context.Context, b *bench) error
}

var suites = []suite{
	{"steps", benchSteps},
	{"latency", benchLatency},
	{"enqueue", benchEnqueue},
	{"recovery", benchRecovery},
	{"sandbox", benchSandbox},
}

// bench is what the suites share.
type bench struct {
	options
	cluster *cluster
	report  *report
}

type options struct {
	scale float64 // how often things are repeated, 1 is the usual
	wal   bool
	log   *slog.Logger
}

// times scales a number of repetitions.
func (o options) times(n int) int { return max(int(float64(n)*o.scale), 1) }

func main() {
	bootstrap.Init(guestV1)
	hello()
	if os.Getenv(envChild) != "" {
		exit(child())
	}
	exit(run())
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func run() (err error) {
	names := make([]string, len(suites))
	for i, s := range suites {
		names[i] = s.name
	}
	which := flag.String("run", strings.Join(names, ","), "sub-benchmarks to run")
	asJSON := flag.Bool("json", false, "print JSON instead of Markdown")
	fsync := flag.Bool("fsync", true, "fsync of the throw-away Postgres; off shows what is not the disk")
	scale := flag.Float64("scale", 1, "factor of all repetitions")
	wal := flag.Bool("wal", false, "break the WAL of steps down by table and record (needs pg_walinspect)")
	verbose := flag.Bool("v", false, "log what the workers log")
	flag.Parse()
	wanted := strings.Split(*which, ",")
	for _, name := range wanted {
		if !slices.Contains(names, name) {
			return fmt.Errorf("-run: no sub-benchmark %q: want some of %s", name, strings.Join(names, ","))
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	level := slog.LevelError
	if *verbose {
		level = slog.LevelInfo
	}
	b := &bench{options: options{scale: *scale, wal: *wal, log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))}}
	if b.cluster, err = openCluster(ctx, *fsync); err != nil {
		return err
	}
	defer b.cluster.close()
	b.report = &report{Machine: machine(), Postgres: b.cluster.source, Settings: b.cluster.settings}
	var errs []error
	for _, s := range suites {
		if !slices.Contains(wanted, s.name) {
			continue
		}
		fmt.Fprintf(os.Stderr, "bench: %s\n", s.name)
		b.report.suite = s.name
		if err := s.run(ctx, b); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", s.name, err))
		}
		if ctx.Err() != nil {
			break
		}
	}
	errs = append(errs, b.report.write(os.Stdout, *asJSON))
	return errors.Join(errs...)
}
