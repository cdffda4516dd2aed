package kubernetes

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/stepward/stepward/internal/layers"
	"github.com/stepward/stepward/internal/testenv"
	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/sandbox/sandboxtest"
)

// A node makes a volume on its disk for what an image has as VOLUME. Landlock keeps
// commands from it, and where there is none the image is refused.
func TestImageVolumes(t *testing.T) {
	t.Parallel()
	p := newPlace(t, "privileged") // as without a layer
	if p.cluster.Host == "" {
		testenv.Skip(t, testenv.PartKubernetes, "images cannot be made on the cluster of KUBECONFIG")
	}
	tag := p.cluster.Image(t, "volumes", sandboxtest.BuildProbe(t)+":/probe", ":/data")
	spec := sandbox.Spec{Image: tag}
	_, err := sandbox.Start(layers.Without(bounded(t), layers.Landlock), p.backend(), sandbox.Options{Spec: spec})
	var ie *sandbox.ImageError
	if !errors.As(err, &ie) || ie.Image != tag || !strings.Contains(ie.Reason, "VOLUME at /data,") {
		t.Errorf("without Landlock: %v, want an ImageError that names /data", err)
	}
	s, err := sandbox.Start(bounded(t), p.backend(), sandbox.Options{Spec: spec})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Destroy(context.Background()) })
	if s.Enforcement().Landlock == 0 {
		t.Fatal("the node has no Landlock, and makes a sandbox of the image")
	}
	for dir, want := range map[string]string{"/data": "permission denied", "/tmp": "yes"} {
		out, err := s.Command("/probe", "probe:write", dir+"/new").Output(bounded(t))
		if err != nil || !strings.HasSuffix(string(out), want) {
			t.Errorf("a command writes to %s: %s, %v, want %s", dir, out, err, want)
		}
	}
	// The control: it is a volume, and nothing else than Landlock stops it.
	if err := s.WriteFile(bounded(t), "/data/new", []byte("x"), 0o644); err != nil {
		t.Errorf("the tool runner: %v", err)
	}
}
