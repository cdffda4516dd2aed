// Command quickstart makes a small static site from a Markdown brief, as a
// durable workflow: its pages are rendered in sandboxes, one of which alone gets the
// customer's deploy key, and a worker that is killed in the middle costs nothing
// that was finished.
//
//	go run ./examples/quickstart
//	go run ./examples/quickstart -kill
//	go run ./examples/quickstart -h
//
// Read site for what the workflow is called, sitework for what it does, and
// this package for how an application starts workers, enqueues a run, and
// watches it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/stepward/stepward/examples/quickstart/sitework"
)

const usage = `Usage: quickstart [flags] [brief.md]

Makes a static site from a Markdown file, or from a brief of its own: a "# "
heading names the site, every "## " heading begins a page. Pages link to each
other by name, as in [prices](opening-hours.html) for "## Opening hours".

Postgres is the one that DATABASE_URL names, else a throw-away one of this
machine.

Flags:
`

func main() {
	// Started inside a sandbox, or as the broker of secrets, the program serves there and never returns.
	broker.Init(sitework.PortfolioV1)
	os.Exit(start(os.Args[1:]))
}

// start returns the program's exit status.
func start(args []string) int {
	// After the first signal the default is back: a second one ends the program at once.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)

	run := quickstart
	if len(args) > 0 {
		switch args[0] { // what the program starts of itself
		case sitework.LinkCheck:
			run = func(_ context.Context, args []string) error { return linkCheck(args[1:]) }
		case operatorCommand:
			run = func(ctx context.Context, args []string) error { return runOperator(ctx, args[1:]) }
		case workerCommand:
			run = func(ctx context.Context, args []string) error { return runWorker(ctx, args[1:]) }
		}
	}
	err := run(ctx, args)
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return 0
	case errors.Is(err, errUsage):
		return 2
	case ctx.Err() != nil:
		fmt.Fprintln(os.Stderr, "quickstart: interrupted")
		return 130 // as a shell reports it
	}
	fmt.Fprintln(os.Stderr, "quickstart:", err)
	return 1
}

// errUsage reports arguments that cannot be read. The user was told already.
var errUsage = errors.New("bad arguments")

// options are the program's arguments.
type options struct {
	brief   string
	out     string
	kill    bool
	sandbox sandboxOptions
	verbose bool
}

func parse(args []string) (options, error) {
	var o options
	flags := flag.NewFlagSet("quickstart", flag.ContinueOnError)
	flags.StringVar(&o.out, "out", "./site", "`folder` to write the site to")
	flags.BoolVar(&o.kill, "kill", false, "start two worker processes, and kill the one that works in the middle")
	o.sandbox.register(flags)
	flags.BoolVar(&o.verbose, "v", false, "show the worker's log")
	flags.Usage = func() {
		_, _ = io.WriteString(flags.Output(), usage)
		flags.PrintDefaults()
	}
	if err := flags.Parse(args); err != nil {
		return o, errors.Join(errUsage, err)
	}
	if flags.NArg() > 1 {
		fmt.Fprintf(os.Stderr, "quickstart: want one brief, got %d: %q (flags come first)\n", flags.NArg(), flags.Args())
		return o, errUsage
	}
	o.brief = flags.Arg(0)
	if err := o.sandbox.validate(); err != nil {
		fmt.Fprintln(os.Stderr, "quickstart:", err)
		return o, errUsage
	}
	return o, nil
}

// linkCheck is the command that the step check runs in its sandbox.
func linkCheck(args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("%s wants a folder, got %q", sitework.LinkCheck, args)
	}
	return sitework.WriteLinks(os.Stdout, os.DirFS(args[0]))
}
