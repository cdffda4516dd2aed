package attest

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	authorization "k8s.io/api/authorization/v1"
	core "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"

	"github.com/stepward/stepward/identity/broker"
)

// Who could have pods made in any namespace, or approve a certificate of anyone, is refused; the control may nothing.
func TestRightsEverywhere(t *testing.T) {
	for right, want := range map[string]string{
		"":                                "",
		"create//pods/":                   "create pods everywhere",
		"create//replicationcontrollers/": "create replicationcontrollers everywhere",
		"create/apps/deployments/":        "create deployments everywhere",
		"create/apps/daemonsets/":         "create daemonsets everywhere",
		"create/apps/statefulsets/":       "create statefulsets everywhere",
		"create/apps/replicasets/":        "create replicasets everywhere",
		"create/batch/jobs/":              "create jobs everywhere",
		"create/batch/cronjobs/":          "create cronjobs everywhere",
		"patch/certificates.k8s.io/certificatesigningrequests/approval": "patch certificatesigningrequests/approval everywhere",
	} {
		api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			var out any
			switch {
			case strings.HasSuffix(r.URL.Path, "/serviceaccounts"):
				out = map[string]any{"kind": "ServiceAccountList", "apiVersion": "v1"}
			case strings.HasSuffix(r.URL.Path, "/subjectaccessreviews"):
				var review authorization.SubjectAccessReview
				if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
					t.Error(err)
				}
				a := review.Spec.ResourceAttributes
				review.Kind, review.APIVersion = "SubjectAccessReview", "authorization.k8s.io/v1"
				review.Status.Allowed = a.Namespace == "" && strings.Join([]string{a.Verb, a.Group, a.Resource, a.Subresource}, "/") == right
				out = review
			default:
				ns := core.Namespace{}
				ns.Kind, ns.APIVersion, ns.Name = "Namespace", "v1", "boxes"
				ns.Labels = map[string]string{"pod-security.kubernetes.io/enforce": "restricted"}
				out = ns
			}
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(out)
		}))
		a, err := New(Config{REST: &rest.Config{Host: api.URL, ContentConfig: rest.ContentConfig{ContentType: "application/json"}}, Namespace: "boxes", Worker: "boxes/worker", ProofKey: "k", RunnerImage: "i"})
		if err != nil {
			t.Fatal(err)
		}
		err = a.rights(t.Context())
		if (err == nil) != (want == "") || want != "" && (!errors.Is(err, broker.ErrDenied) || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: got %v", right, err)
		}
		api.Close()
	}
}

// A pod may have any amount of what every pod has, and no device.
func TestDiffersResources(t *testing.T) {
	spec := &core.PodSpec{Containers: []core.Container{{Name: "tool"}}}
	for resources, want := range map[string]string{
		`{}`: "",
		`{"limits":{"cpu":"2","memory":"1Gi","ephemeral-storage":"1Gi"},"requests":{"cpu":"1"}}`: "",
		`{"limits":{"nvidia.com/gpu":"1"}}`:    "containers/resources/limits/nvidia.com/gpu",
		`{"requests":{"hugepages-2Mi":"2Mi"}}`: "containers/resources/requests/hugepages-2Mi",
		`{"claims":[{"name":"x"}]}`:            "containers/resources/claims",
		`[]`:                                   "containers/resources",
	} {
		var got map[string]any
		if err := json.Unmarshal([]byte(`{"containers":[{"name":"tool","resources":`+resources+`}]}`), &got); err != nil {
			t.Fatal(err)
		}
		err := differs(got, spec)
		if (err == nil) != (want == "") || want != "" && !strings.HasSuffix(err.Error(), "spec."+want) {
			t.Errorf("%s: got %v", resources, err)
		}
	}
}
