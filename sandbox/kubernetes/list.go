package kubernetes

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/sandbox/kubernetes/internal/shape"
)

// endedGrace is how long a pod that has ended is left for whoever made it to read
// why.
const endedGrace = 10 * time.Second

// probeGrace is how long a probe may take. One that is older, and for which no node
// was found, has no tool runner that could end it.
const probeGrace = 15 * time.Minute

// List returns the sandboxes of an installation, whichever process made them, and
// removes pods of sandboxes that ended by themselves, and of probes whose process
// died.
func (b *Backend) List(ctx context.Context, schema string) ([]sandbox.Listed, error) {
	c, err := b.connect(ctx)
	if err != nil {
		return nil, err
	}
	pods := c.api.CoreV1().Pods(c.namespace)
	list, err := pods.List(ctx, meta.ListOptions{LabelSelector: shape.LabelSandbox + "=true"})
	if err != nil {
		return nil, c.refused("list pods", err)
	}
	var out []sandbox.Listed
	for _, p := range list.Items {
		var l sandbox.Labels
		if err := json.Unmarshal([]byte(p.Annotations[shape.AnnotationLabels]), &l); err != nil {
			continue // not made by this package
		}
		if isLeft(&p, l, time.Now()) {
			err := pods.Delete(ctx, p.Name, meta.DeleteOptions{Preconditions: &meta.Preconditions{UID: &p.UID}})
			if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
				return nil, c.refused("delete pods", err)
			}
		}
		if l.Schema == schema && !hasEnded(&p) {
			out = append(out, sandbox.Listed{ID: p.Annotations[shape.AnnotationID], Labels: l, Created: p.CreationTimestamp.Time})
		}
	}
	slices.SortFunc(out, func(a, b sandbox.Listed) int { return strings.Compare(a.ID, b.ID) })
	return out, nil
}

func hasEnded(p *core.Pod) bool {
	return p.Status.Phase == core.PodFailed || p.Status.Phase == core.PodSucceeded
}

// isLeft reports whether a pod is of no use to anybody any more.
func isLeft(p *core.Pod, l sandbox.Labels, now time.Time) bool {
	since := p.CreationTimestamp.Time
	if !hasEnded(p) {
		return l.Schema == "" && p.Status.Phase == core.PodPending && now.Sub(since) > probeGrace
	}
	for _, s := range p.Status.ContainerStatuses {
		if t := s.State.Terminated; t != nil && t.FinishedAt.After(since) {
			since = t.FinishedAt.Time
		}
	}
	return now.Sub(since) > endedGrace
}

// destroyTimeout bounds how long a node may take to end a pod.
const destroyTimeout = time.Minute

// Destroy ends a sandbox. When it returns, no process of it is left: it waits
// until the node has said so. A node that cannot be reached is an error.
func (b *Backend) Destroy(ctx context.Context, id string) error {
	c, err := b.connect(ctx)
	if err != nil {
		return err
	}
	pods := c.api.CoreV1().Pods(c.namespace)
	pod, err := pods.Get(ctx, shape.PodName(id), meta.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	} else if err != nil {
		return c.refused("get pods", err)
	}
	// Not at once: with a grace period of 0 the API server forgets a pod that
	// still runs. The tool runner ends when it is asked to.
	err = pods.Delete(ctx, pod.Name, meta.DeleteOptions{GracePeriodSeconds: ref(int64(1)), Preconditions: &meta.Preconditions{UID: &pod.UID}})
	if apierrors.IsNotFound(err) {
		return nil
	} else if err != nil {
		return c.refused("delete pods", err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, destroyTimeout, errors.New("the node has not ended it in time"))
	defer cancel()
	changes := make(chan *core.Pod)
	go func() {
		for range changes {
		}
	}()
	err = c.watch(ctx, pod, changes)
	close(changes)
	if errors.Is(err, errGone) {
		return nil
	}
	return fmt.Errorf("sandbox: destroy %s: %w", id, err)
}
