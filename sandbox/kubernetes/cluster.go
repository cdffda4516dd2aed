package kubernetes

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	authorization "k8s.io/api/authorization/v1"
	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	client "k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/stepward/stepward/internal/runner"
	"github.com/stepward/stepward/sandbox"
)

// A cluster is where sandboxes are made, and who makes them.
type cluster struct {
	rest        *rest.Config
	api         client.Interface
	namespace   string
	runnerImage string
	image       string
	owner       *meta.OwnerReference // of every sandbox, if there is one
}

// serviceAccount is where a pod finds its namespace.
const serviceAccount = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"

// connect returns what is known of the cluster. It asks for the worker's own pod
// the first time, if there is one.
func (b *Backend) connect(ctx context.Context) (*cluster, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.cluster != nil {
		return b.cluster, nil
	}
	c := &cluster{rest: b.config.REST, namespace: b.config.Namespace}
	load := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(clientcmd.NewDefaultClientConfigLoadingRules(), nil)
	if c.rest == nil {
		var err error
		if c.rest, err = load.ClientConfig(); err != nil {
			return nil, unavailable("no cluster is known; set KUBECONFIG or kubernetes.Config.REST, or run in a pod with a service account's token", err)
		}
		if c.namespace == "" {
			c.namespace, _, _ = load.Namespace()
		}
	}
	c.namespace = cmp.Or(c.namespace, meta.NamespaceDefault)
	c.rest = rest.CopyConfig(c.rest)
	if c.rest.QPS == 0 { // the default of 5 a second is for people
		c.rest.QPS, c.rest.Burst = 200, 400
	}
	var err error
	if c.api, err = client.NewForConfig(c.rest); err != nil {
		return nil, unavailable("the configuration of the cluster cannot be used", err)
	}
	c.runnerImage = b.config.RunnerImage
	if err := c.lookAtSelf(ctx); err != nil {
		return nil, err
	}
	if c.runnerImage == "" {
		return nil, unavailable("there is no image to bring the tool runner from; set kubernetes.Config.RunnerImage to the worker's own image", nil)
	}
	c.image = cmp.Or(b.config.Image, c.runnerImage)
	b.cluster = c
	return c, nil
}

// lookAtSelf finds the worker's own pod: its image, and who is to own sandboxes.
// That is what controls the pod rather than the pod, so that sandboxes outlive
// the replacement of one worker by the next.
func (c *cluster) lookAtSelf(ctx context.Context) error {
	raw, err := os.ReadFile(serviceAccount)
	if errors.Is(err, os.ErrNotExist) {
		return nil // not in a pod
	} else if err != nil {
		return unavailable("cannot tell the worker's own namespace", err)
	}
	namespace := strings.TrimSpace(string(raw))
	name, err := os.Hostname()
	if err != nil {
		return unavailable("cannot tell the name of the worker's own pod", err)
	}
	if namespace != c.namespace && c.runnerImage != "" {
		return nil // an owner must be in the same namespace
	}
	pod, err := c.api.CoreV1().Pods(namespace).Get(ctx, name, meta.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil // another cluster's, or the host's name is not the pod's
	} else if err != nil {
		return c.refused("look at the worker's own pod "+name, err)
	}
	c.describeSelf(pod)
	return nil
}

// describeSelf takes over what the worker's own pod says.
func (c *cluster) describeSelf(pod *core.Pod) {
	if c.runnerImage == "" && len(pod.Spec.Containers) == 1 {
		c.runnerImage = pod.Spec.Containers[0].Image
	}
	if pod.Namespace != c.namespace {
		return
	}
	c.owner = &meta.OwnerReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID}
	if by := meta.GetControllerOf(pod); by != nil {
		c.owner = &meta.OwnerReference{APIVersion: by.APIVersion, Kind: by.Kind, Name: by.Name, UID: by.UID}
	}
}

