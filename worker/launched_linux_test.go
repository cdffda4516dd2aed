package worker_test

import (
	"syscall"
	"testing"

	"github.com/stepward/stepward/identity"
	"github.com/stepward/stepward/identity/broker"
	"github.com/stepward/stepward/internal/testenv"
	"github.com/stepward/stepward/sandbox/docker"
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
