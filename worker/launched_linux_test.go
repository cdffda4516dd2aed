package worker_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stepward/stepward/identity"
	"github.com/stepward/stepward/identity/broker"
	"github.com/stepward/stepward/internal/testenv"
	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/sandbox/docker"
	"github.com/stepward/stepward/sandbox/launcher"
	"github.com/stepward/stepward/sandbox/sandboxtest"
	"github.com/stepward/stepward/workflow"
)

// A worker that may not use the engine has its sandboxes made by the broker, and gets a secret that demands L2; with
// sandboxes that another broker has made it does not, and the run waits for whoever mends that.
func TestLaunched(t *testing.T) {
	testenv.Require(t, testenv.PartRoot)
	const user = workerUser
	engine := docker.New(docker.Config{Host: testenv.Docker(t), Program: sandboxtest.BuildProbe(t)})
	t.Cleanup(func() {
		if err := engine.Close(); err != nil {
			t.Error(err)
		}
	})
	f := newFixture(t)
	f.secret(identity.Key{Ref: "one://x", MinLevel: identity.L2})
	cfg := broker.Config{Peers: []uint32{user}, Sandboxes: engine}
	ours, _ := f.serve(cfg)
	theirs, _ := f.serve(cfg) // with a key of its own
	p := f.startVictim(victimConfig{Broker: ours, Launcher: ours, User: user}, "")
	run := f.enqueueEntrusted(counting{N: 3})
	if out, err := outcome(t, f.client, run); err != nil || out != "begun 1, attempt 1" {
		t.Fatalf("got %q, %v", out, err)
	}
	if n := f.count("SELECT count(*) FROM stepward.issue WHERE level = 'L2' AND why = '' AND opened_at IS NOT NULL"); n != 1 {
		t.Errorf("%d envelopes were opened at L2", n)
	}
	p.signal(syscall.SIGTERM)
	p.diedOf(0)
	f.startVictim(victimConfig{Broker: ours, Launcher: theirs, User: user}, "")
	run = f.enqueueEntrusted(counting{N: 3})
	eventually(t, "the run is parked", func() bool {
		s, err := f.client.Get(t.Context(), run.ID)
		return err == nil && s.State == workflow.StateParked
	})
	if n := f.count("SELECT count(*) FROM stepward.issue"); n != 1 {
		t.Errorf("%d envelopes were issued", n)
	}
	if n := f.count("SELECT count(*) FROM stepward.event WHERE kind = 'envelope.refused' AND convert_from(detail, 'UTF8') LIKE '%demands level L2, and this set-up is L1: the proof of the sandbox is not of this attempt%'"); n != 1 {
		t.Errorf("%d refusals say so", n)
	}
}

// On one engine the sandboxes of an installation are there for its own workers alone, and of what images there are its
// broker names those that they may have. What the other broker allows is the control.
func TestLaunchedApart(t *testing.T) {
	engine := docker.New(docker.Config{Host: testenv.Docker(t), Program: sandboxtest.BuildProbe(t)})
	t.Cleanup(func() {
		if err := engine.Close(); err != nil {
			t.Error(err)
		}
	})
	const image = "stepward/empty:1" // which the engine has from the first sandbox on
	var installed [2]*fixture
	var workers [2]*launcher.Backend
	for i, images := range [][]string{nil, {"stepward/*"}} {
		f := newFixture(t)
		address, _ := f.serve(broker.Config{Sandboxes: engine, Images: images})
		l, err := launcher.New(launcher.Config{Broker: address})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		installed[i], workers[i] = f, l
	}
	start := func(i int, schema, image string) (*sandbox.Sandbox, error) {
		s, err := sandbox.Start(t.Context(), workers[i], sandbox.Options{Spec: sandbox.Spec{Image: image}, Labels: sandbox.Labels{Schema: schema}})
		if err == nil {
			t.Cleanup(func() { _ = s.Destroy(context.Background()) })
		}
		return s, err
	}
	listed := func(i int) int {
		l, err := workers[i].List(t.Context(), installed[i].schema)
		if err != nil {
			t.Fatal(err)
		}
		return len(l)
	}
	s, err := start(0, installed[0].schema, "")
	if err != nil {
		t.Fatal(err)
	}
	if n, m := listed(0), listed(1); n != 1 || m != 0 {
		t.Errorf("%d are listed for their own workers, and %d for others", n, m)
	}
	if c, err := workers[1].Dial(t.Context(), s.ID()); !errors.Is(err, sandbox.ErrLost) {
		t.Errorf("another's is dialled: %v, %v", c, err)
	}
	if err := workers[1].Destroy(t.Context(), s.ID()); err != nil {
		t.Errorf("another's is to be destroyed: %v", err)
	}
	if _, err := s.ReadFile(t.Context(), "/etc/passwd"); err != nil {
		t.Errorf("it is no more: %v", err)
	}
	_, err = start(1, installed[0].schema, "")
	if e, ok := errors.AsType[*sandbox.UnavailableError](err); !ok || !strings.Contains(e.Reason, installed[0].schema) {
		t.Errorf("for another's workers: %v", err)
	}
	_, err = workers[1].List(t.Context(), installed[0].schema)
	if e, ok := errors.AsType[*sandbox.UnavailableError](err); !ok || !strings.Contains(e.Reason, installed[0].schema) {
		t.Errorf("a list of another's: %v", err)
	}
	_, err = start(0, installed[0].schema, image)
	if e, ok := errors.AsType[*sandbox.ImageError](err); !ok || e.Image != image || !strings.Contains(e.Reason, "allows") {
		t.Errorf("an image that is not allowed: %v", err)
	}
	if s, err := start(1, installed[1].schema, image); err != nil || !strings.Contains(s.Enforcement().Image, image) {
		t.Errorf("one that is: %v", err)
	}
	if n := listed(0); n != 1 {
		t.Errorf("%d are left", n)
	}
}

