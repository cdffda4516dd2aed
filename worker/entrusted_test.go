//go:build unix

package worker_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stepward/stepward/audit"
	"github.com/stepward/stepward/identity"
	"github.com/stepward/stepward/identity/broker"
	"github.com/stepward/stepward/identity/filestore"
	"github.com/stepward/stepward/internal/testenv"
	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/sandbox/local"
	"github.com/stepward/stepward/sandbox/sandboxtest"
	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

// entrusted is census whose step has a secret.
var (
	entrusted   = workflow.DurableWorkflow[counting, string]{Name: "entrusted"}
	countWith   = workflow.NewStep("count", uncalled, workflow.StepOptions{Mode: workflow.Identity, Secrets: []string{"TOKEN"}, Retry: workflow.Retry{MaxAttempts: 1}})
	countFinal  = workflow.NewStep("count-once", uncalled, workflow.StepOptions{Mode: workflow.Identity, Secrets: []string{"TOKEN"}, OnSandboxLost: workflow.Permanent})
	entrustedV1 = workflow.Define(entrusted, func(ctx workflow.Context, in counting) (string, error) {
		step := countWith
		if in.Once {
			step = countFinal
		}
		return step.Run(ctx, [2]int{in.N, in.Size})
	}, workflow.Options{Version: "1", Steps: []workflow.Declared{countWith, countFinal}})
	entrustedOnly = []*workflow.Definition{entrustedV1}
)

// oneSecret is a store.
type oneSecret struct{}

func (oneSecret) Get(context.Context, broker.Request) (broker.Value, error) {
	return broker.Value{Bytes: []byte("s3cr3t-canary-of-one"), Version: "1"}, nil
}

// broker gives tenant acme a secret, and serves at the address that it returns until stop is called.
func (f *fixture) broker(cfg broker.Config) (address string, stop func()) {
	f.t.Helper()
	f.secret(identity.Key{Ref: "one://x"})
	return f.serve(cfg)
}

// secret gives tenant acme one.
func (f *fixture) secret(key identity.Key) {
	f.t.Helper()
	profiles, err := identity.New(f.pool, identity.Options{Schema: f.schema})
	if err != nil {
		f.t.Fatal(err)
	}
	err = profiles.Put(f.t.Context(), identity.Profile{Name: "acme", Scope: identity.Scope{Tenant: "acme"}, Keys: map[string]identity.Key{"TOKEN": key}})
	if err != nil {
		f.t.Fatal(err)
	}
}

// serve starts a broker, which serves at the address that it returns until stop is called.
func (f *fixture) serve(cfg broker.Config) (address string, stop func()) {
	f.t.Helper()
	dir, err := os.MkdirTemp("", "broker") // short
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { os.RemoveAll(dir) })
	cfg.Pool, cfg.Schema, cfg.Dir = f.pool, f.schema, filepath.Join(dir, "key")
	if cfg.Stores == nil {
		cfg.Stores = map[string]broker.Store{"one": oneSecret{}}
	}
	path := filepath.Join(dir, "s")
	ln, err := net.Listen("unix", path)
	if err != nil {
		f.t.Fatal(err)
	}
	if cfg.Peers != nil { // others than this process's
		if err := errors.Join(os.Chmod(dir, 0o755), os.Chmod(path, 0o666)); err != nil {
			f.t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- broker.Serve(ctx, ln, cfg) }()
	return "unix://" + path, testenv.Stopper(f.t, "broker.Serve", cancel, done)
}

func (f *fixture) enqueueEntrusted(in counting) workflow.Run[string] {
	f.t.Helper()
	run, err := entrusted.Enqueue(f.t.Context(), f.client, in, workflow.EnqueueOptions{Tenant: "acme"})
	if err != nil {
		f.t.Fatal(err)
	}
	return run
}

