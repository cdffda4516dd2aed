package docker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stepward/stepward/internal/testenv"
	"github.com/stepward/stepward/sandbox"
)

// An engine that takes connections and answers nothing, or not all of what it is asked first, is none.
func TestSilentEngine(t *testing.T) {
	for _, what := range []string{"", "/info", "/version"} {
		host, _, _ := testenv.Silent(t, "unix", testenv.Docker(t), what)
		b := New(Config{Host: host, Program: backend(t).config.Program})
		b.patience = 50 * time.Millisecond
		probed := make(chan error, 1)
		go func() {
			_, err := b.Probe(t.Context())
			probed <- err
		}()
		err := testenv.Receive(t, probed)
		var ue *sandbox.UnavailableError
		if !errors.As(err, &ue) || !strings.Contains(ue.Reason, host+" has not answered in 50ms") {
			t.Errorf("silent from %q on: %v, want an UnavailableError that names the address", what, err)
		}
	}
}

// Who waits for what another one finds out about the engine is not kept by it.
func TestSilentEngineKeepsOnlyOne(t *testing.T) {
	host, heard, _ := testenv.Silent(t, "unix", testenv.Docker(t), "/_ping")
	b := New(Config{Host: host, Program: backend(t).config.Program})
	b.patience = testenv.Patience
	ctx, cancel := context.WithCancel(t.Context())
	probed := make(chan error, 2)
	probe := func(ctx context.Context) {
		_, err := b.Probe(ctx)
		probed <- err
	}
	go probe(ctx)
	testenv.Receive(t, heard)
	gone, leave := context.WithCancel(t.Context())
	leave()
	go probe(gone)
	if err := testenv.Receive(t, probed); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	cancel()
	if err := testenv.Receive(t, probed); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// Whatever an engine is asked last before it falls silent, who has a sandbox made is kept no longer than he wants, and
// what is left of it goes once the engine answers.
func TestEngineFallsSilent(t *testing.T) {
	there := backend(t)
	if _, err := there.Probe(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i, what := range []string{
		"/images/", "/volumes/create", "/containers/create?name=" + containerName(""), "/attach", "/wait", "/start", "/exec ", "/exec/", "DELETE ",
	} {
		host, heard, _ := testenv.Silent(t, "unix", there.config.Host, what)
		b := New(Config{Host: host, Program: there.config.Program, Image: emptyImage})
		b.noBind, b.found = true, there.found
		if _, _, err := b.connect(t.Context()); err != nil { // with time: it speaks
			t.Fatal(err)
		}
		b.patience = 200 * time.Millisecond
		if what != "/volumes/create" { // else it would fall silent while the volume is looked at, and leave the container for that
			b.program = there.program
			b.volume.Store(true)
		}
		id := fmt.Sprintf("silent-%d-%d", os.Getpid(), i)
		ctx, cancel := context.WithCancel(t.Context())
		made := make(chan error, 1)
		go func() {
			_, err := b.Create(ctx, creation(id))
			if err == nil { // it is to be silent at the end
				err = b.Destroy(ctx, id)
			}
			made <- err
		}()
		select {
		case <-heard:
		case err := <-made:
			t.Fatalf("%q has not been said: %v", what, err)
		}
		cancel()
		if err := testenv.Receive(t, made); !errors.Is(err, context.Canceled) { // another bound is a minute
			t.Errorf("silent from %q on: %v", what, err)
		}
		if err := there.Destroy(t.Context(), id); err != nil {
			t.Error(err)
		}
	}
}
