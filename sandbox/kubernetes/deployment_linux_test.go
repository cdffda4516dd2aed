package kubernetes

import (
	"context"
	"crypto/rand"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/stepward/stepward/internal/testenv"
	"github.com/stepward/stepward/sandbox/kubernetes/internal/onboarding"
	"github.com/stepward/stepward/sandbox/kubernetes/internal/shape"
	"github.com/stepward/stepward/workflow"
)

// The Deployment of examples/kubernetes executes a workflow, whose step is a pod, as the
// account and with the rights that the manifests give, and with nothing configured: it
// finds the cluster, its namespace and its image. Deleting it leaves nothing.
func TestDeployment(t *testing.T) {
	t.Parallel()
	p := newPlace(t, "restricted")
	if p.cluster.Host == "" {
		testenv.Skip(t, testenv.PartKubernetes, "the database of the test is out of reach of the cluster of KUBECONFIG")
	}
	pool, database := p.database(t)
	client, err := workflow.NewClient(workflow.ClientConfig{Pool: pool})
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(t.TempDir(), "worker")
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", program, "./internal/onboarding/worker")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	image := p.cluster.Image(t, "worker", program+":/worker")
	ctx := bounded(t) // from here: what is built may take longer than all the rest
	secret := &core.Secret{ObjectMeta: meta.ObjectMeta{Name: "stepward-database"}, StringData: map[string]string{"url": database}}
	if _, err := p.admin.CoreV1().Secrets(p.name).Create(ctx, secret, meta.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, o := range manifests(t) {
		switch o.GetKind() {
		case "Deployment":
			containers, ok, err := unstructured.NestedSlice(o.Object, "spec", "template", "spec", "containers")
			if !ok || err != nil || len(containers) != 1 {
				t.Fatalf("containers: %v, %v", containers, err)
			}
			containers[0].(map[string]any)["image"] = image
			if err := unstructured.SetNestedSlice(o.Object, containers, "spec", "template", "spec", "containers"); err != nil {
				t.Fatal(err)
			}
			p.apply(t, o)
		case "ResourceQuota":
			p.apply(t, o)
		}
	}
	t.Cleanup(func() {
		if t.Failed() {
			p.tell(t)
		}
	})
	greeting, err := onboarding.Onboarding.Enqueue(ctx, client, "ada", workflow.EnqueueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if out, err := greeting.Result(ctx); err != nil || out != "hello, ada, from a sandbox" {
		t.Fatalf("%q, %v", out, err)
	}
	if _, err := onboarding.Onboarding.Enqueue(ctx, client, "", workflow.EnqueueOptions{}); err != nil {
		t.Fatal(err)
	}
	pods := p.admin.CoreV1().Pods(p.name)
	list := func(selector string) []core.Pod {
		l, err := pods.List(ctx, meta.ListOptions{LabelSelector: selector})
		if err != nil {
			t.Fatal(err)
		}
		return l.Items
	}
	const ofRun = shape.LabelSandbox + "," + shape.LabelRun + "!=0"
	eventually(t, "a customer keeps a sandbox", func() bool { l := list(ofRun); return len(l) == 1 && l[0].Status.Phase == core.PodRunning })
	sets, err := p.admin.AppsV1().ReplicaSets(p.name).List(ctx, meta.ListOptions{})
	if err != nil || len(sets.Items) != 1 {
		t.Fatalf("%d replica sets, %v", len(sets.Items), err)
	}
	if box := list(ofRun)[0]; len(box.OwnerReferences) != 1 || box.OwnerReferences[0].UID != sets.Items[0].UID || box.Spec.Containers[0].Image != image {
		t.Errorf("a sandbox of image %s, owned by %+v", box.Spec.Containers[0].Image, box.OwnerReferences)
	}
	const workers = "app.kubernetes.io/name=stepward-worker"
	for _, w := range list(workers) {
		if w.Spec.ServiceAccountName != workerAccount {
			t.Errorf("a worker is %q", w.Spec.ServiceAccountName)
		}
	}
	if err := p.admin.AppsV1().Deployments(p.name).Delete(ctx, "stepward-worker", meta.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "nothing is left of it", func() bool {
		if err := pods.DeleteCollection(ctx, meta.DeleteOptions{GracePeriodSeconds: ref(int64(1))}, meta.ListOptions{LabelSelector: workers}); err != nil { // they need not drain
			t.Fatal(err)
		}
		return len(list("")) == 0
	})
}

// database makes one that pods reach, and returns its address for them.
func (p *place) database(t *testing.T) (pool *pgxpool.Pool, address string) {
	t.Helper()
	name := "t_kube_" + strings.ToLower(rand.Text()[:10])
	admin, err := pgxpool.New(t.Context(), testenv.PostgresURL(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := admin.Exec(context.Background(), "DROP DATABASE "+pgx.Identifier{name}.Sanitize()+" WITH (FORCE)"); err != nil {
			t.Error(err)
		}
		admin.Close()
	})
	if _, err := admin.Exec(t.Context(), "CREATE DATABASE "+pgx.Identifier{name}.Sanitize()); err != nil {
		t.Fatal(err)
	}
	pc := admin.Config()
	pc.ConnConfig.Database = name
	if pool, err = pgxpool.NewWithConfig(t.Context(), pc); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	if err := workflow.Migrate(t.Context(), pool, workflow.MigrateOptions{}); err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", net.JoinHostPort(p.cluster.Host, "0"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	go relay(ln, pc.ConnConfig)
	u := url.URL{Scheme: "postgres", Host: ln.Addr().String(), Path: name, User: url.UserPassword(pc.ConnConfig.User, pc.ConnConfig.Password), RawQuery: "sslmode=disable"}
	return pool, u.String()
}

// relay passes connections on to a server that listens elsewhere, a unix socket for one.
func relay(ln net.Listener, to *pgx.ConnConfig) {
	for {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			network, address := pgconn.NetworkAddress(to.Host, to.Port)
			server, err := net.Dial(network, address)
			if err != nil {
				return
			}
			defer server.Close()
			go func() {
				_, _ = io.Copy(server, conn)
				_ = server.Close()
			}()
			_, _ = io.Copy(conn, server)
		}()
	}
}

// tell logs what there is in the namespace.
func (p *place) tell(t *testing.T) {
	l, err := p.admin.CoreV1().Pods(p.name).List(context.Background(), meta.ListOptions{})
	if err != nil {
		t.Error(err)
		return
	}
	for _, pod := range l.Items {
		log, err := p.admin.CoreV1().Pods(p.name).GetLogs(pod.Name, &core.PodLogOptions{Container: pod.Spec.Containers[0].Name}).DoRaw(context.Background())
		t.Logf("%s: %s %v\n%s", pod.Name, pod.Status.Phase, err, log)
	}
}
