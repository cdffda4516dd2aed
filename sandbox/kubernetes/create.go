package kubernetes

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"

	"github.com/stepward/stepward/internal/layers"
	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/sandbox/kubernetes/internal/shape"
)

// Create makes a pod and returns when its network is closed and its tool runner
// answers.
func (b *Backend) Create(ctx context.Context, s sandbox.Creation) (sandbox.Enforcement, error) {
	f, err := b.findings(ctx)
	if err != nil {
		return sandbox.Enforcement{}, err
	}
	c, err := b.connect(ctx)
	if err != nil {
		return sandbox.Enforcement{}, err
	}
	limits, err := b.limits(s.Spec, f.can)
	if err != nil {
		return sandbox.Enforcement{}, err
	}
	pod, err := b.start(ctx, c, f, limits, s)
	if err != nil {
		return sandbox.Enforcement{}, err
	}
	off := layers.Off(ctx)
	e := sandbox.Enforcement{
		Backend: Name, Isolation: f.can.Isolation, Image: imageOf(pod), Network: "none", UserNS: f.can.UserNS,
		Landlock: f.can.Landlock, Seccomp: f.can.Seccomp && !off.Has(layers.Seccomp), NoNewPrivs: true,
		Capabilities: "none", ReadOnlyRoot: true, Limits: limits,
	}
	if off.Has(layers.Landlock) {
		e.Landlock = 0
	}
	if off.Has(layers.Network) {
		e.Network = "open"
	}
	return e, nil
}

// imageOf returns the image of the sandbox, with its digest if the node says it.
func imageOf(pod *core.Pod) string {
	for _, s := range pod.Status.ContainerStatuses {
		if s.Name != shape.Main {
			continue
		}
		if strings.Contains(s.ImageID, "@") || s.ImageID == "" {
			return cmp.Or(s.ImageID, s.Image)
		}
		return s.Image + "@" + s.ImageID
	}
	return ""
}

// createTimeout bounds how long the API server may take to accept a pod.
const createTimeout = 30 * time.Second

// start makes a pod and waits until it can be dialled. When it fails the pod is
// gone again.
func (b *Backend) start(ctx context.Context, c *cluster, f found, limits sandbox.Limits, s sandbox.Creation) (*core.Pod, error) {
	pod, err := b.describe(ctx, c, f, limits, s)
	if err != nil {
		return nil, err
	}
	if !layers.Off(ctx).Has(layers.Network) {
		if err := c.closeNetwork(ctx, pod.Labels); err != nil {
			return nil, err
		}
	}
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	// Not ended by ctx, or the API server might make a pod after we have gone: one
	// that nobody knows of. What ctx has ended is destroyed below.
	making, cancel := context.WithTimeout(context.WithoutCancel(ctx), createTimeout)
	defer cancel()
	made, err := c.api.CoreV1().Pods(c.namespace).Create(making, pod, meta.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil, fmt.Errorf("sandbox: %s exists on backend kubernetes: %w", s.ID, err)
	} else if err != nil {
		err = c.refused("create pods", err)
	} else if made, err = b.await(ctx, c, made); err == nil {
		return made, nil
	}
	var refused *sandbox.UnavailableError
	if made == nil && errors.As(err, &refused) {
		return nil, err // there never was one
	}
	undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), destroyTimeout)
	defer cancel()
	if derr := b.Destroy(undo, s.ID); derr != nil {
		err = fmt.Errorf("%w (and destroying it: %w)", err, derr)
	}
	return nil, err
}

// await waits until the tool runner of a pod that was just made answers.
func (b *Backend) await(ctx context.Context, c *cluster, pod *core.Pod) (*core.Pod, error) {
	bound := cmp.Or(b.config.StartTimeout, defaultStartTimeout)
	waiting, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	ready := make(chan error, 1)
	dialing := false
	last := pod
	explain := func(err error) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if waiting.Err() != nil {
			return c.tooLate(ctx, last, bound)
		}
		return err
	}
	changes := make(chan *core.Pod)
	tick := time.NewTicker(2 * time.Second)
	defer tick.Stop()
	watching := make(chan error, 1)
	go func() { watching <- c.watch(waiting, pod, changes) }()
	for {
		select {
		case last = <-changes:
			if last.DeletionTimestamp != nil {
				return last, fmt.Errorf("%w: pod %s was deleted", sandbox.ErrLost, last.Name)
			}
			running, err := assess(last)
			if err != nil {
				return last, err
			}
			if running && !dialing {
				dialing = true
				go func() { ready <- c.reach(waiting, last.Name) }()
			}
		case <-tick.C:
			if dialing {
				continue
			}
			if err := hopeless(latest(c.warnings(waiting, last))); err != nil {
				return last, err
			}
		case err := <-watching:
			return last, explain(err)
		case err := <-ready:
			if err != nil {
				return last, explain(err)
			}
			return last, nil
		}
	}
}

// watch sends the pod whenever it changes, beginning with how it is, until ctx
// ends or the pod is gone.
func (c *cluster) watch(ctx context.Context, pod *core.Pod, changes chan<- *core.Pod) error {
	send := func(p *core.Pod) error {
		if p.UID != pod.UID {
			return errGone
		}
		select {
		case changes <- p:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	pods := c.api.CoreV1().Pods(c.namespace)
	version := pod.ResourceVersion
	for {
		w, err := pods.Watch(ctx, meta.ListOptions{
			FieldSelector: fields.OneTermEqualSelector("metadata.name", pod.Name).String(), ResourceVersion: version,
		})
		if err != nil && !apierrors.IsResourceExpired(err) && !apierrors.IsGone(err) {
			return c.refused("watch pods", err)
		}
		if err == nil {
			for ev := range w.ResultChan() {
				p, ok := ev.Object.(*core.Pod)
				if !ok {
					break // an error: begin again
				}
				if err := send(p); err != nil || ev.Type == "DELETED" {
					w.Stop()
					return cmp.Or(err, errGone)
				}
			}
			w.Stop()
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		p, err := pods.Get(ctx, pod.Name, meta.GetOptions{})
		if apierrors.IsNotFound(err) {
			return errGone
		} else if err != nil {
			return c.refused("get pods", err)
		}
		if err := send(p); err != nil {
			return err
		}
		version = p.ResourceVersion
	}
}

var errGone = errors.New("the pod is gone")
