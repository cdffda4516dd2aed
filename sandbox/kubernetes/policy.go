package kubernetes

import (
	"context"
	"fmt"
	"slices"

	networking "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/stepward/stepward/sandbox/kubernetes/internal/shape"
)

// policyName is the NetworkPolicy that closes the network of sandboxes.
const policyName = "stepward-sandboxes"

// denyAll selects all sandboxes and allows nothing.
func denyAll() *networking.NetworkPolicy {
	return &networking.NetworkPolicy{
		ObjectMeta: meta.ObjectMeta{Name: policyName},
		Spec: networking.NetworkPolicySpec{
			PodSelector: meta.LabelSelector{MatchLabels: map[string]string{shape.LabelNetwork: shape.NetworkNone}},
			PolicyTypes: []networking.PolicyType{networking.PolicyTypeIngress, networking.PolicyTypeEgress},
		},
	}
}

// closeNetwork sees to it that a policy is there which forbids sandboxes all, and
// none that allows them anything.
func (c *cluster) closeNetwork(ctx context.Context, pod map[string]string) error {
	closed, err := c.networkClosed(ctx, pod)
	if err != nil || closed {
		return err
	}
	_, err = c.api.NetworkingV1().NetworkPolicies(c.namespace).Create(ctx, denyAll(), meta.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return c.refused("create networkpolicies", err)
	}
	closed, err = c.networkClosed(ctx, pod) // whoever made it
	if err == nil && !closed {
		err = unavailable("NetworkPolicy "+policyName+" of namespace "+c.namespace+" is not the one that examples/kubernetes has", nil)
	}
	return err
}

func (c *cluster) networkClosed(ctx context.Context, pod map[string]string) (bool, error) {
	list, err := c.api.NetworkingV1().NetworkPolicies(c.namespace).List(ctx, meta.ListOptions{})
	if err != nil {
		return false, c.refused("list networkpolicies", err)
	}
	var closes []networking.PolicyType
	for _, p := range list.Items {
		selector, err := meta.LabelSelectorAsSelector(&p.Spec.PodSelector)
		if err != nil {
			return false, fmt.Errorf("sandbox: NetworkPolicy %s: %w", p.Name, err)
		}
		if !selector.Matches(labels.Set(pod)) {
			continue
		}
		if len(p.Spec.Ingress)+len(p.Spec.Egress) > 0 {
			return false, unavailable("NetworkPolicy "+p.Name+" of namespace "+c.namespace+" allows sandboxes traffic; give them a namespace of their own", nil)
		}
		closes = append(closes, p.Spec.PolicyTypes...)
	}
	return slices.Contains(closes, networking.PolicyTypeIngress) && slices.Contains(closes, networking.PolicyTypeEgress), nil
}
