package kubernetes

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	rbac "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/sandbox/kubernetes/internal/shape"
)

// refusal checks that an error is an UnavailableError which says all of parts.
func refusal(t *testing.T, err error, parts ...string) {
	t.Helper()
	var ue *sandbox.UnavailableError
	if !errors.As(err, &ue) || ue.Backend != Name {
		t.Errorf("got %v, want an UnavailableError", err)
		return
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q does not say %q", err, part)
		}
	}
}

// nothingLeft checks that there is no pod.
func (p *place) nothingLeft(t *testing.T) {
	t.Helper()
	if l, err := p.admin.CoreV1().Pods(p.name).List(t.Context(), meta.ListOptions{}); err != nil || len(l.Items) > 0 {
		t.Errorf("%d pods are left, %v", len(l.Items), err)
	}
}

func TestNoCluster(t *testing.T) {
	t.Setenv("KUBECONFIG", t.TempDir()+"/none")
	t.Setenv("HOME", t.TempDir())
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	_, err := New(Config{RunnerImage: "x"}).Probe(t.Context())
	refusal(t, err, "KUBECONFIG")
	_, err = New(Config{REST: &rest.Config{Host: "https://127.0.0.1:1"}}).Probe(t.Context())
	refusal(t, err, "RunnerImage")
	_, err = New(Config{REST: &rest.Config{Host: "https://127.0.0.1:1"}, RunnerImage: "x"}).Probe(t.Context())
	refusal(t, err, "no API server answers", "127.0.0.1:1")
}

