package sandboxtest

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/stepward/stepward/internal/layers"
	"github.com/stepward/stepward/sandbox"
)

// testTransparent checks that programs which know of no proxy reach what the policy
// names, by whatever call, and nothing else; or that who needs that is refused.
func testTransparent(t *testing.T, ctx context.Context, n *internet, b sandbox.Backend, spec sandbox.Spec, holds sandbox.Enforcement) {
	spec.Network.Allow = []string{"ok.test", "inside.test", "192.88.0.0/16"}
	needs := spec
	needs.Require.Transparent = true
	var ue *sandbox.UnsupportedError
	without := ctx
	if holds.Transparent {
		without = layers.Without(ctx, layers.Redirect)
	}
	if s, err := sandbox.Start(without, b, sandbox.Options{Spec: needs}); err == nil {
		s.Destroy(ctx)
		t.Error("Require.Transparent was met without it")
	} else if !errors.As(err, &ue) || ue.Field != "Require.Transparent" {
		t.Errorf("Require.Transparent: %v", err)
	}
	if !holds.Transparent {
		t.Log(Refused + "programs that know of no proxy reach nothing here")
		return
	}
	s := start(t, ctx, b, sandbox.Options{Spec: needs})
	// EACCES, or a reset if the answer took longer than a program waits that asked not to.
	const refused = "refused"
	cases := []struct {
		probe []string
		want  string
	}{
		{[]string{"direct", "192.88.0.9:80", "x"}, "200 GET x/ 0"},
		{[]string{"direct", "ok.test:80", "ok.test"}, "200 GET ok.test/ 0"},
		{[]string{"direct", "OK.test:8080", "ok.test:8080"}, "200 GET ok.test:8080/ 0"},
		{[]string{"direct", "ok.test:80", "evil.test"}, "403 stepward: not allowed: the request is for another host: evil.test"},
		{[]string{"direct", "evil.test:80", "evil.test"}, refused},
		{[]string{"direct", evilAddr + ":80", "x"}, refused},
		{[]string{"direct", "inside.test:80", "inside.test"}, refused},
		{[]string{"direct", "93.184.216.34:80", "ok.test"}, refused}, // no name, no rule of its address
		{[]string{"direct", "none.test:80", "x"}, refused},
		{[]string{"direct", "198.18.99.99:80", "x"}, refused},                   // of no name
		{[]string{"direct", "127.0.0.1:9", "x"}, "connect: connection refused"}, // the sandbox's own
		{[]string{"raw", "192.88.0.9:80", "block"}, "200 GET raw/ 0"},
		{[]string{"raw", "192.88.0.9:80", "six"}, "200 GET raw/ 0"},
		{[]string{"raw", "192.88.0.9:80", "poll"}, "200 GET raw/ 0"},
		{[]string{"raw", evilAddr + ":80", "poll"}, refused},
		{[]string{"raw", evilAddr + ":80", "block"}, "permission denied"},
		{[]string{"raw", evilAddr + ":80", "six"}, "permission denied"},
		{[]string{"raw", "192.88.99.9:80", "block"}, "permission denied"},
		{[]string{"resolve", "ok.test"}, "[198.18."},
		{[]string{"resolve", "localhost"}, "127.0.0.1"},
		{[]string{"udp", "192.88.0.9:53"}, "network is unreachable"},
		{[]string{"flip", "192.88.0.9:80", evilAddr + ":80", "40"}, "connected: true, refused: true"},
	}
	n.dialled.Clear()
	for _, c := range cases {
		got := run(t, s, c.probe[0], c.probe[1:]...)
		if ok := strings.Contains(got, c.want); !ok && c.want != refused || c.want == refused && (strings.Contains(got, "200 ") || got == "") {
			t.Errorf("%q: %s, want %s", c.probe, got, c.want)
		}
	}
	if _, ok := n.dialled.Load(evilAddr); ok {
		t.Error("an address that is not allowed was connected to")
	}
	t.Run("late", func(t *testing.T) { testTransparentLate(t, ctx, n, s) })
	t.Run("kill", func(t *testing.T) { testTransparentKill(t, ctx, n, s) })
	if err := s.Destroy(ctx); err != nil {
		t.Error(err)
	}
	for _, host := range []string{"evil.test", evilAddr, "93.184.216.34", "198.18.99.99"} {
		if !slices.ContainsFunc(s.Egress(), func(e sandbox.Egress) bool { return e.Host == host && e.Decision == "denied" }) {
			t.Errorf("that %s was denied is not on record: %+v", host, s.Egress())
		}
	}
	t.Run("control", func(t *testing.T) { // it is the layer that connects them
		s := start(t, without, b, sandbox.Options{Spec: spec})
		for _, probe := range [][]string{{"direct", "192.88.0.9:80", "x"}, {"direct", "ok.test:80", "ok.test"}, {"raw", "192.88.0.9:80", "poll"}} {
			if got := run(t, s, probe[0], probe[1:]...); strings.Contains(got, "200 GET") {
				t.Errorf("%q without the layer: %s", probe, got)
			}
		}
	})
}

// A program that asked not to wait does not, however long a connection takes, and
// then learns what became of it.
func testTransparentLate(t *testing.T, ctx context.Context, n *internet, s *sandbox.Sandbox) {
	for _, end := range []error{nil, errors.New("no route")} {
		c := s.Command(program, verbPrefix+"raw", "192.88.0.9:5", "late")
		w := &spoken{said: make(chan string, 10)}
		c.Stdout = w
		if err := c.Start(ctx); err != nil {
			t.Fatal(err)
		}
		next(t, n.started)
		if got := next(t, w.said); got != "connected: <nil>" {
			t.Errorf("it said %q", got)
		}
		n.later <- end
		if err := c.Wait(); err != nil {
			t.Error(err)
		}
		if got := strings.Contains(w.part, "200 GET raw/ 0"); got != (end == nil) {
			t.Errorf("of a connection that ended with %v it said %q", end, w.part)
		}
	}
}

// A program that waits for a connection is killed as any other.
func testTransparentKill(t *testing.T, ctx context.Context, n *internet, s *sandbox.Sandbox) {
	for _, how := range []string{"block", "poll"} {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		c := s.Command(program, verbPrefix+"raw", "192.88.0.9:4", how)
		if err := c.Start(ctx); err != nil {
			t.Fatal(err)
		}
		next(t, n.started)
		cancel()
		var ee *sandbox.ExitError
		if err := c.Wait(); !errors.As(err, &ee) || ee.Signal != "SIGKILL" {
			t.Errorf("%s: Wait: %v", how, err)
		}
	}
}
