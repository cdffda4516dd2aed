package kubernetes

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	authentication "k8s.io/api/authentication/v1"
	authorization "k8s.io/api/authorization/v1"
	core "k8s.io/api/core/v1"
	rbac "k8s.io/api/rbac/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/stepward/stepward/identity"
	"github.com/stepward/stepward/identity/broker"
	"github.com/stepward/stepward/internal/envelope"
	"github.com/stepward/stepward/internal/envelope/seal"
	"github.com/stepward/stepward/internal/testenv"
	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/sandbox/kubernetes/attest"
	"github.com/stepward/stepward/sandbox/kubernetes/internal/shape"
	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

// otherUser is nobody's.
const otherUser = 65519

// envRelay makes the test binary pass connections on to the socket of a broker, as the user that it runs as.
const envRelay = "KUBE_TEST_RELAY"

func relayTo(door string) error {
	ln, err := net.FileListener(os.NewFile(3, "door"))
	if err != nil {
		return err
	}
	for {
		c, err := ln.Accept()
		if err != nil {
			return err
		}
		d, err := net.Dial("unix", door)
		if err != nil {
			return err
		}
		go func() { _, _ = io.Copy(d, c); _ = d.Close() }()
		go func() { _, _ = io.Copy(c, d); _ = c.Close() }()
	}
}

// attests gives the broker its account and rights, and returns the configuration of its attestor.
func (p *place) attests(t *testing.T, key string) attest.Config {
	t.Helper()
	for _, o := range objects(t, "broker.yaml") {
		switch o.GetKind() {
		case "Namespace":
			continue
		case "ClusterRole", "ClusterRoleBinding":
			o.SetName(o.GetName() + "-" + p.name)
			if _, ok, _ := unstructured.NestedMap(o.Object, "roleRef"); ok {
				if err := unstructured.SetNestedField(o.Object, o.GetName(), "roleRef", "name"); err != nil {
					t.Fatal(err)
				}
			}
			path, name := paths[o.GetKind()], o.GetName()
			t.Cleanup(func() {
				if err := p.admin.CoreV1().RESTClient().Delete().AbsPath(path, name).Do(context.Background()).Error(); err != nil {
					t.Error(err)
				}
			})
		}
		p.apply(t, o)
	}
	return attest.Config{
		REST: as(p.rest, "system:serviceaccount:"+p.name+":stepward-broker"), Namespace: p.name, Worker: p.name + "/" + workerAccount,
		RunnerImage: p.image, ProofKey: key,
	}
}

// fresh is an attestor that remembers nothing.
type fresh struct{ attest.Config }

func (f fresh) Attest(ctx context.Context, sandbox string, secret []byte) error {
	a, err := attest.New(f.Config)
	if err == nil {
		err = a.Attest(ctx, sandbox, secret)
	}
	return err
}

// canaries is a store with one secret.
type canaries struct{}

const canaryOfL2 = "s3cr3t-canary-of-level-2"

func (canaries) Get(context.Context, broker.Request) (broker.Value, error) {
	return broker.Value{Bytes: []byte(canaryOfL2), Version: "1"}, nil
}

var (
	proven = workflow.DurableWorkflow[string, string]{Name: "proven"}

	// useSecret has a command use it, and looks for what the pod has proven itself with.
	useSecret = workflow.NewToolStep("use", func(ctx context.Context, sb *sandbox.Sandbox, _ string) (string, error) {
		c := sb.Command(ProgramPath, "probe:getenv", "TOKEN")
		c.Secrets = []string{"TOKEN"}
		out, err := c.Output(ctx)
		if err != nil {
			return "", err
		}
		left, err := fs.ReadDir(sb.FS(), "stepward-witness")
		if err != nil || len(left) > 0 {
			return "", workflow.Permanent(errors.Join(errors.New("something is left of the token"), err))
		}
		if _, err := fs.Stat(sb.FS(), "var/run/stepward"); !errors.Is(err, fs.ErrNotExist) {
			return "", workflow.Permanent(errors.Join(errors.New("the token is there"), err))
		}
		return string(out), nil
	}, workflow.StepOptions{Mode: workflow.Identity, Secrets: []string{"TOKEN"}})

	provenV1 = workflow.Define(proven, func(ctx workflow.Context, in string) (string, error) {
		return useSecret.Run(ctx, in)
	}, workflow.Options{Version: "1", Steps: []workflow.Declared{useSecret}})
)