// A broker is killed while a sandbox that it made works with a secret. What runs there goes on by way of the broker that
// is started in its place, as the same attempt and with the same envelope. Without one the attempt is lost, for
// OnSandboxLost to say what that means, and the sandbox ends by itself. In neither case is anything left.
func TestLauncherDies(t *testing.T) {
	testenv.Require(t, testenv.PartRoot)
	const n = 30
	host, engine := containers(t)
	for name, again := range map[string]bool{"and is started again": true, "for good": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			f.secret(identity.Key{Ref: "one://x", MinLevel: identity.L2})
			dir, err := os.MkdirTemp("", "broker") // short
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.RemoveAll(dir) })
			if err := os.Chmod(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, "s")
			serve := func() *process {
				cfg := victimConfig{Name: "broker", Serves: path, Dir: filepath.Join(dir, "key"), Engine: host}
				if !again {
					cfg.Kill = 10 * time.Second
				}
				return f.startVictim(cfg, "")
			}
			address := "unix://" + path
			l, err := launcher.New(launcher.Config{Broker: address})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
			left := func() int {
				listed, err := l.List(t.Context(), f.schema)
				if err != nil {
					t.Fatal(err)
				}
				return len(listed)
			}
			first := serve()
			eventually(t, "it serves", func() bool {
				c, err := net.Dial("unix", path)
				if err == nil {
					c.Close()
				}
				return err == nil
			})
			cfg := victimConfig{Broker: address, Launcher: address, User: workerUser}
			if !again {
				cfg.Patience = 100 * time.Millisecond
			}
			f.startVictim(cfg, "")
			// The guest waits for its first entry to be durable.
			tx, err := f.pool.Begin(t.Context())
			if err == nil {
				defer tx.Rollback(context.Background())
				_, err = tx.Exec(t.Context(), f.sql("LOCK TABLE stepward.entry IN SHARE MODE"))
			}
			if err != nil {
				t.Fatal(err)
			}
			run := f.enqueueEntrusted(counting{N: n, Once: true})
			eventually(t, "the guest counts", func() bool {
				return f.count("SELECT count(*) FROM pg_locks WHERE relation = 'stepward.entry'::regclass AND NOT granted") > 0
			})
			var box string
			if err := f.pool.QueryRow(t.Context(), f.sql("SELECT sandbox_id FROM stepward.attempt")).Scan(&box); err != nil {
				t.Fatal(err)
			}
			if c, err := engine.Dial(t.Context(), box); err != nil {
				t.Error(err)
			} else {
				c.Close()
			}
			first.signal(syscall.SIGKILL)
			first.diedOf(syscall.SIGKILL)
			if again {
				serve()
			}
			if err := tx.Rollback(t.Context()); err != nil {
				t.Fatal(err)
			}
			out, err := outcome(t, f.client, run)
			if again {
				if err != nil || out != "begun 1, attempt 1" {
					t.Errorf("got %q, %v", out, err)
				}
				f.countedOnce(run.ID, n)
			} else {
				var failed *workflow.RecordedError
				if !errors.As(err, &failed) || failed.Kind != "sandbox" {
					t.Errorf("got %q, %v", out, err)
				}
				eventually(t, "the sandbox has ended", func() bool {
					c, err := engine.Dial(t.Context(), box)
					if err == nil {
						c.Close()
					}
					return errors.Is(err, sandbox.ErrLost)
				})
				serve() // who asks what is left
			}
			if n := f.count("SELECT count(*) FROM stepward.issue WHERE level = 'L2' AND opened_at IS NOT NULL"); n != 1 {
				t.Errorf("%d envelopes were opened at L2", n)
			}
			if n := f.count("SELECT count(*) FROM stepward.attempt"); n > 1 {
				t.Errorf("there were %d attempts", n)
			}
			eventually(t, "no sandbox is left", func() bool { return left() == 0 })
			sockets := func() []string {
				dirs, err := filepath.Glob(filepath.Join(os.TempDir(), "stepward-sockets-0", "*-"+box))
				if err != nil {
					t.Fatal(err)
				}
				return dirs
			}
			for _, dir := range sockets() { // which stays for a while, as that of one that is about to be made would
				long := time.Now().Add(-time.Hour)
				if err := os.Chtimes(dir, long, long); err != nil {
					t.Fatal(err)
				}
			}
			if left(); len(sockets()) > 0 {
				t.Errorf("left are %v", sockets())
			}
		})
	}
}
