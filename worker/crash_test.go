//go:build unix

package worker_test

import (
	"slices"
	"syscall"
	"testing"

	"github.com/stepward/stepward/workflow"
)

// A run that takes its worker down five times in a row, and records nothing
// between, is parked. A deploy does not try it again; an operator does.
func TestCrashesPark(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	r := f.travel("a", "b", "c")
	// The first crash comes after a checkpoint, and begins the count anew.
	for n := range 6 {
		at := "Commit:before:1"
		if n == 1 {
			at = "Commit:after:1"
		}
		if s := f.state(r.run.ID).State; s == workflow.StateParked {
			t.Fatalf("parked after %d crashes", n)
		}
		f.startVictim(victimConfig{}, at).diedOf(syscall.SIGKILL)
		f.expire("victim")
	}
	f.takeOver() // it reaps the last one, and has just unparked what a deploy may cure
	f.parksAs(r.run.ID, "crashed")
	before, visited := r.checkpoints(), len(r.visits())
	if len(before) != 1 {
		t.Errorf("on record: %v", before)
	}
	if err := f.client.Resume(t.Context(), r.run.ID); err != nil {
		t.Fatal(err)
	}
	r.arrives(t.Context(), before, visited)
}

// The negative control of TestKill and TestCut: with a checkpoint gone, as if it
// had not been durable, their log of executions shows the step twice.
func TestKillWouldNotice(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	r := f.travel("a", "b", "c")
	f.startVictim(victimConfig{}, "Commit:after:1").diedOf(syscall.SIGKILL)
	before, visited := r.checkpoints(), len(r.visits())
	if before["a"] == "" {
		t.Fatalf("on record: %v", before)
	}
	f.exec("DELETE FROM stepward.step WHERE run_id = $1", r.run.ID)
	f.expire("victim")
	f.takeOver()
	if out, err := outcome(t, f.client, r.run); err != nil || out != "a b c" {
		t.Fatalf("got %q, %v", out, err)
	}
	if !slices.Contains(r.visits()[visited:], "a") {
		t.Error("a step was executed again, and the log does not show it")
	}
	if r.checkpoints()["a"] == before["a"] {
		t.Error("a checkpoint was written again, and looks the same")
	}
}

// A run that was started is on its own before its parent knows of it: neither
// the parent's cancelation nor its termination reaches it.
func TestStartOutlivesItsParent(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*fixture, workflow.RunID) error{
		"canceled":   func(f *fixture, id workflow.RunID) error { return f.client.Cancel(t.Context(), id) },
		"terminated": func(f *fixture, id workflow.RunID) error { return f.client.Terminate(t.Context(), id) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			r := f.travel("start", "c")
			f.startVictim(victimConfig{}, "Commit:before:1").diedOf(syscall.SIGKILL)
			if err := end(f, r.run.ID); err != nil {
				t.Fatal(err)
			}
			f.expire("victim")
			f.takeOver()
			if _, err := outcome(t, f.client, r.run); err == nil {
				t.Error("the parent completed")
			}
			eventually(t, "what was started is over", func() bool {
				return f.count("SELECT count(*) FROM stepward.run WHERE workflow = 'kin' AND state <> 'live'") == 1
			})
			if n := f.count("SELECT count(*) FROM stepward.run WHERE workflow = 'kin' AND state = 'completed'"); n != 1 {
				t.Errorf("it was %s", name)
			}
		})
	}
}