// A guest step with secrets goes on when its worker dies, with what it was given: its successor has it renewed, and
// nothing issued. Where the first got no envelope delivered, its successor gets one.
func TestEntrustedGuestSurvivesWorker(t *testing.T) {
	host, b := containers(t)
	const n = 30
	for name, c := range map[string]struct {
		at     string
		issued int
		size   int
	}{
		"nothing was issued":       {"SandboxCreated:after:1", 1, 0},
		"in the middle":            {"Commit:after:20", 1, 0},
		"it waits for a reader":    {"Commit:after:20", 1, 60 << 10},
		"its result is not stored": {"Commit:before:31", 1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			address, _ := f.broker(broker.Config{})
			run := f.enqueueEntrusted(counting{N: n, Size: c.size})
			f.startVictim(victimConfig{Engine: host, Broker: address}, c.at).dies()
			f.start(worker.Config{Name: "healthy", Workflows: entrustedOnly, Backends: []sandbox.Backend{b}, Broker: address})
			if out, err := outcome(t, f.client, run); err != nil || out != "begun 1, attempt 1" {
				t.Fatalf("got %q, %v", out, err)
			}
			f.countedOnce(run.ID, n)
			if !slices.Contains(f.kinds(run.ID), audit.SandboxTaken) {
				t.Error("no sandbox was taken over")
			}
			if got := f.count("SELECT count(*) FROM stepward.issue WHERE opened_at IS NOT NULL"); got != c.issued {
				t.Errorf("%d envelopes were opened", got)
			}
		})
	}
}

// A guest that its sandbox does not start with its secrets has failed for good: no other attempt would.
func TestEntrustedGuestRefused(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	address, _ := f.broker(broker.Config{})
	step := workflow.NewStep("count", uncalled, workflow.StepOptions{
		Mode: workflow.Identity, Secrets: []string{"TOKEN"}, Sandbox: sandbox.Spec{Env: map[string]string{"PATH": "/workspace/bin"}},
	})
	v1 := workflow.Define(entrusted, func(ctx workflow.Context, in counting) (string, error) {
		return step.Run(ctx, [2]int{in.N, in.Size})
	}, workflow.Options{Version: "1", Steps: []workflow.Declared{step}})
	f.start(worker.Config{Workflows: []*workflow.Definition{v1}, Backends: []sandbox.Backend{local.New(local.Config{Program: sandboxtest.BuildProbe(t)})}, Broker: address})
	_, err := outcome(t, f.client, f.enqueueEntrusted(counting{N: 1}))
	var failed *workflow.RecordedError
	if !errors.As(err, &failed) || failed.Kind != "identity" || !strings.Contains(failed.Error(), "variable PATH:") {
		t.Errorf("got %v", err)
	}
	if n := f.count("SELECT count(*) FROM stepward.issue"); n != 1 {
		t.Errorf("%d attempts had secrets", n)
	}
}