// A secret that demands L2 gets into a pod that has proven itself, and not when the worker's account could get into
// pods: then the refusal says so, and it is delivered when that is over.
func TestAttested(t *testing.T) {
	t.Parallel()
	testenv.Require(t, testenv.PartRoot)
	p := newPlace(t, "restricted")
	dir, err := os.MkdirTemp("", "broker") // short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	keys, door := filepath.Join(dir, "key"), filepath.Join(dir, "s")
	key, err := broker.ProofKey(keys)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	in, attestor := p.install(t), fresh{p.attests(t, key)}
	profiles, err := identity.New(in.pool, identity.Options{Schema: in.schema})
	if err != nil {
		t.Fatal(err)
	}
	if err := profiles.Put(t.Context(), identity.Profile{Name: "acme", Scope: identity.Scope{Tenant: "acme"}, Keys: map[string]identity.Key{
		"TOKEN": {Ref: "one://x", Commands: []string{ProgramPath}, MinLevel: identity.L2},
	}}); err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("unix", door)
	if err == nil {
		err = os.Chmod(door, 0o666)
	}
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() {
		served <- broker.Serve(ctx, ln, broker.Config{
			Pool: in.pool, Schema: in.schema, Dir: keys, Peers: []uint32{otherUser},
			Stores: map[string]broker.Store{"one": canaries{}}, Attestors: map[string]broker.Attestor{Name: attestor},
		})
	}()
	t.Cleanup(func() {
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	address := asOther(t, dir, door)
	in.work(worker.Config{
		Workflows: []*workflow.Definition{provenV1}, Broker: address,
		Backends: []sandbox.Backend{p.backend(func(c *Config) { c.ProofKey = key })},
	})
	enqueue := func() workflow.Run[string] {
		run, err := proven.Enqueue(t.Context(), in.client, "now", workflow.EnqueueOptions{Tenant: "acme"})
		if err != nil {
			t.Fatal(err)
		}
		return run
	}
	sum := sha256.Sum256([]byte(canaryOfL2))
	want := hex.EncodeToString(sum[:8])
	if out, err := enqueue().Result(bounded(t)); err != nil || out != want {
		t.Fatalf("%q, %v", out, err)
	}
	if n := in.count("SELECT count(*) FROM stepward.issue WHERE level = 'L2'"); n != 1 {
		t.Errorf("%d envelopes of level L2", n)
	}
	p.allow(t, "intruder", workerAccount, rbac.PolicyRule{APIGroups: []string{""}, Resources: []string{"pods/exec"}, Verbs: []string{"create"}})
	run := enqueue()
	eventually(t, "it is refused, as the worker may get into pods", func() bool {
		var said string
		err := in.pool.QueryRow(t.Context(), in.sql("SELECT coalesce(string_agg(convert_from(detail, 'UTF8'), ' '), '') FROM stepward.event WHERE run_id = $1 AND kind = 'envelope.refused'"), run.ID).Scan(&said)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Contains(said, "demands level L2") && strings.Contains(said, "may create pods/exec")
	})
	if n := in.count("SELECT count(*) FROM stepward.issue"); n != 1 {
		t.Errorf("%d envelopes", n)
	}
}

// asOther passes connections on to the broker as another user, and returns where.
func asOther(t *testing.T, dir, door string) (address string) {
	t.Helper()
	path := filepath.Join(dir, "r")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	ln.(*net.UnixListener).SetUnlinkOnClose(false)
	f, err := ln.(*net.UnixListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	c := exec.Command("/proc/self/exe")
	c.Env, c.Dir, c.Stderr, c.ExtraFiles = []string{envRelay + "=" + door}, "/", os.Stderr, []*os.File{f}
	c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: otherUser, Gid: otherUser}}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Process.Kill()
		_ = c.Wait() // killed
	})
	return "unix://" + path
}

