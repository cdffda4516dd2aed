package kubernetes

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	client "k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/stepward/stepward/internal/testenv"
	"github.com/stepward/stepward/sandbox/sandboxtest"
	"github.com/stepward/stepward/worker/bootstrap"
)

func TestMain(m *testing.M) {
	sandboxtest.Init()
	bootstrap.Config{Broker: bootstrap.FileStore(os.Getenv(envStore))}.Init()
	if config, ok := os.LookupEnv(envVictim); ok {
		os.Exit(mainOfVictim(config))
	}
	if door, ok := os.LookupEnv(envRelay); ok {
		fmt.Fprintln(os.Stderr, relayTo(door))
		os.Exit(1)
	}
	flag.Parse()
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue {
		// Those that are parallel wait for the cluster most of the time.
		if err := flag.Set("test.parallel", "8"); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}

// A place is a namespace of a real cluster, with the policy, the account and the
// rights of examples/kubernetes.
type place struct {
	cluster testenv.Cluster
	admin   client.Interface
	rest    *rest.Config // the worker's
	name    string
	image   string // of the suite's program
}

// workerAccount is the worker's in examples/kubernetes.
const workerAccount = "stepward-worker"

// newPlace makes a namespace. Only a test that leaves layers out needs one where
// pods may be privileged.
func newPlace(t testing.TB, podSecurity string) *place {
	t.Helper()
	p := &place{cluster: testenv.Kubernetes(t)}
	config, err := clientcmd.BuildConfigFromFlags("", p.cluster.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	if p.admin, err = client.NewForConfig(config); err != nil {
		t.Fatal(err)
	}
	known.Lock()
	if known.image == "" {
		known.image = p.cluster.Image(t, "suite", sandboxtest.BuildProbe(t)+":/probe")
	}
	p.image = known.image
	known.Unlock()
	ns, err := p.admin.CoreV1().Namespaces().Create(t.Context(), &core.Namespace{ObjectMeta: meta.ObjectMeta{
		GenerateName: "stepward-test-", Labels: map[string]string{"pod-security.kubernetes.io/enforce": podSecurity},
	}}, meta.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	p.name = ns.Name
	t.Cleanup(func() {
		if err := p.admin.CoreV1().Namespaces().Delete(context.Background(), p.name, meta.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	for _, o := range manifests(t) {
		switch o.GetKind() {
		case "Role", "RoleBinding", "ServiceAccount", "NetworkPolicy":
			p.apply(t, o)
		}
	}
	p.rest = as(config, "system:serviceaccount:"+p.name+":"+workerAccount)
	p.awaitRights(t)
	p.lookOnce(t)
	return p
}

// awaitRights waits until the authorizer has learned of the Role, which it does in
// its own time.
func (p *place) awaitRights(t testing.TB) {
	t.Helper()
	ctx := bounded(t)
	c, err := p.backend().connect(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for {
		err := c.checkRights(ctx)
		if err == nil {
			return
		}
		if ctx.Err() != nil || !strings.Contains(err.Error(), "lacks rights") {
			t.Fatal(err)
		}
	}
}

// backend is one that has the worker's rights.
func (p *place) backend(change ...func(*Config)) *Backend {
	c := Config{REST: p.rest, Namespace: p.name, RunnerImage: p.image}
	for _, f := range change {
		f(&c)
	}
	b := New(c)
	known.Lock()
	defer known.Unlock()
	b.found = known.found
	return b
}

// known is what was brought to the cluster and found out about it, once for all
// tests: TestRefused looks again.
var known struct {
	sync.Mutex
	image string
	*found
}

func (p *place) lookOnce(t testing.TB) {
	t.Helper()
	known.Lock()
	defer known.Unlock()
	if known.found != nil {
		return
	}
	f, err := New(Config{REST: p.rest, Namespace: p.name, RunnerImage: p.image}).findings(bounded(t))
	if err != nil {
		t.Fatal(err)
	}
	known.found = &f
}

// manifests are the objects of examples/kubernetes.
func manifests(t testing.TB) []*unstructured.Unstructured { return objects(t, "stepward.yaml") }

// objects are those of a file of examples/kubernetes.
func objects(t testing.TB, file string) []*unstructured.Unstructured {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("..", "..", "examples", "kubernetes", file))
	if err != nil {
		t.Fatal(err)
	}
	var all []*unstructured.Unstructured
	d := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(raw), 4<<10)
	for {
		o := &unstructured.Unstructured{}
		if err := d.Decode(o); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, o)
	}
}

// paths are where the API has the kinds of examples/kubernetes.
var paths = map[string]string{
	"Role":           "/apis/rbac.authorization.k8s.io/v1/namespaces/%s/roles",
	"RoleBinding":    "/apis/rbac.authorization.k8s.io/v1/namespaces/%s/rolebindings",
	"ServiceAccount": "/api/v1/namespaces/%s/serviceaccounts",
	"NetworkPolicy":  "/apis/networking.k8s.io/v1/namespaces/%s/networkpolicies",
	"ResourceQuota":  "/api/v1/namespaces/%s/resourcequotas",
	"Deployment":     "/apis/apps/v1/namespaces/%s/deployments",

	"ClusterRole":        "/apis/rbac.authorization.k8s.io/v1/clusterroles",
	"ClusterRoleBinding": "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
}

// apply makes an object in the namespace.
func (p *place) apply(t testing.TB, o *unstructured.Unstructured) {
	t.Helper()
	path := paths[o.GetKind()]
	if strings.Contains(path, "%s") {
		o.SetNamespace(p.name)
		path = fmt.Sprintf(path, p.name)
	}
	if subjects, ok, _ := unstructured.NestedSlice(o.Object, "subjects"); ok {
		subjects[0].(map[string]any)["namespace"] = p.name
		if err := unstructured.SetNestedSlice(o.Object, subjects, "subjects"); err != nil {
			t.Fatal(err)
		}
	}
	body, err := o.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	err = p.admin.CoreV1().RESTClient().Post().AbsPath(path).
		Param("fieldValidation", "Strict").SetHeader("Content-Type", "application/json").Body(body).Do(t.Context()).Error()
	if err != nil {
		t.Fatalf("%s %s: %v", o.GetKind(), o.GetName(), err)
	}
}

// bounded is a context for what a busy node may take long for.
func bounded(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func TestBackend(t *testing.T) {
	p := newPlace(t, "restricted")
	sandboxtest.TestBackend(t, p.backend(), sandboxtest.Options{Show: p.shows})
}

func TestEgress(t *testing.T) {
	sandboxtest.TestEgress(t, newPlace(t, "restricted").backend(), sandboxtest.Options{})
}

func TestLeak(t *testing.T) {
	sandboxtest.TestLeak(t, newPlace(t, "restricted").backend(), sandboxtest.Options{})
}
