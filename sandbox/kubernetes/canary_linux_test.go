package kubernetes

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stepward/stepward/identity"
	"github.com/stepward/stepward/identity/broker"
	"github.com/stepward/stepward/internal/canary"
	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

var (
	kept     = []string{"S0", "S1", "S2", "S3"}
	keeping  = workflow.DurableWorkflow[string, string]{Name: "keeping"}
	keepings = workflow.Progress[string]{Name: "stage"}

	// keep has a command say its secrets, and another hold them.
	keep = workflow.NewToolStep("keep", func(ctx context.Context, sb *sandbox.Sandbox, _ string) (string, error) {
		says := sb.Command(ProgramPath, "probe:env")
		says.Secrets = kept
		said, err := says.Output(ctx)
		if err != nil || !strings.Contains(string(said), "[REDACTED:S0]") {
			return "", workflow.Permanent(fmt.Errorf("got %q: %w", said, err))
		}
		holds := sb.Command(ProgramPath, "probe:hold-secret", "S3")
		holds.Secrets = kept
		begun, w := io.Pipe()
		holds.Stdout = w
		if err := holds.Start(ctx); err != nil {
			return "", err
		}
		if _, err := io.ReadFull(begun, make([]byte, len("true"))); err != nil {
			return "", err
		}
		if err := keepings.SetInStep(ctx, "waiting"); err != nil {
			return "", err
		}
		<-ctx.Done()
		return "", context.Cause(ctx)
	}, workflow.StepOptions{Mode: workflow.Identity, Secrets: kept, Retry: workflow.Retry{MaxAttempts: 1}})

	keepingV1 = workflow.Define(keeping, func(ctx workflow.Context, in string) (string, error) {
		return keep.Run(ctx, in)
	}, workflow.Options{Version: "1", Steps: []workflow.Declared{keep}})
)

// nest is a store.
type nest map[string]string

func (n nest) Get(_ context.Context, r broker.Request) (broker.Value, error) {
	return broker.Value{Bytes: []byte(n[r.Path]), Version: "1"}, nil
}

// TestCanary has commands in a pod hold secrets, and say them. Nothing that the cluster has in the namespace, of whichever kind, nor
// a log of a pod, has one of them in any encoding, while the pod is there and when it is gone. A marker that is in a pod, a Secret, a
// ConfigMap and an Event is found in each.
func TestCanary(t *testing.T) {
	t.Parallel()
	p := newPlace(t, "privileged") // for the pod of the marker, which is as plain as can be
	in := p.install(t)
	profiles, err := identity.New(in.pool, identity.Options{Schema: in.schema})
	if err != nil {
		t.Fatal(err)
	}
	marker := rand.Text() + `é"<&=?` + rand.Text()
	keys, store, values := map[string]identity.Key{}, nest{}, map[string][]string{"marker": {marker}}
	for i, name := range kept {
		store[name] = "/+" + rand.Text() + `é"<&=?` + rand.Text() + "~&"
		keys[name], values[name] = identity.Key{Ref: "nest://" + name, Commands: []string{ProgramPath}, File: i == 2}, []string{store[name]}
	}
	if err := profiles.Put(t.Context(), identity.Profile{Name: "acme", Scope: identity.Scope{Tenant: "acme"}, Keys: keys}); err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "broker") // short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	door := filepath.Join(dir, "s")
	ln, err := net.Listen("unix", door)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() {
		served <- broker.Serve(ctx, ln, broker.Config{Pool: in.pool, Schema: in.schema, Dir: filepath.Join(dir, "key"), Stores: map[string]broker.Store{"nest": store}})
	}()
	t.Cleanup(func() {
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	in.work(worker.Config{Workflows: []*workflow.Definition{keepingV1}, Broker: "unix://" + door, Backends: []sandbox.Backend{p.backend()}})
	run, err := keeping.Enqueue(t.Context(), in.client, "", workflow.EnqueueOptions{Tenant: "acme"})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "a command has the secrets", func() bool {
		s, _, err := keepings.Get(t.Context(), in.client, run.ID)
		if is, gerr := in.client.Get(t.Context(), run.ID); err != nil || gerr != nil || is.State == workflow.StateFailed || is.State == workflow.StateParked {
			t.Fatalf("it is %s: %v, %v", is.State, is.Err, errors.Join(err, gerr))
		}
		return s == "waiting"
	})
	search, found := canary.NewSearcher(values), map[string]bool{}
	look := func(place string, r io.Reader) {
		if err := search.Read(r, func(n canary.Needle, around []byte) {
			if n.Of != "marker" {
				t.Errorf("%s: has %s as %s: %q", place, n.Of, n.Encoding, around)
			}
			found[place] = true
		}); err != nil {
			t.Errorf("%s: %v", place, err)
		}
	}
	if n := p.look(t, look); n == 0 {
		t.Error("there is no pod of a sandbox")
	}
	p.careless(t, marker)
	p.look(t, look)
	if err := in.client.Cancel(t.Context(), run.ID); err != nil {
		t.Fatal(err)
	}
	if out, err := run.Result(bounded(t)); err == nil {
		t.Errorf("got %q", out)
	}
	p.look(t, look)
	for _, place := range []string{"pods", "secrets", "configmaps", "events", "logs"} {
		if !found[place] {
			t.Errorf("the search of %s cannot see", place)
		}
	}
}

