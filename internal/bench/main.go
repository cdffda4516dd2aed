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

	"github.com/stepward/stepward/internal/bench/measure"
	"github.com/stepward/stepward/internal/program"
	"github.com/stepward/stepward/worker/bootstrap"
)

// A suite is one of the sub-benchmarks.
type suite struct {
	name     string
	run      func(ctx context.Context, b *bench) error
	postgres bool // it needs one
	help     string
}

var suites = []suite{
	{"steps", benchSteps, true, `
counts what a run of 1 and of 10 bare steps writes: transactions and bytes of WAL.
"Alone" is one run at a time, without the River job that announces it (its ticket),
which is counted for itself; then 32 runs at once. Full page writes and autovacuum
are off. What an idle worker writes (heartbeat, River's upkeep) is measured after each
count, for at least as long, and subtracted.`},
	{"costs", benchCosts, true, `
counts what fixed loads cost: SQL statements of the turns, transactions that write, rows,
and WAL bytes, each the least of several repetitions. Autovacuum is off.`},
	{"latency", benchLatency, true, `
times Enqueue, the start of the first step and Result for runs that come one at a
time, then for 64 callers, and how fast a backlog is worked off.`},
	{"enqueue", benchEnqueue, true, `
times Enqueue and EnqueueTx without a worker.`},
	{"limits", benchLimits, true, `
works off runs without and with tenants, priorities and limits, in turn, and compares.`},
	{"parked", benchParked, true, `
compares a worker process beside no other runs and beside -n runs that wait, half for a time and
half for a signal: its memory, what it asks while it is idle, and how long it takes to wake
100 others. The -n are copies of the rows of two that the engine has put away.`},
	{"recovery", benchRecovery, true, `
kills worker processes with SIGKILL and times until the step that they executed starts
in another process.`},
	{"sandbox", benchSandbox, false, `
times local sandboxes: from nothing to the first output of a command, in pairs with
bwrap --unshare-all that starts the same program; guest steps; a command in a sandbox that is there;
the memory of the tool runner; the kill of commands with all that they started; and trees
of files in and out, in turn with tar over a pipe. Linux only. With KUBECONFIG also pods: their
start, that of a step in one that is ready, with and without secrets, and kills.`},
	{"docker", benchDocker, true, `
times containers: from nothing to the first output of a command, in pairs with docker run of
the same image; the start of a step whose sandbox is ready, with all that is written for it; a
command in a container that is there; trees of files in and out, in turn with docker cp; and the
kill of commands with all that they started, also in gVisor where the engine has it as runsc.`},
	{"egress", benchEgress, false, `
times what goes through the proxy of a local sandbox: a large body, in pairs with a TCP
relay of two hops, and small requests, beside direct ones. Linux only.`},
	{"redact", benchRedact, false, `
times what takes 50 secret values out of a stream, on one core, and its memory.`},
	{"envelope", benchEnvelope, true, `
times how 6 scopes of 50 keys resolve; and the way of an attempt's secrets, from a file store through a broker
of its own process into a local sandbox, and its parts, and counts the transactions that write for it: Linux only.`},
	{"revoke", benchRevoke, true, `
revokes secrets that commands use every 10 ms in local sandboxes and, with an engine, in containers,
while things are in order and while they are not, and times until they do so no more. It needs root on
Linux, two minutes, and a quiet machine.`},
}

// bench is what the suites share.
type bench struct {
	options
	cluster *cluster
	report  *report

	runner    program.Program // of the sandboxes
	runnerErr error
}

type options struct {
	parked int     // how many runs wait in sub-benchmark parked
	scale  float64 // how often things are repeated, 1 is the usual
	wal    bool
	log    *slog.Logger
}

// times scales a number of repetitions.
func (o options) times(n int) int { return max(int(float64(n)*o.scale), 1) }

func main() {
	bootstrap.Config{Broker: bootstrap.FileStore(os.Getenv(envStore))}.Init()
	hello()
	egressPart()
	revokePart()
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
	parked := flag.Int("n", 100_000, "how many runs wait in parked")
	wal := flag.Bool("wal", false, "break the WAL of steps and costs down by table and record (needs pg_walinspect)")
	verbose := flag.Bool("v", false, "log what the workers log")
	flag.Usage = func() {
		fmt.Fprintf(os.Stderr, "Usage: go run ./internal/bench [flags]\n\nSub-benchmarks:\n")
		for _, s := range suites {
			fmt.Fprintf(os.Stderr, "  %s%s\n", s.name, strings.ReplaceAll(s.help, "\n", "\n    \t"))
		}
		fmt.Fprintf(os.Stderr, "\nA Postgres is started for it, unless DATABASE_URL names one: nobody else may use that meanwhile.\n\nFlags:\n")
		flag.PrintDefaults()
	}
	flag.Parse()
	wanted := strings.Split(*which, ",")
	for _, name := range wanted {
		if !slices.Contains(names, name) {
			return fmt.Errorf("-run: no sub-benchmark %q: want some of %s", name, strings.Join(names, ","))
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second interrupt ends the program at once
	level := slog.LevelError
	if *verbose {
		level = slog.LevelInfo
	}
	b := &bench{options: options{parked: *parked, scale: *scale, wal: *wal, log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))}}
	b.report = &report{Command: strings.Join(append([]string{"go run ./internal/bench"}, os.Args[1:]...), " "), Machine: measure.Machine()}
	boxed := []string{"sandbox", "docker", "egress", "envelope", "revoke"}
	if slices.ContainsFunc(wanted, func(s string) bool { return slices.Contains(boxed, s) }) { // first: it may be built from sources, which may change meanwhile
		b.runner, b.runnerErr = program.Find(ctx, program.Want{})
	}
	var errs []error
	for _, s := range suites {
		if !slices.Contains(wanted, s.name) {
			continue
		}
		if s.postgres && b.cluster == nil {
			measure.Progress("starting Postgres")
			server, err := measure.Open(ctx, *fsync, nil)
			if err != nil {
				return err
			}
			b.cluster = &cluster{Cluster: server}
			defer b.cluster.Close()
			b.report.Postgres, b.report.Settings = b.cluster.Source, b.cluster.Settings
		}
		measure.Progress("%s", s.name)
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
