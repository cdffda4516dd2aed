package attest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	authorization "k8s.io/api/authorization/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stepward/stepward/identity/broker"
)

// lookEvery is how long what was found about rights is gone by.
const lookEvery = 15 * time.Second

// A right is one by which its owner would get into a sandbox, or get a token like its own.
type right struct {
	verbs, group, resource, subresource string
	everywhere                          bool // in all namespaces, or of no namespace
}

func (r right) name(verb string) string {
	s := verb + " " + r.resource
	if r.subresource != "" {
		s += "/" + r.subresource
	}
	if r.everywhere {
		s += " everywhere"
	}
	return s
}

const rbac = "rbac.authorization.k8s.io"

var forbidden = []right{
	{verbs: "create get", resource: "pods", subresource: "exec"},
	{verbs: "create get", resource: "pods", subresource: "attach"},
	{verbs: "update patch", resource: "pods", subresource: "ephemeralcontainers"},
	{verbs: "update patch", resource: "pods"},                            // of another image
	{verbs: "create", resource: "serviceaccounts", subresource: "token"}, // tied to any pod
	{verbs: "impersonate", resource: "serviceaccounts"},                  // to be who has one of these
	{verbs: "impersonate", resource: "users", everywhere: true},          //
	{verbs: "impersonate", resource: "groups", everywhere: true},         //
	{verbs: "escalate bind", group: rbac, resource: "roles"},             // to make oneself that
	{verbs: "bind", group: rbac, resource: "clusterroles"},               //
	{verbs: "escalate", group: rbac, resource: "clusterroles", everywhere: true},
	{verbs: "update patch", resource: "namespaces"},                         // without Pod Security
	{verbs: "create", resource: "pods", everywhere: true},                   // where there is none
	{verbs: "create", resource: "replicationcontrollers", everywhere: true}, // whose pods others make
	{verbs: "create", group: "apps", resource: "deployments", everywhere: true},
	{verbs: "create", group: "apps", resource: "daemonsets", everywhere: true},
	{verbs: "create", group: "apps", resource: "statefulsets", everywhere: true},
	{verbs: "create", group: "apps", resource: "replicasets", everywhere: true},
	{verbs: "create", group: "batch", resource: "jobs", everywhere: true},
	{verbs: "create", group: "batch", resource: "cronjobs", everywhere: true},
	{verbs: "update patch", group: "certificates.k8s.io", resource: "certificatesigningrequests", subresource: "approval", everywhere: true}, // to be anyone
	{verbs: "create get", resource: "nodes", subresource: "proxy", everywhere: true},                                                         // to ask the kubelet for it
	{verbs: "create", resource: "persistentvolumes", everywhere: true},                                                                       // of the node's disk
	{verbs: "create update patch", group: "admissionregistration.k8s.io", resource: "mutatingwebhookconfigurations", everywhere: true},
}

// rights looks at what must not be allowed in the cluster, unless it has just been.
func (a *Attestor) rights(ctx context.Context) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if time.Since(a.looked) < lookEvery {
		return a.verdict
	}
	err := a.look(ctx)
	if err == nil || errors.Is(err, broker.ErrDenied) {
		a.verdict, a.looked = err, time.Now()
	}
	return err
}

func (a *Attestor) look(ctx context.Context) error {
	ns, err := a.api.CoreV1().Namespaces().Get(ctx, a.config.Namespace, meta.GetOptions{})
	if err != nil {
		return fmt.Errorf("attest: look at namespace %s: %w", a.config.Namespace, err)
	}
	if at := ns.Labels["pod-security.kubernetes.io/enforce"]; at != "restricted" && at != "baseline" {
		return denied("namespace %s enforces Pod Security %q, and so lets the worker make privileged pods: want restricted", ns.Name, at)
	}
	accounts, err := a.api.CoreV1().ServiceAccounts(ns.Name).List(ctx, meta.ListOptions{})
	if err != nil {
		return fmt.Errorf("attest: list the accounts of namespace %s: %w", ns.Name, err)
	}
	all := map[string]bool{a.config.Worker: true}
	for _, s := range accounts.Items {
		all[ns.Name+"/"+s.Name] = true // which a pod that the worker makes can have
	}
	for account := range all {
		for _, r := range forbidden {
			if err := a.check(ctx, account, r); err != nil {
				return err
			}
		}
	}
	return nil
}

// check reports a right that an account has.
func (a *Attestor) check(ctx context.Context, account string, r right) error {
	namespace, name, _ := strings.Cut(account, "/")
	spec := authorization.SubjectAccessReviewSpec{
		User:   "system:serviceaccount:" + namespace + ":" + name,
		Groups: []string{"system:serviceaccounts", "system:serviceaccounts:" + namespace, "system:authenticated"},
	}
	for verb := range strings.FieldsSeq(r.verbs) {
		spec.ResourceAttributes = &authorization.ResourceAttributes{Verb: verb, Group: r.group, Resource: r.resource, Subresource: r.subresource}
		if !r.everywhere {
			spec.ResourceAttributes.Namespace = a.config.Namespace
		}
		review, err := a.api.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorization.SubjectAccessReview{Spec: spec}, meta.CreateOptions{})
		if err != nil {
			return fmt.Errorf("attest: ask what %s may do: %w", account, err)
		}
		if review.Status.Allowed || review.Status.EvaluationError != "" && !review.Status.Denied {
			if !review.Status.Allowed {
				return fmt.Errorf("attest: ask what %s may do: %s", account, review.Status.EvaluationError)
			}
			return denied("service account %s may %s", account, r.name(verb))
		}
	}
	return nil
}
