package kubernetes

import (
	"testing"

	"github.com/stepward/stepward/internal/testenv"
	"github.com/stepward/stepward/sandbox/sandboxtest"
)

// Without a user namespace the id of a sandbox is the node's as well: what keeps
// it from others' files is that it is nobody's, so that is what is switched off.
// The node must be this machine, whose files and processes the probes look for.
func TestLayers(t *testing.T) {
	p := newOpenPlace(t)
	sandboxtest.TestLayers(t, p.backend(), sandboxtest.Options{Host: p.cluster.Host})
}

func TestEscape(t *testing.T) {
	p := newOpenPlace(t)
	sandboxtest.TestEscape(t, p.backend(), sandboxtest.Options{Host: p.cluster.Host})
}

// newOpenPlace makes a place where a test may leave layers out.
func newOpenPlace(t *testing.T) *place {
	t.Helper()
	p := newPlace(t, "privileged")
	if p.cluster.Host == "" {
		testenv.Skip(t, testenv.PartKubernetes, "the cluster of KUBECONFIG is not one that services/kube/up started here")
	}
	return p
}