// All rights that the worker lacks are named, not the first.
func TestMissingRights(t *testing.T) {
	t.Parallel()
	p := newPlace(t, "restricted")
	roles := p.admin.RbacV1().Roles(p.name)
	role, err := roles.Get(t.Context(), workerAccount, meta.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	role.Rules = []rbac.PolicyRule{{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"create", "get", "list", "delete"}}}
	if _, err := roles.Update(t.Context(), role, meta.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	ctx := bounded(t)
	c, err := p.backend().connect(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for c.checkRights(ctx) == nil { // the authorizer learns of it in its own time
		if ctx.Err() != nil {
			t.Fatal("the worker still has all rights")
		}
	}
	_, err = p.backend().Probe(ctx)
	refusal(t, err, "watch pods", "create pods/portforward", "list events", "list networkpolicies", "examples/kubernetes")
	if strings.Contains(err.Error(), "delete pods") {
		t.Errorf("it names what the worker has: %v", err)
	}
	p.nothingLeft(t)
}

func TestBadImages(t *testing.T) {
	t.Parallel()
	p := newPlace(t, "restricted")
	b := p.backend()
	for image, part := range map[string]string{
		"localhost/stepward-none:1": "", "UPPER/case": "no image reference",
	} {
		if part == "" {
			b = p.backend(func(c *Config) { c.StartTimeout = 20 * time.Second })
		}
		s := creation("image")
		s.Spec.Image = image
		_, err := b.Create(bounded(t), s)
		var ie *sandbox.ImageError
		if !errors.As(err, &ie) || ie.Image != image || !strings.Contains(err.Error(), part) {
			t.Errorf("%s: %v, want an ImageError", image, err)
		}
		t.Log(err)
	}
	p.nothingLeft(t)
}

// What a container's state says becomes an error that says whose fault it is.
func TestAssess(t *testing.T) {
	waiting := func(reason, message string) core.ContainerState {
		return core.ContainerState{Waiting: &core.ContainerStateWaiting{Reason: reason, Message: message}}
	}
	terminated := func(message string) core.ContainerState {
		return core.ContainerState{Terminated: &core.ContainerStateTerminated{ExitCode: 125, Reason: "Error", Message: message}}
	}
	for _, c := range []struct {
		container string
		state     core.ContainerState
		image     bool
		part      string
	}{
		{shape.Main, waiting("ErrImagePull", "no match for platform in manifest: not found"), true, "wrong platform"},
		{shape.Main, waiting("ImagePullBackOff", "docker.io/x:1: not found"), true, "not found"},
		{shape.Installer, waiting("ErrImagePull", "401 unauthorized"), true, "PullSecrets"},
		{shape.Main, waiting("ErrImagePull", "connection reset"), false, ""}, // may pass
		{shape.Main, waiting("ContainerCreating", ""), false, ""},
		{shape.Main, waiting("CreateContainerError", "no disk"), false, "no disk"},
		{shape.Installer, terminated("exec format error"), true, "wrong platform"},
		{shape.Installer, terminated("is dynamic: build it with CGO_ENABLED=0"), false, "CGO_ENABLED=0"},
		{shape.Main, terminated("exec format error"), true, "wrong platform"},
		{shape.Main, terminated("stepward: serve: " + openNetwork + ": x"), false, "does not enforce NetworkPolicy"},
		{shape.Main, terminated("stat " + ProgramPath + ": no such file or directory"), false, "bootstrap.Init"},
	} {
		pod := &core.Pod{Spec: core.PodSpec{InitContainers: []core.Container{{Name: shape.Installer, Image: "a"}}, Containers: []core.Container{{Name: shape.Main, Image: "b"}}}}
		status := []core.ContainerStatus{{Name: c.container, State: c.state}}
		if c.container == shape.Installer {
			pod.Status.InitContainerStatuses = status
		} else {
			pod.Status.ContainerStatuses = status
		}
		running, err := assess(pod)
		var ie *sandbox.ImageError
		switch {
		case running:
			t.Errorf("%+v: it runs", c)
		case c.part == "":
			if err != nil {
				t.Errorf("%+v: %v", c, err)
			}
		case errors.As(err, &ie) != c.image || !strings.Contains(err.Error(), c.part):
			t.Errorf("%+v: %v", c, err)
		}
	}
	if running, err := assess(&core.Pod{Status: core.PodStatus{ContainerStatuses: []core.ContainerStatus{{State: core.ContainerState{Running: &core.ContainerStateRunning{}}}}}}); !running || err != nil {
		t.Errorf("a pod that runs: %v, %v", running, err)
	}
	_, err := assess(&core.Pod{Status: core.PodStatus{Phase: core.PodFailed, Reason: "OutOfcpu"}})
	refusal(t, err, "OutOfcpu")
}

// A node that is slow tells of an image in its events, long before in the pod's status.
func TestNotPulled(t *testing.T) {
	pod := &core.Pod{Spec: core.PodSpec{
		InitContainers: []core.Container{{Name: shape.Installer, Image: "a"}}, Containers: []core.Container{{Name: shape.Main, Image: "b"}},
	}}
	warning := func(kind, container, reason, message string) core.Event {
		return core.Event{Reason: reason, Message: message, InvolvedObject: core.ObjectReference{FieldPath: "spec." + kind + "{" + container + "}"}}
	}
	invalid := warning("containers", shape.Main, "Failed", `Failed to pull image "b": invalid reference format`)
	refused := warning("initContainers", shape.Installer, "Failed", `Failed to pull image "a": connection refused`)
	for _, c := range []struct {
		events []core.Event
		image  string
		parts  []string
	}{
		{[]core.Event{invalid, warning("containers", shape.Main, "Failed", "Error: ErrImagePull")}, "b", []string{"is no image reference", `pull image "b"`}},
		{[]core.Event{refused, warning("initContainers", shape.Installer, "Failed", "Error: ImagePullBackOff")}, "a", []string{"cannot be pulled", "connection refused"}},
		{[]core.Event{refused, invalid, warning("initContainers", shape.Installer, "Failed", "Error: ImagePullBackOff")}, "a", []string{"connection refused"}},
		{[]core.Event{warning("containers", shape.Main, "Failed", "Error: ErrImagePull")}, "b", []string{"cannot be pulled"}},
		{[]core.Event{refused, warning("containers", shape.Main, "BackOff", "restarting")}, "", nil}, // it was pulled since
		{nil, "", nil},
	} {
		err := notPulled(pod, c.events)
		var ie *sandbox.ImageError
		if c.image == "" {
			if err != nil {
				t.Errorf("%v: %v", c.events, err)
			}
			continue
		}
		if !errors.As(err, &ie) || ie.Image != c.image {
			t.Errorf("%v: %v, want it of image %s", c.events, err, c.image)
		}
		for _, part := range c.parts {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%v, want it to say %q", err, part)
			}
		}
	}
}

func TestNoRoom(t *testing.T) {
	t.Parallel()
	p := newPlace(t, "restricted")
	if _, err := p.backend().Probe(bounded(t)); err != nil {
		t.Fatal(err)
	}
	b := p.backend(func(c *Config) {
		c.NodeSelector = map[string]string{"stepward.test": "no-node-has-it"}
		c.StartTimeout = 3 * time.Second
	})
	_, err := b.Create(bounded(t), creation("no-node"))
	refusal(t, err, "3s", "no node takes it", "node")

	quota := &core.ResourceQuota{ObjectMeta: meta.ObjectMeta{Name: "none"}, Spec: core.ResourceQuotaSpec{Hard: core.ResourceList{core.ResourcePods: resource.MustParse("0")}}}
	if _, err := p.admin.CoreV1().ResourceQuotas(p.name).Create(t.Context(), quota, meta.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	ctx := bounded(t)
	for { // until the quota has been counted
		q, err := p.admin.CoreV1().ResourceQuotas(p.name).Get(ctx, "none", meta.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if len(q.Status.Hard) > 0 {
			break
		}
	}
	_, err = p.backend().Create(ctx, creation("no-quota"))
	refusal(t, err, "quota", "none")
	p.nothingLeft(t)
}

// What cannot be enforced is refused before there is a pod.
func TestRefused(t *testing.T) {
	p := newPlace(t, "restricted")
	b := p.backend()
	b.found = nil
	can, err := b.Probe(bounded(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", can)
	if !can.Memory || !can.CPU || !can.Disk || !can.PIDs || !can.Seccomp {
		t.Errorf("the cluster can do less than it should: %+v", can)
	}
	for field, l := range map[string]sandbox.Limits{
		"Limits.Memory": {Memory: 1}, "Limits.PIDs": {PIDs: 5}, "Limits.CPU": {CPU: 1}, "Limits.Disk": {Disk: 1 << 20},
	} {
		_, err := b.limits(sandbox.Spec{Limits: l}, sandbox.Capabilities{Memory: field == "Limits.Memory"})
		var ue *sandbox.UnsupportedError
		if !errors.As(err, &ue) || ue.Field != field {
			t.Errorf("%s: %v", field, err)
		}
	}
}

// A policy that allows sandboxes something is not worked beside.
func TestNetworkThatIsAllowed(t *testing.T) {
	t.Parallel()
	p := newPlace(t, "restricted")
	allow := &networking.NetworkPolicy{ObjectMeta: meta.ObjectMeta{Name: "all-may-all"}, Spec: networking.NetworkPolicySpec{
		PolicyTypes: []networking.PolicyType{networking.PolicyTypeEgress}, Egress: []networking.NetworkPolicyEgressRule{{}},
	}}
	if _, err := p.admin.NetworkingV1().NetworkPolicies(p.name).Create(t.Context(), allow, meta.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	_, err := p.backend().Create(bounded(t), creation("allowed"))
	refusal(t, err, "all-may-all")
	p.nothingLeft(t)
}

// Without the policy, and without the right to make it, there is no sandbox: with
// the right it is made.
func TestMissingPolicy(t *testing.T) {
	t.Parallel()
	p := newPlace(t, "restricted")
	policies := p.admin.NetworkingV1().NetworkPolicies(p.name)
	if err := policies.Delete(t.Context(), policyName, meta.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	_, err := p.backend().Create(bounded(t), creation("no-policy"))
	refusal(t, err, "create networkpolicies")
	p.nothingLeft(t)
	p.rest.Impersonate.UserName = ""
	c, err := p.backend().connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := c.closeNetwork(t.Context(), podLabels(sandbox.Labels{})); err != nil {
			t.Error(err)
		}
	}
	if _, err := policies.Get(t.Context(), policyName, meta.GetOptions{}); err != nil {
		t.Error(err)
	}
}

// A network that stays open is no sandbox's. The label that the policy selects by
// is taken away, as if nobody enforced it; the tool runner sees through that.
func TestNetworkThatStaysOpen(t *testing.T) {
	t.Parallel()
	p := newPlace(t, "restricted")
	b := p.backend()
	if _, err := b.Probe(bounded(t)); err != nil {
		t.Fatal(err)
	}
	c, err := b.connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	limits, err := b.limits(sandbox.Spec{}, b.found.can)
	if err != nil {
		t.Fatal(err)
	}
	pod, err := b.describe(t.Context(), c, *b.found, limits, creation("open"))
	if err != nil {
		t.Fatal(err)
	}
	delete(pod.Labels, shape.LabelNetwork)
	made, err := c.api.CoreV1().Pods(p.name).Create(t.Context(), pod, meta.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = b.await(bounded(t), c, made)
	refusal(t, err, "does not enforce NetworkPolicy")
	if err := b.Destroy(context.WithoutCancel(t.Context()), "open"); err != nil {
		t.Error(err)
	}
}

// A server that accepts, and does not answer, holds up nobody for longer than he
// waits.
func TestDialIsCanceled(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	b := New(Config{REST: &rest.Config{Host: "http://" + ln.Addr().String()}, RunnerImage: "x"})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	failed := make(chan error, 1)
	go func() {
		_, err := b.Dial(ctx, "x")
		failed <- err
	}()
	conn, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Read(make([]byte, 1)); err != nil { // the request is there
		t.Fatal(err)
	}
	cancel()
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Errorf("Dial: %v, want Canceled", err)
	}
}
