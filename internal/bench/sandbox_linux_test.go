package main

import (
	"testing"

	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/sandbox/local"
	"github.com/stepward/stepward/sandbox/sandboxtest"
)

// An idle tool runner keeps little for itself, however many execs it has served.
func TestRunnerMemory(t *testing.T) {
	s, err := sandbox.Start(t.Context(), local.New(local.Config{Program: sandboxtest.BuildProbe(t)}), sandbox.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Destroy(t.Context())
	for range 20 {
		if err := s.Command("true").Run(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	kB, err := anonymousOfChildren()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("anonymous memory of the runner: %d kB", kB)
	if kB > barRSS<<10 {
		t.Errorf("the idle runner keeps %d kB, more than %d MiB", kB, barRSS)
	}
}
