package sandboxtest

import (
	"context"
	"errors"
	"net"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stepward/stepward/sandbox"
)

// dials counts the connections to a backend's sandboxes.
type dials struct {
	sandbox.Backend
	n atomic.Int64
}

func (d *dials) Dial(ctx context.Context, id string) (net.Conn, error) {
	d.n.Add(1)
	return d.Backend.Dial(ctx, id)
}

// testClaim checks that a sandbox which was made for nobody serves one run, as if it
// had been made for it.
func testClaim(t *testing.T, b sandbox.Backend, spec sandbox.Spec) {
	ctx := bounded(t)
	made := func() (*sandbox.Sandbox, *dials) {
		d := &dials{Backend: b}
		s, err := sandbox.Start(ctx, d, sandbox.Options{Spec: spec})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := s.Destroy(context.Background()); err != nil {
				t.Errorf("Destroy: %v", err)
			}
		})
		return s, d
	}
	probe, err := os.ReadFile(BuildProbe(t))
	if err != nil {
		t.Fatal(err)
	}

	s, d := made()
	other := spec
	other.Limits.OpenFiles = 77
	if err := s.Claim(ctx, sandbox.Options{Spec: other}); err == nil || errors.Is(err, sandbox.ErrUsed) {
		t.Errorf("claimed with another limit: %v", err)
	}
	token := tokenOf(t, s)
	_, conn, _, err := hello(ctx, b, s.ID(), token, 0)
	if err != nil {
		t.Errorf("before the claim no epoch is stale: %v", err)
	} else {
		conn.Close()
	}
	own := spec
	own.Env = map[string]string{"WHOSE": "the run's"}
	var ended atomic.Int64
	o := sandbox.Options{
		Spec: own, Labels: sandbox.Labels{Schema: "suite", Session: 7, Run: 9, Epoch: 3},
		Done: func(string, sandbox.Usage, error) { ended.Add(1) },
	}
	if err := s.Claim(ctx, o); err != nil {
		t.Fatal(err)
	}
	if _, c, _, err := hello(ctx, b, s.ID(), token, 2); err == nil {
		c.Close()
		t.Error("an epoch below that of the claim was accepted")
	}
	if err := s.WriteFile(ctx, program, probe, 0o755); err != nil {
		t.Fatal(err)
	}
	if env := strings.Split(run(t, s, "env"), "\n"); !slices.Contains(env, "WHOSE=the run's") {
		t.Errorf("the environment is not that of the claim: %q", env)
	}
	if n := ended.Load(); n != 1 {
		t.Errorf("Done was called %d times", n)
	}
	if n := d.n.Load(); n != 2 {
		t.Errorf("%d connections were made, the claim broke the first two", n)
	}
	o.Labels.Run = 10
	if err := s.Claim(ctx, o); !errors.Is(err, sandbox.ErrUsed) {
		t.Errorf("claimed for a second run: %v", err)
	}

	used, _ := made()
	if err := used.WriteFile(ctx, "left", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := used.Claim(ctx, o); !errors.Is(err, sandbox.ErrUsed) {
		t.Errorf("claimed after something was written: %v", err)
	}
	named, _ := made()
	c := named.Command("/none")
	c.ID = "job"
	if err := c.Run(ctx); err == nil {
		t.Error("a command that is not there ran")
	}
	if err := named.Claim(ctx, o); !errors.Is(err, sandbox.ErrUsed) {
		t.Errorf("claimed after something was started: %v", err)
	}
}