// look searches everything that a namespace has, and returns how many pods that is.
func (p *place) look(t *testing.T, look func(place string, r io.Reader)) int {
	t.Helper()
	kinds, err := p.admin.Discovery().ServerPreferredNamespacedResources()
	if err != nil {
		t.Fatal(err)
	}
	for _, group := range kinds {
		path := "/apis/"
		if !strings.Contains(group.GroupVersion, "/") {
			path = "/api/"
		}
		for _, kind := range group.APIResources {
			if !slices.Contains(kind.Verbs, "list") {
				continue
			}
			all, err := p.admin.CoreV1().RESTClient().Get().AbsPath(path+group.GroupVersion, "namespaces", p.name, kind.Name).DoRaw(t.Context())
			if err != nil {
				t.Fatalf("%s: %v", kind.Name, err)
			}
			look(kind.Name, bytes.NewReader(all))
		}
	}
	pods, err := p.admin.CoreV1().Pods(p.name).List(t.Context(), meta.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, pod := range pods.Items {
		for _, c := range pod.Spec.Containers {
			if log, err := p.admin.CoreV1().Pods(p.name).GetLogs(pod.Name, &core.PodLogOptions{Container: c.Name}).DoRaw(t.Context()); err == nil { // it may be going
				look("logs", bytes.NewReader(log))
			}
		}
	}
	return len(pods.Items)
}

// careless has a marker wherever the search is to see it.
func (p *place) careless(t *testing.T, marker string) {
	t.Helper()
	named := meta.ObjectMeta{Name: "careless"}
	api := p.admin.CoreV1()
	_, err1 := api.Secrets(p.name).Create(t.Context(), &core.Secret{ObjectMeta: named, StringData: map[string]string{"x": marker}}, meta.CreateOptions{})
	_, err2 := api.ConfigMaps(p.name).Create(t.Context(), &core.ConfigMap{ObjectMeta: named, Data: map[string]string{"x": marker}}, meta.CreateOptions{})
	_, err3 := api.Events(p.name).Create(t.Context(), &core.Event{ObjectMeta: named, InvolvedObject: core.ObjectReference{Namespace: p.name, Name: "careless"}, Message: marker}, meta.CreateOptions{})
	_, err4 := api.Pods(p.name).Create(t.Context(), &core.Pod{ObjectMeta: named, Spec: core.PodSpec{RestartPolicy: core.RestartPolicyNever, Containers: []core.Container{{
		Name: "careless", Image: p.image, ImagePullPolicy: core.PullNever, Args: []string{"probe:env"}, Env: []core.EnvVar{{Name: "MARKER", Value: marker}},
	}}}}, meta.CreateOptions{})
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the careless pod has ended", func() bool {
		pod, err := api.Pods(p.name).Get(t.Context(), "careless", meta.GetOptions{})
		if err != nil || pod.Status.Phase == core.PodFailed {
			t.Fatalf("it is %v, %v", pod.Status, err)
		}
		return pod.Status.Phase == core.PodSucceeded
	})
}
