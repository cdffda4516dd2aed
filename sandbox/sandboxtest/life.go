package sandboxtest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stepward/stepward/sandbox"
)

func testLife(t *testing.T, b sandbox.Backend, spec sandbox.Spec) {
	ctx := bounded(t)
	schema := fmt.Sprintf("suite%d", time.Now().UnixNano())
	labels := sandbox.Labels{Schema: schema, Database: "17-5", Run: 7, Step: "s", Attempt: 1, Epoch: 1}
	s, err := sandbox.Start(ctx, b, sandbox.Options{Spec: spec, Labels: labels})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Destroy(context.Background())
	if l, err := b.List(ctx, schema); err != nil || len(l) != 1 || l[0].ID != s.ID() || l[0].Labels != labels {
		t.Errorf("List: %+v, %v", l, err)
	}
	if err := s.Destroy(ctx); err != nil {
		t.Errorf("Destroy: %v", err)
	}
	if err := s.Destroy(ctx); err != nil {
		t.Errorf("second Destroy: %v", err)
	}
	if l, err := b.List(ctx, schema); err != nil || len(l) != 0 {
		t.Errorf("List after Destroy: %+v, %v", l, err)
	}

	// What is required and cannot be had is refused, and leaves nothing.
	demanding := spec
	demanding.Require.Isolation = "a planet of its own"
	var ue *sandbox.UnsupportedError
	if _, err := sandbox.Start(ctx, b, sandbox.Options{Spec: demanding, Labels: labels}); !errors.As(err, &ue) || ue.Field != "Require.Isolation" {
		t.Errorf("a requirement that no backend meets: %v", err)
	}
	if l, err := b.List(ctx, schema); err != nil || len(l) != 0 {
		t.Errorf("List after a refusal: %+v, %v", l, err)
	}

	// The orphan rule: nobody is ever connected.
	id := fmt.Sprintf("orphan-%d", time.Now().UnixNano())
	_, err = b.Create(ctx, sandbox.Creation{ID: id, Spec: spec, Labels: sandbox.Labels{Schema: schema}, OrphanAfter: time.Second})
	if err != nil && !strings.Contains(err.Error(), "no worker was connected") { // as early as that, on a busy machine
		t.Fatal(err)
	}
	defer b.Destroy(context.Background(), id)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		l, err := b.List(ctx, schema)
		if err == nil && len(l) == 0 {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("an orphan is still listed: %+v, %v", l, err)
		}
	}
}

// testClosed comes last: it destroys the sandbox under a command.
func testClosed(t *testing.T, s *sandbox.Sandbox) {
	ctx := bounded(t)
	c := s.Command(program, "probe:hang")
	w := newWaiter()
	c.Stdout = w
	if err := c.Start(ctx); err != nil {
		t.Fatal(err)
	}
	w.wait(t)
	if err := s.Destroy(ctx); err != nil {
		t.Error(err)
	}
	if err := c.Wait(); !errors.Is(err, sandbox.ErrLost) {
		t.Errorf("a command whose sandbox was destroyed: %v, want ErrLost", err)
	}
	if err := s.Command(program, "probe:pwd").Run(ctx); !errors.Is(err, sandbox.ErrLost) {
		t.Errorf("a command after Destroy: %v, want ErrLost", err)
	}
	if _, err := s.ReadFile(ctx, "x"); !errors.Is(err, sandbox.ErrLost) {
		t.Errorf("ReadFile after Destroy: %v, want ErrLost", err)
	}
}
