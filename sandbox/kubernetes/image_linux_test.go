package kubernetes

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stepward/stepward/internal/testenv"
	"github.com/stepward/stepward/sandbox"
)

// A tag that moves changes no pod that is there, and what a pod is made of is on record.
// Who names an image by its digest does not get what the tag says by then.
func TestMovedTag(t *testing.T) {
	t.Parallel()
	p := newPlace(t, "restricted")
	if p.cluster.Host == "" {
		testenv.Skip(t, testenv.PartKubernetes, "images cannot be moved on the cluster of KUBECONFIG")
	}
	move := func(which string) (tag string) {
		file := filepath.Join(t.TempDir(), "which")
		if err := os.WriteFile(file, []byte(which), 0o644); err != nil {
			t.Fatal(err)
		}
		return p.cluster.Image(t, "moving", file+":/which")
	}
	b := p.backend(func(c *Config) { c.StartTimeout = 20 * time.Second })
	start := func(image string) (*sandbox.Sandbox, error) {
		s, err := sandbox.Start(bounded(t), b, sandbox.Options{Spec: sandbox.Spec{Image: image}})
		if err == nil {
			t.Cleanup(func() { _ = s.Destroy(context.Background()) })
		}
		return s, err
	}
	is := func(s *sandbox.Sandbox, want string) {
		t.Helper()
		if got, err := fs.ReadFile(s.FS(), "which"); err != nil || string(got) != want {
			t.Errorf("the image is %q, %v, want %s", got, err, want)
		}
	}
	tag := move("first")
	first, err := start(tag)
	if err != nil {
		t.Fatal(err)
	}
	if move("second") != tag {
		t.Fatal("it is another tag")
	}
	second, err := start(tag)
	if err != nil {
		t.Fatal(err)
	}
	is(first, "first") // as one of a pool is
	is(second, "second")
	was, now := first.Enforcement().Image, second.Enforcement().Image
	if was == now || !strings.HasPrefix(was, tag+"@sha256:") || !strings.HasPrefix(now, tag+"@sha256:") {
		t.Errorf("on record are %s and %s", was, now)
	}
	_, err = start(was)
	var ie *sandbox.ImageError
	if !errors.As(err, &ie) || ie.Image != was {
		t.Errorf("%s: %v, want an ImageError", was, err)
	}
}
