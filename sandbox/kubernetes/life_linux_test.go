package kubernetes

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/sandbox/kubernetes/internal/shape"
)

const testToken = "a token of the life tests"

func creation(id string) sandbox.Creation {
	return sandbox.Creation{
		ID: id, TokenHash: sha256.Sum256([]byte(testToken)), OrphanAfter: time.Minute,
		Labels: sandbox.Labels{Schema: "life-" + id, Database: "17-5", Session: -5, Run: 3, Step: "a/b[1]", Attempt: 2, Epoch: 4},
	}
}

// TestSandboxOutlivesWorker kills a process that made a sandbox and holds a
// connection to it; this process dials the sandbox and goes on.
func TestSandboxOutlivesWorker(t *testing.T) {
	const id = "outlive-" // a name may not end so
	if namespace := os.Getenv("KUBE_TEST_NAMESPACE"); namespace != "" {
		b := New(Config{Namespace: namespace, RunnerImage: os.Getenv("KUBE_TEST_IMAGE")})
		if _, err := b.Create(t.Context(), creation(id)); err != nil {
			t.Fatal(err)
		}
		if _, _, _, err := b.hello(t.Context(), id, []byte(testToken)); err != nil {
			t.Fatal(err)
		}
		proc, err := os.FindProcess(os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		_ = proc.Kill()
		select {}
	}
	p := newPlace(t, "restricted")
	c := exec.CommandContext(bounded(t), "/proc/self/exe", "-test.run=^TestSandboxOutlivesWorker$")
	c.Env = append(os.Environ(), "KUBE_TEST_NAMESPACE="+p.name, "KUBE_TEST_IMAGE="+p.image, "KUBECONFIG="+p.cluster.Kubeconfig)
	out, err := c.CombinedOutput()
	if err == nil || !strings.Contains(err.Error(), "killed") {
		t.Fatalf("the worker was not killed: %v\n%s", err, out)
	}
	b := p.backend()
	_, conn, hello, err := b.hello(bounded(t), id, []byte(testToken))
	if err != nil {
		t.Fatalf("dial what another process made: %v", err)
	}
	conn.Close()
	if !hello.Seccomp || !hello.NoNewPrivs || hello.Capabilities {
		t.Errorf("the runner found %v", hello)
	}
	listed, err := b.List(t.Context(), "life-"+id)
	if err != nil || len(listed) != 1 || listed[0].ID != id || listed[0].Labels != creation(id).Labels {
		t.Errorf("List: %+v, %v", listed, err)
	}
	if err := b.Destroy(bounded(t), id); err != nil {
		t.Error(err)
	}
	if pod, err := p.admin.CoreV1().Pods(p.name).Get(t.Context(), shape.PodName(id), meta.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("a pod is left: %v, %v", pod.Name, err)
	}
	if _, err := b.Dial(t.Context(), id); !errors.Is(err, sandbox.ErrLost) {
		t.Errorf("Dial: %v, want ErrLost", err)
	}
}

// Whoever may read a pod learns neither the token of its tool runner nor anything of
// the worker's environment.
func TestPodShowsNothing(t *testing.T) {
	p := newPlace(t, "restricted")
	t.Setenv("SUITE_LEAK", "worker-secret")
	s := creation("shown")
	if _, err := p.backend().Create(bounded(t), s); err != nil {
		t.Fatal(err)
	}
	raw := p.shows(t, s.ID)
	encodings := []string{testToken, base64.StdEncoding.EncodeToString([]byte(testToken)), hex.EncodeToString([]byte(testToken)), "worker-secret"}
	for _, secret := range encodings {
		if bytes.Contains(raw, []byte(secret)) {
			t.Errorf("%q is in %s", secret, raw)
		}
	}
}

// shows returns what the cluster tells of a sandbox.
func (p *place) shows(t *testing.T, id string) []byte {
	t.Helper()
	pod, err := p.admin.CoreV1().Pods(p.name).Get(t.Context(), shape.PodName(id), meta.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	events, err := p.admin.CoreV1().Events(p.name).List(t.Context(), meta.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal([]any{pod, events})
	if err != nil || !bytes.Contains(raw, []byte(shape.LabelSandbox)) {
		t.Fatalf("%s, %v", raw, err)
	}
	return raw
}

// A worker that is interrupted while a pod starts does not leave it behind.
func TestCreateIsCanceled(t *testing.T) {
	t.Parallel()
	p := newPlace(t, "restricted")
	b := p.backend()
	if _, err := b.Probe(bounded(t)); err != nil {
		t.Fatal(err)
	}
	w, err := p.admin.CoreV1().Pods(p.name).Watch(t.Context(), meta.ListOptions{LabelSelector: shape.LabelSandbox})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	ctx, cancel := context.WithCancel(bounded(t))
	defer cancel()
	failed := make(chan error, 1)
	go func() {
		_, err := b.Create(ctx, creation("canceled"))
		failed <- err
	}()
	for ev := range w.ResultChan() {
		if pod, ok := ev.Object.(*core.Pod); ok && pod.Name == shape.PodName("canceled") {
			break
		}
	}
	cancel()
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Errorf("a canceled Create: %v", err)
	}
	if l, err := p.admin.CoreV1().Pods(p.name).List(t.Context(), meta.ListOptions{}); err != nil || len(l.Items) > 0 {
		t.Errorf("%d pods stay, %v", len(l.Items), err)
	}
}

// A pod is owned by what controls the worker's pod, so that deleting that leaves
// nothing.
func TestOwner(t *testing.T) {
	t.Parallel()
	p := newPlace(t, "restricted")
	b := p.backend()
	c, err := b.connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	owner, err := p.admin.CoreV1().ConfigMaps(p.name).Create(t.Context(), &core.ConfigMap{ObjectMeta: meta.ObjectMeta{Name: "owner"}}, meta.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	self := &core.Pod{ObjectMeta: meta.ObjectMeta{Name: "worker", UID: "own", Namespace: p.name, OwnerReferences: []meta.OwnerReference{
		{APIVersion: "v1", Kind: "Secret", Name: "other", UID: "other"},
		{APIVersion: "v1", Kind: "ConfigMap", Name: owner.Name, UID: owner.UID, Controller: ref(true)},
	}}, Spec: core.PodSpec{Containers: []core.Container{{Image: "own-image"}}}}
	c.describeSelf(self)
	if _, err := b.Create(bounded(t), creation("owned")); err != nil {
		t.Fatal(err)
	}
	w, err := p.admin.CoreV1().Pods(p.name).Watch(bounded(t), meta.ListOptions{FieldSelector: "metadata.name=" + shape.PodName("owned")})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	if err := p.admin.CoreV1().ConfigMaps(p.name).Delete(t.Context(), owner.Name, meta.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	for ev := range w.ResultChan() {
		if ev.Type == "DELETED" {
			break
		}
	}
	if l, err := p.admin.CoreV1().Pods(p.name).List(t.Context(), meta.ListOptions{LabelSelector: shape.LabelSandbox}); err != nil || len(l.Items) > 0 {
		t.Errorf("%d sandboxes outlive their owner, %v", len(l.Items), err)
	}
	// A pod that nothing controls owns them itself, and says what the image is.
	self.OwnerReferences = nil
	alone := &cluster{namespace: p.name}
	alone.describeSelf(self)
	if alone.owner == nil || alone.owner.Kind != "Pod" || alone.owner.UID != "own" || alone.runnerImage != "own-image" {
		t.Errorf("alone: %+v, image %s", alone.owner, alone.runnerImage)
	}
	elsewhere := &cluster{namespace: "other"}
	elsewhere.describeSelf(self)
	if elsewhere.owner != nil {
		t.Errorf("an owner in another namespace: %+v", elsewhere.owner)
	}
}

// A pod that ended by itself is removed by a List, whoever made it, once its maker
// had time to read why.
func TestOrphanIsRemoved(t *testing.T) {
	t.Parallel()
	p := newPlace(t, "restricted")
	b := p.backend()
	s := creation("orphan")
	s.OrphanAfter = 5 * time.Second // time for Create to reach it
	if _, err := b.Create(bounded(t), s); err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	ctx := bounded(t)
	for {
		listed, err := b.List(ctx, s.Labels.Schema)
		if err != nil {
			t.Fatal(err)
		}
		l, err := p.admin.CoreV1().Pods(p.name).List(ctx, meta.ListOptions{LabelSelector: shape.LabelSandbox})
		if err != nil {
			t.Fatal(err)
		}
		if len(listed) == 0 && len(l.Items) == 0 {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("listed: %v; %d pods", listed, len(l.Items))
		}
	}
}

// A sandbox that used too much memory as a whole says so when it is dialled.
func TestWhyEnded(t *testing.T) {
	pod := &core.Pod{Spec: core.PodSpec{Containers: []core.Container{{Resources: New(Config{}).resources(sandbox.Limits{Memory: 128 << 20})}}}}
	pod.Status.ContainerStatuses = []core.ContainerStatus{{State: core.ContainerState{Terminated: &core.ContainerStateTerminated{Reason: "OOMKilled"}}}}
	if got := whyEnded(pod); !strings.Contains(got, "Limits.Memory, 128Mi") {
		t.Errorf("%q", got)
	}
	pod.Status.ContainerStatuses[0].State.Terminated.Reason = "Error"
	if got := whyEnded(pod); !strings.Contains(got, "status 0") {
		t.Errorf("%q", got)
	}
	now := meta.Now()
	if got := whyEnded(&core.Pod{ObjectMeta: meta.ObjectMeta{DeletionTimestamp: &now}}); got == "" {
		t.Error("a pod that is being deleted")
	}
	if got := fmt.Sprint(whyEnded(&core.Pod{Status: core.PodStatus{Phase: core.PodFailed, Reason: "Evicted", Message: "disk"}})); got != "Evicted disk" {
		t.Errorf("%q", got)
	}
}

// What is left of processes that died, and nothing else, is removed.
func TestIsLeft(t *testing.T) {
	now := time.Now()
	for _, c := range []struct {
		schema string
		phase  core.PodPhase
		age    time.Duration // of the pod
		ended  time.Duration // of its end
		want   bool
	}{
		{"s", core.PodRunning, 24 * time.Hour, 0, false},
		{"s", core.PodPending, 24 * time.Hour, 0, false}, // it has a row, by which it is swept
		{"", core.PodPending, probeGrace - time.Second, 0, false},
		{"", core.PodPending, probeGrace + time.Second, 0, true},
		{"", core.PodRunning, probeGrace + time.Second, 0, false},
		{"", core.PodFailed, time.Minute, endedGrace + time.Second, true},
		{"s", core.PodSucceeded, time.Minute, endedGrace + time.Second, true},
		{"s", core.PodSucceeded, time.Minute, endedGrace - time.Second, false}, // its maker reads why
		{"s", core.PodFailed, endedGrace + time.Second, 0, true},               // it never ran
	} {
		pod := &core.Pod{ObjectMeta: meta.ObjectMeta{CreationTimestamp: meta.NewTime(now.Add(-c.age))}, Status: core.PodStatus{Phase: c.phase}}
		if c.ended != 0 {
			pod.Status.ContainerStatuses = []core.ContainerStatus{{State: core.ContainerState{Terminated: &core.ContainerStateTerminated{FinishedAt: meta.NewTime(now.Add(-c.ended))}}}}
		}
		if got := isLeft(pod, sandbox.Labels{Schema: c.schema}, now); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
}
