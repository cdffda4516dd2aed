package kubernetes

import (
	"slices"
	"strings"
	"testing"

	authorization "k8s.io/api/authorization/v1"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

// The manifests are ones that a cluster takes, and the worker's account cannot get
// into a sandbox by them.
func TestManifests(t *testing.T) {
	t.Parallel()
	p := newPlace(t, "restricted")
	var kinds []string
	for _, o := range manifests(t) {
		kinds = append(kinds, o.GetKind())
		switch o.GetKind() {
		case "Namespace":
			if got := o.GetLabels()["pod-security.kubernetes.io/enforce"]; got != "restricted" {
				t.Errorf("Pod Security of the namespace: %q", got)
			}
		case "ResourceQuota":
			p.apply(t, o)
		case "Deployment":
			p.apply(t, o)
			p.admits(t, o)
		}
	}
	for _, kind := range []string{"Namespace", "NetworkPolicy", "ServiceAccount", "Role", "RoleBinding", "ResourceQuota", "Deployment"} {
		if !slices.Contains(kinds, kind) {
			t.Errorf("no %s among %q", kind, kinds)
		}
	}
	may := func(group, resource, subresource, verb string) bool {
		review, err := p.admin.AuthorizationV1().SubjectAccessReviews().Create(t.Context(), &authorization.SubjectAccessReview{
			Spec: authorization.SubjectAccessReviewSpec{User: p.rest.Impersonate.UserName, ResourceAttributes: &authorization.ResourceAttributes{
				Namespace: p.name, Group: group, Resource: resource, Subresource: subresource, Verb: verb,
			}},
		}, meta.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return review.Status.Allowed
	}
	for _, r := range rights {
		if !may(r.group, r.resource, r.subresource, r.verb) {
			t.Errorf("the worker may not %s", r)
		}
	}
	for _, what := range []string{"pods/exec", "pods/attach", "pods/ephemeralcontainers", "pods/log", "pods/proxy", "pods/", "secrets/", "configmaps/", "serviceaccounts/token", "serviceaccounts/"} {
		resource, subresource, _ := strings.Cut(what, "/")
		for _, verb := range []string{"create", "get", "update", "patch"} {
			if what == "pods/" && (verb == "create" || verb == "get") {
				continue
			}
			if may("", resource, subresource, verb) {
				t.Errorf("the worker may %s %s", verb, what)
			}
		}
	}
	for _, verb := range []string{"create", "update", "patch", "delete"} {
		if may("networking.k8s.io", "networkpolicies", "", verb) {
			t.Errorf("the worker may %s networkpolicies", verb)
		}
	}
}

// admits checks that the namespace takes the pods of a Deployment.
func (p *place) admits(t *testing.T, o *unstructured.Unstructured) {
	t.Helper()
	template, ok, err := unstructured.NestedMap(o.Object, "spec", "template")
	if !ok || err != nil {
		t.Fatal("no template", err)
	}
	pod := &core.Pod{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(template, pod); err != nil {
		t.Fatal(err)
	}
	pod.GenerateName = "worker-"
	if _, err := p.admin.CoreV1().Pods(p.name).Create(t.Context(), pod, meta.CreateOptions{DryRun: []string{meta.DryRunAll}}); err != nil {
		t.Errorf("its pods: %v", err)
	}
}
