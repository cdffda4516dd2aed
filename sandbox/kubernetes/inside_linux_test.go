package kubernetes

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A worker in a pod needs no configuration: it finds the cluster, its namespace and
// its image, and deleting it leaves nothing.
func TestInside(t *testing.T) {
	p := newPlace(t, "restricted")
	program := filepath.Join(t.TempDir(), "worker")
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", program, "./internal/inside")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	image := p.cluster.Image(t, "inside", program+":/worker")
	pods := p.admin.CoreV1().Pods(p.name)
	ctx := bounded(t)
	worker := &core.Pod{
		ObjectMeta: meta.ObjectMeta{Name: "worker"},
		Spec: core.PodSpec{
			ServiceAccountName: workerAccount, RestartPolicy: core.RestartPolicyNever,
			SecurityContext: podSecurity(false),
			Containers:      []core.Container{{Name: "worker", Image: image, ImagePullPolicy: core.PullIfNotPresent, SecurityContext: containerSecurity()}},
		},
	}
	worker, err := pods.Create(ctx, worker, meta.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	changes, err := pods.Watch(ctx, meta.ListOptions{FieldSelector: "metadata.name=worker"})
	if err != nil {
		t.Fatal(err)
	}
	defer changes.Stop()
	for ev := range changes.ResultChan() {
		if pod, ok := ev.Object.(*core.Pod); ok && pod.Status.Phase != core.PodPending {
			break
		}
	}
	log, err := pods.GetLogs("worker", &core.PodLogOptions{Follow: true}).Stream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	line, err := bufio.NewReader(log).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "ready: w/1/2/3/k:hello on "+image+"@sha256:") {
		t.Fatalf("the worker: %q, %v", line, err)
	}
	box, err := pods.Get(ctx, podName("inside"), meta.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(box.OwnerReferences) != 1 || box.OwnerReferences[0].UID != worker.UID {
		t.Errorf("owners of the sandbox: %+v", box.OwnerReferences)
	}
	gone, err := pods.Watch(ctx, meta.ListOptions{FieldSelector: "metadata.name=" + box.Name})
	if err != nil {
		t.Fatal(err)
	}
	defer gone.Stop()
	if err := pods.Delete(ctx, "worker", meta.DeleteOptions{GracePeriodSeconds: ref(int64(1))}); err != nil {
		t.Fatal(err)
	}
	for ev := range gone.ResultChan() {
		if ev.Type == "DELETED" {
			break
		}
	}
	if l, err := pods.List(ctx, meta.ListOptions{LabelSelector: labelSandbox}); err != nil || len(l.Items) > 0 {
		t.Errorf("%d sandboxes are left, %v", len(l.Items), err)
	}
}
