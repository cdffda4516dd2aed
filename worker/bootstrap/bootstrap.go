// Package bootstrap makes a worker's program usable as what runs inside its
// sandboxes, the tool runner and the process of a guest step, and as the broker of
// secrets beside it. It is apart from package worker, so that a worker is never linked with
// what reads a store.
package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/stepward/stepward/identity/broker"
	"github.com/stepward/stepward/identity/filestore"
	"github.com/stepward/stepward/internal/brokerlink"
	"github.com/stepward/stepward/internal/engine"
	"github.com/stepward/stepward/internal/runner"
	_ "github.com/stepward/stepward/internal/runner/early" // serves before main
	"github.com/stepward/stepward/workflow"
)

// Init is the first line of main in a program that embeds a worker. Started
// inside a sandbox, or as the broker of a worker, it serves there and never returns. Started as
// root, it has a program with steps of mode Identity go on as an ordinary user: see [Config].User. Everywhere
// else it does nothing.
//
// The initialization of the program's packages runs before it, in the sandbox
// as well: without a network, on a read-only file system and with an empty
// environment. What needs those belongs into main, after Init. A guest step has all
// of it behind itself; the tool runner begins in the middle of it, as soon as what
// it consists of is initialized, and leaves the rest out. A guest that does not get
// to Init within 15 s is ended.
func Init(definitions ...*workflow.Definition) { Config{}.Init(definitions...) }

// Config is for programs that need more than [Init].
type Config struct {
	// Broker configures the broker that a worker of this program starts for the steps with
	// a tenant's secrets, unless worker.Config.Broker names another. It is called in the broker's
	// process alone: what opens a store belongs here, and not into the worker's main.
	// Defaults to [FileStore] of stepward/secrets in the user's configuration directory.
	Broker func(context.Context) (broker.Config, error)

	// User and BrokerUser are who the program, and brokers that its workers start, go on as when it
	// is started as root with the right to change users, and a definition has a step of mode Identity:
	// names, or numbers that need not be known to the system. A worker that is root could read
	// what is the broker's. As two users that are not, they are level identity.L1.
	//
	// The change is made by Init, on Linux, for good, and without supplementary groups: what needs
	// root, be it a port, a file or Docker's socket (which makes root of who may use it), is to be prepared
	// outside, or the program stays root; and the sandboxes of package local are those of an ordinary user. HOME is that of the user, or below /var/lib/stepward. The broker has the environment that the
	// program was started with, and reads stores as BrokerUser. Its database is that of the first worker.Run that has
	// reached one, whether or not it has steps with secrets; a worker.Config.Broker there ends what starts
	// brokers. Until then, or for ever in a program that runs no worker, who takes the program over could name a database of
	// its own: a program that also serves others than its workers, calls worker.Run first.
	//
	// Default to 65521 and 65522. A User "root" stays, with level identity.L1Dev; so does a program in a
	// user namespace that lacks the default users.
	User, BrokerUser string
}

// Init is the first line of main in a program that embeds a worker, as the function [Init].
func (c Config) Init(definitions ...*workflow.Definition) {
	if brokerlink.Launching() {
		ignoreSignals()
		exit(brokerlink.Launch())
	}
	if brokerlink.Started() {
		exit(serveBroker(c.Broker))
	}
	runner.Main(func(ctx context.Context, r runner.GuestRequest) ([]byte, error) {
		step, err := find(definitions, r)
		if err != nil {
			return nil, err
		}
		var id workflow.RunID
		if err := id.UnmarshalText([]byte(r.RunID)); err != nil {
			return nil, err
		}
		_, key, _ := strings.Cut(r.IdempotencyKey, "/")
		out, err := step.Call(engine.WithAttempt(ctx, engine.Attempt{
			Step: step, Run: int64(id), Key: key, Number: r.Attempt, Unique: r.IdempotencyKey, Details: r.Details, Beat: r.Beat, Outlet: r.Outlet,
		}), r.Input)
		if value := (*workflow.ValueError)(nil); errors.As(err, &value) {
			err = workflow.Permanent(err) // as on the worker: it will not do better next time
		}
		return out, err
	})
	if err := c.separate(definitions); err != nil {
		exit(fmt.Errorf("bootstrap: %w", err))
	}
	brokerlink.CanServe()
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// FileStore returns what makes a broker of a file store: references file://name mean its secrets, and the
// broker's own key is beside it.
func FileStore(dir string) func(context.Context) (broker.Config, error) {
	return func(context.Context) (broker.Config, error) {
		s, err := filestore.Open(filestore.Config{Dir: dir})
		if err != nil {
			return broker.Config{}, err
		}
		return broker.Config{Dir: dir + ".broker", Stores: map[string]broker.Store{"file": s}}, nil
	}
}

// ignoreSignals is for processes that the worker needs until it has drained, and that end with it.
func ignoreSignals() { signal.Ignore(os.Interrupt, syscall.SIGTERM, syscall.SIGHUP) }

func serveBroker(configure func(context.Context) (broker.Config, error)) error {
	ignoreSignals()
	if configure == nil {
		configure = func(ctx context.Context) (broker.Config, error) {
			dir, err := os.UserConfigDir()
			if err != nil {
				return broker.Config{}, err
			}
			return FileStore(filepath.Join(dir, "stepward", "secrets"))(ctx)
		}
	}
	return broker.Child(context.Background(), configure)
}

// find returns the step that a worker asks for. The program may be another one
// than the worker's, so it may be missing.
func find(definitions []*workflow.Definition, r runner.GuestRequest) (*engine.Step, error) {
	for _, d := range definitions {
		e := d.Engine()
		if e.Workflow != r.Workflow || e.Version != r.Version {
			continue
		}
		for _, s := range e.Steps {
			if s.Name == r.Step && s.Call != nil {
				return s, nil
			}
		}
	}
	return nil, workflow.Permanent(fmt.Errorf("the program in the sandbox has no guest step %s of %s@%s: pass its definition to bootstrap.Init", r.Step, r.Workflow, r.Version))
}
