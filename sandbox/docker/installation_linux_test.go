package docker

import (
	"context"
	"errors"
	"testing"

	"github.com/stepward/stepward/internal/launch"
	"github.com/stepward/stepward/sandbox"
)

// Of two installations that use one engine, with schemas of one name, neither sees, reaches or ends a sandbox of the
// other, nor do workers that make their sandboxes themselves list it. Its own is the control.
func TestInstallations(t *testing.T) {
	b := backend(t)
	t.Cleanup(func() { b.Close() })
	const schema = "of-two"
	ours, theirs := launch.In(t.Context(), "ours"), launch.In(t.Context(), "theirs")
	s, err := sandbox.Start(ours, b, sandbox.Options{Labels: sandbox.Labels{Schema: schema}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Destroy(context.Background(), s.ID()) })
	for name, c := range map[string]struct {
		ctx  context.Context //nolint:containedctx // of a case
		want int
	}{"another's": {theirs, 0}, "nobody's": {t.Context(), 0}, "its own": {ours, 1}} {
		if l, err := b.List(c.ctx, schema); err != nil || len(l) != c.want {
			t.Errorf("%s: listed is %v, %v", name, l, err)
		}
	}
	if c, err := b.Dial(theirs, s.ID()); !errors.Is(err, sandbox.ErrLost) {
		t.Errorf("another's is dialled: %v, %v", c, err)
	}
	if err := b.Destroy(theirs, s.ID()); err != nil {
		t.Errorf("another's is to be destroyed: %v", err)
	}
	if c, err := b.Dial(ours, s.ID()); err != nil {
		t.Errorf("its own: %v", err)
	} else {
		c.Close()
	}
	if err := b.Destroy(ours, s.ID()); err != nil {
		t.Error(err)
	}
	if l, err := b.List(ours, schema); err != nil || len(l) != 0 {
		t.Errorf("its own is left: %v, %v", l, err)
	}
}