// A run whose store is corrupt is parked, and Why says what there is to do: with what was damaged back in its place, it goes on.
func TestStoreCorrupt(t *testing.T) {
	f := newFixture(t)
	dir := filepath.Join(t.TempDir(), "secrets")
	store, err := filestore.Open(filestore.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	if _, err := store.Put(t.Context(), "acme", "token", []byte("s3cr3t-canary-of-file")); err != nil {
		t.Fatal(err)
	}
	records, err := filepath.Glob(filepath.Join(dir, "records", "*"))
	if err != nil || len(records) != 1 {
		t.Fatal(records, err)
	}
	good, err := os.ReadFile(records[0])
	if err != nil {
		t.Fatal(err)
	}
	bad := slices.Clone(good)
	bad[len(bad)/2] ^= 1
	if err := os.WriteFile(records[0], bad, 0o600); err != nil {
		t.Fatal(err)
	}
	f.secret(identity.Key{Ref: "file://token"})
	address, _ := f.serve(broker.Config{Stores: map[string]broker.Store{"file": store}})
	f.start(worker.Config{Workflows: entrustedOnly, Backends: []sandbox.Backend{local.New(local.Config{Program: sandboxtest.BuildProbe(t)})}, Broker: address})
	run := f.enqueueEntrusted(counting{N: 1})
	f.parksAs(run.ID, "store")
	f.because(run.ID, "parked", "TOKEN", "was changed, cut", "restore it from a backup")
	if err := os.WriteFile(records[0], good, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := f.client.Resume(t.Context(), run.ID); err != nil {
		t.Fatal(err)
	}
	if out, err := run.Result(t.Context()); err != nil {
		t.Errorf("got %q, %v", out, err)
	}
}

// When somebody has changed what the broker had on record, nothing is renewed any more: the attempt ends at once, and not when its
// sandbox does. The run waits for whoever looks into that, and goes on with what is issued anew.
func TestEntrustedRecordChanged(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	address, _ := f.broker(broker.Config{})
	f.start(worker.Config{Workflows: entrustedOnly, Backends: []sandbox.Backend{local.New(local.Config{Program: sandboxtest.BuildProbe(t)})}, Broker: address})
	run := f.enqueueEntrusted(counting{N: 1 << 20})
	eventually(t, "the guest counts", func() bool { return f.count("SELECT count(*) FROM stepward.entry") > 10 })
	f.exec("UPDATE stepward.issue SET pins = '[]'")
	if s := f.parksAs(run.ID, "identity"); s.Err == nil || !strings.Contains(s.Err.Error(), "it was changed") {
		t.Errorf("it says %v", s.Err)
	}
	if n := f.count("SELECT count(*) FROM stepward.sandbox WHERE destroyed_at IS NULL"); n != 0 {
		t.Errorf("%d sandboxes are left", n)
	}
	if err := f.client.Resume(t.Context(), run.ID); err != nil {
		t.Fatal(err)
	}
	eventually(t, "another is opened", func() bool { return f.count("SELECT count(*) FROM stepward.issue WHERE opened_at IS NOT NULL") == 2 })
	if err := f.client.Terminate(t.Context(), run.ID); err != nil { // it would count for long
		t.Error(err)
	}
}

// What holds secrets ends by itself when they cannot be renewed: beside a worker that is stopped, which nobody takes
// the run from, and when the broker is away. Without that it would go on for as long as this waits, and longer.
func TestEntrustedGuestEnds(t *testing.T) {
	host, b := containers(t)
	terms := broker.Config{Freeze: 10 * time.Second, Kill: 10 * time.Second}
	gone := func(t *testing.T, f *fixture) {
		t.Helper()
		eventually(t, "the sandbox has ended", func() bool {
			listed, err := b.List(t.Context(), f.schema)
			return err == nil && len(listed) == 0
		})
	}
	t.Run("worker is stopped", func(t *testing.T) {
		t.Parallel()
		f := newFixture(t)
		address, _ := f.broker(terms)
		f.enqueueEntrusted(counting{N: 30, Size: 60 << 10})
		p := f.startVictim(victimConfig{Engine: host, Broker: address, LeaseTTL: 10 * time.Minute}, "Commit:freeze:20")
		eventually(t, "the victim freezes", p.frozen)
		gone(t, f)
	})
	t.Run("broker is away", func(t *testing.T) {
		t.Parallel()
		f := newFixture(t)
		address, stop := f.broker(terms)
		f.start(worker.Config{Workflows: entrustedOnly, Backends: []sandbox.Backend{b}, Broker: address})
		run := f.enqueueEntrusted(counting{N: 1 << 20})
		eventually(t, "the guest counts", func() bool { return f.count("SELECT count(*) FROM stepward.entry") > 10 })
		stop()
		_, err := outcome(t, f.client, run)
		var failed *workflow.RecordedError
		if !errors.As(err, &failed) || failed.Kind != "sandbox" {
			t.Errorf("got %v", err)
		}
	})
}
