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

func testLife(t *testing.T, b sandbox.Backend, spec sandbox.Spec, s *sandbox.Sandbox, labels sandbox.Labels) {
	ctx := bounded(t)
	listed := func(when string) {
		t.Helper()
		if l, err := b.List(ctx, labels.Schema); err != nil || len(l) != 1 || l[0].ID != s.ID() || l[0].Labels != labels {
			t.Errorf("List%s: %+v, %v", when, l, err)
		}
	}
	listed("")

	// What is required and cannot be had is refused, and leaves nothing.
	demanding := spec
	demanding.Require.Isolation = "a planet of its own"
	var ue *sandbox.UnsupportedError
	if _, err := sandbox.Start(ctx, b, sandbox.Options{Spec: demanding, Labels: labels}); !errors.As(err, &ue) || ue.Field != "Require.Isolation" {
		t.Errorf("a requirement that no backend meets: %v", err)
	}
	listed(" after a refusal")

	// The orphan rule: nobody is ever connected. Who comes first has no right to it by that.
	id := fmt.Sprintf("orphan-%d", time.Now().UnixNano())
	schema := labels.Schema + "orphan"
	_, err := b.Create(ctx, sandbox.Creation{ID: id, Spec: spec, Labels: sandbox.Labels{Schema: schema}, OrphanAfter: time.Second})
	if err != nil && !strings.Contains(err.Error(), "no worker was connected") { // as early as that, on a busy machine
		t.Fatal(err)
	}
	defer b.Destroy(context.Background(), id)
	if _, conn, _, err := hello(ctx, b, id, []byte("wrong"), 1); err == nil {
		conn.Close()
		t.Error("a wrong token was accepted of the first who came")
	} else if conn != nil {
		conn.Close()
	}
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

// testClosed destroys the sandbox under a command.
func testClosed(t *testing.T, b sandbox.Backend, s *sandbox.Sandbox, schema string) {
	ctx := bounded(t)
	c := s.Command(program, "probe:hang")
	w := newWaiter()
	c.Stdout = w
	if err := c.Start(ctx); err != nil {
		t.Fatal(err)
	}
	w.wait(t)
	if err := s.Destroy(ctx); err != nil {
		t.Errorf("Destroy: %v", err)
	}
	if err := s.Destroy(ctx); err != nil {
		t.Errorf("second Destroy: %v", err)
	}
	if l, err := b.List(ctx, schema); err != nil || len(l) != 0 {
		t.Errorf("List after Destroy: %+v, %v", l, err)
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