// allow gives an account of the namespace a right, and waits until that is known.
func (p *place) allow(t *testing.T, name, account string, rule rbac.PolicyRule) {
	t.Helper()
	role := &rbac.Role{ObjectMeta: meta.ObjectMeta{Name: name}, Rules: []rbac.PolicyRule{rule}}
	binding := &rbac.RoleBinding{
		ObjectMeta: meta.ObjectMeta{Name: name}, RoleRef: rbac.RoleRef{APIGroup: rbac.GroupName, Kind: "Role", Name: name},
		Subjects: []rbac.Subject{{Kind: "ServiceAccount", Name: account, Namespace: p.name}},
	}
	if _, err := p.admin.RbacV1().Roles(p.name).Create(t.Context(), role, meta.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := p.admin.RbacV1().RoleBindings(p.name).Create(t.Context(), binding, meta.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	resource, subresource, _ := strings.Cut(rule.Resources[0], "/")
	eventually(t, "the authorizer knows", func() bool {
		review, err := p.admin.AuthorizationV1().SubjectAccessReviews().Create(t.Context(), &authorization.SubjectAccessReview{
			Spec: authorization.SubjectAccessReviewSpec{User: "system:serviceaccount:" + p.name + ":" + account, ResourceAttributes: &authorization.ResourceAttributes{
				Namespace: p.name, Verb: rule.Verbs[0], Group: rule.APIGroups[0], Resource: resource, Subresource: subresource,
			}},
		}, meta.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return review.Status.Allowed
	})
}

// forbid takes it away.
func (p *place) forbid(t *testing.T, name string) {
	t.Helper()
	if err := p.admin.RbacV1().RoleBindings(p.name).Delete(t.Context(), name, meta.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
}

// token is one that a pod would get; audience and pod may be wrong ones.
func (p *place) token(t *testing.T, pod *core.Pod, audience string) []byte {
	t.Helper()
	request := &authentication.TokenRequest{Spec: authentication.TokenRequestSpec{Audiences: []string{audience}}}
	if pod != nil {
		request.Spec.BoundObjectRef = &authentication.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID}
	}
	r, err := p.admin.CoreV1().ServiceAccounts(p.name).CreateToken(t.Context(), "default", request, meta.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return []byte(r.Status.Token)
}

// The proof of a pod is the token of its pod, sealed for the broker together with the attempt and the key in the hello:
// with another key or attempt beside it, it is none, and nobody else can open it.
func TestProof(t *testing.T) {
	t.Parallel()
	p := newPlace(t, "restricted")
	ours, err := seal.NewProofKey(bytes.Repeat([]byte{1}, 32))
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := seal.NewProofKey(bytes.Repeat([]byte{2}, 32))
	if err != nil {
		t.Fatal(err)
	}
	key := base64.StdEncoding.EncodeToString(ours.Public())
	s, err := sandbox.Start(bounded(t), p.backend(func(c *Config) { c.ProofKey = key }), sandbox.Options{ID: "proof"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Destroy(context.Background()) })
	facts := envelope.Facts{Tenant: "acme", Run: 1, Attempt: 1, Sandbox: "proof", Nonce: [32]byte{1}}
	broker, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := s.Secrets().Key(bounded(t), facts.Encode(), broker)
	if err != nil {
		t.Fatal(err)
	}
	hello, err := envelope.ReadHello(raw)
	if err != nil {
		t.Fatal(err)
	}
	token, err := ours.Open(hello, facts)
	if err != nil {
		t.Fatal(err)
	}
	a := fresh{p.attests(t, key)}
	eventually(t, "it is attested, when the authorizer knows the broker", func() bool { err = a.Attest(t.Context(), "proof", token); return err == nil })
	if bytes.Contains(raw, token) {
		t.Error("the worker sees the token")
	}
	swapped, another, attempt := hello, hello, facts
	swapped.PublicKey = bytes.Clone(hello.PublicKey)
	swapped.PublicKey[0]++
	another.Versions = append(bytes.Clone(hello.Versions), 9)
	attempt.Nonce[0]++
	for what, open := range map[string]func() ([]byte, error){
		"another key":     func() ([]byte, error) { return ours.Open(swapped, facts) },
		"another hello":   func() ([]byte, error) { return ours.Open(another, facts) },
		"another attempt": func() ([]byte, error) { return ours.Open(hello, attempt) },
		"another broker":  func() ([]byte, error) { return theirs.Open(hello, facts) },
	} {
		if got, err := open(); err == nil {
			t.Errorf("%s: the proof holds, %d bytes", what, len(got))
		}
	}
}

// A pod with any other specification than the backend's, and any other token than its own, is not attested. Each is
// one change to a pod that is.
func TestNotAttested(t *testing.T) {
	t.Parallel()
	p := newPlace(t, "baseline") // allows more
	key := strings.Repeat("A", 1624)
	ctx := t.Context()
	b := p.backend(func(c *Config) { c.ProofKey = key })
	c, err := b.connect(ctx)
	if err != nil {
		t.Fatal(err)
	}
	limits, err := b.limits(sandbox.Spec{}, b.found.can)
	if err != nil {
		t.Fatal(err)
	}
	cfg := p.attests(t, key)
	a := fresh{cfg}
	ids := 0
	create := func(change func(*core.Pod)) (string, *core.Pod) {
		t.Helper()
		ids++
		id := "attest-" + hex.EncodeToString([]byte{byte(ids)})
		pod, err := b.describe(ctx, c, *b.found, limits, creation(id))
		if err != nil {
			t.Fatal(err)
		}
		pod.Spec.NodeSelector = map[string]string{"no": "node"} // it is looked at, and not run
		if change != nil {
			change(pod)
		}
		pod, err = p.admin.CoreV1().Pods(p.name).Create(ctx, pod, meta.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return id, pod
	}
	is := func(what string, err error, part string) {
		t.Helper()
		switch {
		case part == "" && err != nil, part != "" && (!errors.Is(err, broker.ErrDenied) || !strings.Contains(err.Error(), part)):
			t.Errorf("%s: %v, want %q", what, err, part)
		}
	}
	right, pod := create(nil)
	token := p.token(t, pod, shape.Audience)
	eventually(t, "the authorizer knows the broker", func() bool {
		err = a.Attest(ctx, right, token)
		return err == nil || errors.Is(err, broker.ErrDenied)
	})
	is("the backend's", err, "")

	first := func(p *core.Pod) *core.Container { return &p.Spec.InitContainers[0] }
	main := func(p *core.Pod) *core.Container { return &p.Spec.Containers[0] }
	env := func(name, value string) func(*core.Pod) {
		return func(p *core.Pod) { main(p).Env = append(main(p).Env, core.EnvVar{Name: name, Value: value}) }
	}
	other := "localhost/other:1"
	for what, x := range map[string]struct {
		change func(*core.Pod)
		want   string
	}{
		"another runner":   {func(p *core.Pod) { first(p).Image = other }, "initContainers/image"},
		"another image":    {func(p *core.Pod) { main(p).Image = other }, other},
		"another program":  {func(p *core.Pod) { main(p).Command = []string{"/bin/sh"} }, "containers/command"},
		"arguments":        {func(p *core.Pod) { main(p).Args = []string{"x"} }, "containers/args"},
		"of the installer": {func(p *core.Pod) { first(p).Command = []string{"/bin/sh"} }, "initContainers/command"},
		"a container more": {func(p *core.Pod) {
			p.Spec.Containers = append(p.Spec.Containers, core.Container{Name: "x", Image: other})
		}, "2 containers"},
		"before it": {func(p *core.Pod) {
			p.Spec.InitContainers = append(p.Spec.InitContainers, core.Container{Name: "x", Image: other})
		}, "2 before"},
		"a sidecar":        {func(p *core.Pod) { first(p).RestartPolicy = ref(core.ContainerRestartPolicyAlways) }, "initContainers/restartPolicy"},
		"shared processes": {func(p *core.Pod) { p.Spec.ShareProcessNamespace = ref(true) }, "shareProcessNamespace"},
		"a hook": {func(p *core.Pod) {
			main(p).Lifecycle = &core.Lifecycle{PostStart: &core.LifecycleHandler{Exec: &core.ExecAction{Command: []string{"/x"}}}}
		}, "containers/lifecycle"},
		"a probe": {func(p *core.Pod) {
			main(p).LivenessProbe = &core.Probe{ProbeHandler: core.ProbeHandler{Exec: &core.ExecAction{Command: []string{"/x"}}}}
		}, "containers/livenessProbe"},
		"the broker's key":     {func(p *core.Pod) { main(p).Env[len(main(p).Env)-1].Value = strings.Repeat("B", 1624) }, "containers/env"},
		"a layer left out":     {env("STEPWARD_WITHOUT", "landlock"), "containers/env"},
		"a variable":           {env("GODEBUG", "x=1"), "containers/env"},
		"one of the installer": {func(p *core.Pod) { first(p).Env[1].Value = "/x" }, "initContainers/env"},
		"the token for all": {func(p *core.Pod) {
			main(p).VolumeMounts = append(main(p).VolumeMounts, core.VolumeMount{Name: "token", MountPath: "/x"})
		}, "containers/volumeMounts"},
		"over the program":     {func(p *core.Pod) { main(p).VolumeMounts[0].ReadOnly = false }, "containers/volumeMounts/readOnly"},
		"another volume":       {func(p *core.Pod) { p.Spec.Volumes = append(p.Spec.Volumes, core.Volume{Name: "x"}) }, "volumes"},
		"another audience":     {func(p *core.Pod) { p.Spec.Volumes[5].Projected.Sources[0].ServiceAccountToken.Audience = "x" }, "audience"},
		"a token of the API":   {func(p *core.Pod) { p.Spec.AutomountServiceAccountToken = nil }, ""}, // below
		"the message's file":   {func(p *core.Pod) { main(p).TerminationMessagePath = ProgramPath }, "containers/terminationMessagePath"},
		"another user":         {func(p *core.Pod) { main(p).SecurityContext.RunAsUser = ref(int64(7)) }, "containers/securityContext/runAsUser"},
		"no seccomp":           {func(p *core.Pod) { p.Spec.SecurityContext.SeccompProfile = nil }, "securityContext/seccompProfile"},
		"capabilities":         {func(p *core.Pod) { main(p).SecurityContext.Capabilities.Drop = nil }, "containers/securityContext/capabilities"},
		"a terminal":           {func(p *core.Pod) { main(p).Stdin, main(p).TTY = true, true }, "containers/stdin"},
		"an annotation":        {func(p *core.Pod) { p.Annotations["io.katacontainers.x"] = "y" }, "io.katacontainers.x"},
		"another network":      {func(p *core.Pod) { delete(p.Labels, shape.LabelNetwork) }, "network"},
		"another sandbox's id": {func(p *core.Pod) { p.Annotations[shape.AnnotationID] = "x" }, "another pod"},
		"root": {func(p *core.Pod) {
			p.Spec.SecurityContext.RunAsUser, p.Spec.SecurityContext.RunAsNonRoot = ref(int64(0)), nil
		}, "root"},
		"more memory, later":    {func(p *core.Pod) { main(p).Resources = core.ResourceRequirements{}; p.Spec.ActiveDeadlineSeconds = nil }, "-"},
		"on a node of its own":  {func(p *core.Pod) { p.Spec.NodeSelector = nil; p.Spec.NodeName = "nowhere" }, "-"},
		"another runtime class": {func(p *core.Pod) { p.Spec.HostUsers = ref(true) }, "hostUsers"},
	} {
		if x.want == "" {
			x.want = "automountServiceAccountToken"
		}
		id, pod := create(x.change)
		is(what, a.Attest(ctx, id, p.token(t, pod, shape.Audience)), strings.TrimPrefix(x.want, "-"))
	}

	gone, over := create(nil)
	old := p.token(t, over, shape.Audience)
	if err := p.admin.CoreV1().Pods(p.name).Delete(ctx, over.Name, meta.DeleteOptions{GracePeriodSeconds: ref(int64(0))}); err != nil {
		t.Fatal(err)
	}
	second, _ := create(nil)
	for what, x := range map[string]struct {
		sandbox string
		token   []byte
		want    string
	}{
		"no token":              {right, []byte("x"), "does not know"},
		"of another sandbox":    {second, token, "not of sandbox"},
		"of no pod":             {right, p.token(t, nil, shape.Audience), "not of sandbox"},
		"for the API server":    {right, p.token(t, pod, "https://kubernetes.default.svc.cluster.local"), "does not know"},
		"of a pod that is gone": {gone, old, "does not know"},
		"again, as it was":      {right, token, ""},
	} {
		is(what, a.Attest(ctx, x.sandbox, x.token), x.want)
	}

	names := func(what string, want string) {
		t.Helper()
		eventually(t, what, func() bool {
			err := a.Attest(ctx, right, token)
			return (err == nil) == (want == "") && (err == nil || errors.Is(err, broker.ErrDenied) && strings.Contains(err.Error(), want))
		})
	}
	for right, rule := range map[string]rbac.PolicyRule{
		"get pods/exec":                           {APIGroups: []string{""}, Resources: []string{"pods/exec"}, Verbs: []string{"get"}},
		"create pods/attach":                      {APIGroups: []string{""}, Resources: []string{"pods/attach"}, Verbs: []string{"create"}},
		"patch pods/ephemeralcontainers":          {APIGroups: []string{""}, Resources: []string{"pods/ephemeralcontainers"}, Verbs: []string{"patch"}},
		"patch pods":                              {APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"patch"}},
		"create serviceaccounts/token":            {APIGroups: []string{""}, Resources: []string{"serviceaccounts/token"}, Verbs: []string{"create"}},
		"bind roles":                              {APIGroups: []string{rbac.GroupName}, Resources: []string{"roles"}, Verbs: []string{"bind"}},
		"default may impersonate serviceaccounts": {APIGroups: []string{""}, Resources: []string{"serviceaccounts"}, Verbs: []string{"impersonate"}},
	} {
		account, what, ok := strings.Cut(right, " may ")
		if !ok {
			account, what = workerAccount, right
		}
		name := "r" + hex.EncodeToString([]byte(right))
		p.allow(t, name, account, rule)
		names(right, p.name+"/"+account+" may "+what)
		p.forbid(t, name)
	}
	names("no more", "")
	patch := []byte(`{"metadata":{"labels":{"pod-security.kubernetes.io/enforce":"privileged"}}}`)
	if _, err := p.admin.CoreV1().Namespaces().Patch(ctx, p.name, types.MergePatchType, patch, meta.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	names("privileged pods", "Pod Security")
}

// A worker is not linked with the broker, also where its sandboxes are attested.
func TestBackendLinksNoBroker(t *testing.T) {
	t.Parallel()
	list := func(pkg string) string {
		t.Helper()
		out, err := exec.Command("go", "list", "-deps", pkg).Output()
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	const of = "github.com/stepward/stepward/identity/broker\n"
	if !strings.Contains(list("./attest"), of) {
		t.Error("the search does not find what is there")
	}
	if strings.Contains(list("."), of) {
		t.Error("the backend imports identity/broker")
	}
}

// A broker that may not ask does not say no: that it is not known passes.
func TestAttestorWithoutRights(t *testing.T) {
	t.Parallel()
	p := newPlace(t, "restricted")
	a, err := attest.New(attest.Config{REST: p.rest, Namespace: p.name, Worker: p.name + "/" + workerAccount, RunnerImage: p.image, ProofKey: "x"})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Attest(bounded(t), "x", []byte("x")); err == nil || errors.Is(err, broker.ErrDenied) || !strings.Contains(err.Error(), "tokenreviews") {
		t.Errorf("a broker that may not ask: %v, want one that says it is not known", err)
	}
}