// refused explains an error of the API server.
func (c *cluster) refused(what string, err error) error {
	switch {
	case apierrors.IsForbidden(err) && strings.Contains(err.Error(), "exceeded quota"):
		return unavailable("the quota of namespace "+c.namespace+" has no room to "+what, err)
	case apierrors.IsForbidden(err) && strings.Contains(err.Error(), "violates PodSecurity"):
		return unavailable("the Pod Security of namespace "+c.namespace+" refuses to "+what, err)
	case apierrors.IsForbidden(err):
		return unavailable("the worker may not "+what+" in namespace "+c.namespace+"; examples/kubernetes has the Role that it needs", err)
	case apierrors.IsUnauthorized(err):
		return unavailable("the API server does not know who the worker is", err)
	case apierrors.IsNotFound(err) && strings.Contains(err.Error(), "namespaces"):
		return unavailable("there is no namespace "+c.namespace, err)
	}
	return fmt.Errorf("sandbox: %s: %w", what, err)
}

// A right is something that the worker must be allowed to do in its namespace.
type right struct{ group, resource, subresource, verb string }

func (r right) String() string {
	s := r.resource
	if r.subresource != "" {
		s += "/" + r.subresource
	}
	return r.verb + " " + s
}

var rights = []right{
	{"", "pods", "", "create"}, {"", "pods", "", "get"}, {"", "pods", "", "list"}, {"", "pods", "", "watch"}, {"", "pods", "", "delete"},
	{"", "pods", "portforward", "create"}, {"", "events", "", "list"},
	{"networking.k8s.io", "networkpolicies", "", "list"},
}

// checkRights reports all rights that are missing.
func (c *cluster) checkRights(ctx context.Context) error {
	var missing []string
	for _, r := range rights {
		review, err := c.api.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, &authorization.SelfSubjectAccessReview{
			Spec: authorization.SelfSubjectAccessReviewSpec{ResourceAttributes: &authorization.ResourceAttributes{
				Namespace: c.namespace, Group: r.group, Resource: r.resource, Subresource: r.subresource, Verb: r.verb,
			}},
		}, meta.CreateOptions{})
		if err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			var status apierrors.APIStatus
			if !errors.As(err, &status) {
				return unavailable("no API server answers at "+c.rest.Host, err)
			}
			return c.refused("ask for its rights", err)
		}
		if !review.Status.Allowed {
			missing = append(missing, r.String())
		}
	}
	if len(missing) > 0 {
		return unavailable("the worker lacks rights in namespace "+c.namespace+": "+strings.Join(missing, ", ")+"; examples/kubernetes has the Role that it needs", nil)
	}
	return nil
}

// limits fills in the defaults, and refuses what cannot be enforced.
func (b *Backend) limits(s sandbox.Spec, can sandbox.Capabilities) (sandbox.Limits, error) {
	l := s.Limits
	for _, x := range []struct {
		field    string
		set, can bool
		why      string
	}{
		{"Limits.Memory", l.Memory != 0, can.Memory, "no limit was seen inside a pod that has one"},
		{"Limits.CPU", l.CPU != 0, can.CPU, "no limit was seen inside a pod that has one"},
		{"Limits.PIDs", l.PIDs != 0, can.PIDs, "Kubernetes has no such limit of a pod, and that of the tool runner is not known to hold with RuntimeClass " + b.config.RuntimeClass},
		{"Limits.Disk", l.Disk != 0, can.Disk, "the node gives volumes in memory no size"},
	} {
		if x.set && !x.can {
			return l, unsupported(x.field, x.why)
		}
	}
	if field, reason := runner.TooLow(l.Memory, l.CPU, l.OpenFiles); field != "" {
		return l, unsupported(field, reason)
	}
	if can.Memory {
		l.Memory = cmp.Or(l.Memory, DefaultMemory)
	}
	if can.CPU {
		l.CPU = cmp.Or(l.CPU, DefaultCPU)
	}
	if can.PIDs {
		l.PIDs = cmp.Or(l.PIDs, DefaultPIDs)
	}
	l.Disk = cmp.Or(l.Disk, DefaultDisk)
	l.OpenFiles = cmp.Or(l.OpenFiles, DefaultOpenFiles)
	return l, nil
}
