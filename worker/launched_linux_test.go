package worker_test

import (
	"context"
	"errors"
	"strings"
	"syscall"
	"testing"

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
	const user = 65521
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
	if out, err := run.Result(t.Context()); err != nil || out != "begun 1, attempt 1" {
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
