package kubernetes

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/sandbox/kubernetes/internal/shape"
	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

// swarmSize is how many sandboxes TestNoSandboxIsLeft has made; of 500, some 30 are there
// at a time, and they take a quarter of an hour.
var swarmSize = flag.Int("swarm", 12, "sandboxes that TestNoSandboxIsLeft makes")

var (
	swarm = workflow.DurableWorkflow[int, int]{Name: "swarm"}

	// placeSwarm leaves a command with daemons behind, for whoever ends the sandbox.
	placeSwarm = workflow.NewToolStep("swarm", func(ctx context.Context, sb *sandbox.Sandbox, i int) (int, error) {
		c := sb.Command(ProgramPath, "probe:daemons", "3", "stay")
		said := make(chan struct{}, 1)
		c.Stdout = tells{said}
		if err := c.Start(ctx); err != nil {
			return 0, err
		}
		select {
		case <-said:
			return i, nil
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}, workflow.StepOptions{Mode: workflow.Sandboxed, Sandbox: sandbox.Spec{Limits: sandbox.Limits{Memory: 128 << 20, PIDs: 64}}})

	swarmV1 = workflow.Define(swarm, func(ctx workflow.Context, n int) (int, error) {
		_, err := workflow.Map(ctx, make([]int, n), placeSwarm, workflow.MapOptions{Limit: 24})
		return n, err
	}, workflow.Options{Version: "1", Steps: []workflow.Declared{placeSwarm}})
)

// tells says that something was written.
type tells struct{ c chan struct{} }

func (c tells) Write(p []byte) (int, error) {
	select {
	case c.c <- struct{}{}:
	default:
	}
	return len(p), nil
}

// Workers are killed at random while they make pods, some of them ahead of need. Within
// a minute the namespace is as it was, whatever kinds of objects the cluster has, and on the
// node, if it is this machine, no process of a pod is left.
func TestNoSandboxIsLeft(t *testing.T) {
	p := newPlace(t, "restricted")
	in := p.install(t)
	for _, own := range []string{"configmaps/kube-root-ca.crt", "serviceaccounts/default"} { // the cluster's
		eventually(t, own+" is there", func() bool { return slices.Contains(p.objects(t), own) })
	}
	before := p.objects(t)
	made := pods{}
	var runs []workflow.Run[int]
	for range 2 {
		run, err := swarm.Enqueue(t.Context(), in.client, *swarmSize, workflow.EnqueueOptions{})
		if err != nil {
			t.Fatal(err)
		}
		runs = append(runs, run)
	}
	started := 0
	begin := func() *process {
		started++
		return in.startVictim(victim{Name: fmt.Sprint("victim-", started), LeaseTTL: 3 * time.Second, MaxSandboxes: max(4, *swarmSize/50), Warm: worker.Warm{Min: 1, Max: 2}})
	}
	kill := func(v *process) {
		if err := v.cmd.Process.Signal(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		v.dies()
	}
	// A run whose worker was killed five times before it recorded anything is parked.
	revive := func() {
		for _, run := range runs {
			s, err := in.client.Get(t.Context(), run.ID)
			if err == nil && s.State == workflow.StateParked {
				err = in.client.Resume(t.Context(), run.ID)
			}
			var meanwhile *workflow.StateError
			if err != nil && !errors.As(err, &meanwhile) {
				t.Fatal(err)
			}
		}
	}
	victims := []*process{begin(), begin(), begin()}
	for n := 0; n < *swarmSize; {
		next := n + 1 + rand.IntN(min(max(*swarmSize/4, 1), 16))
		eventually(t, fmt.Sprintf("%d pods were made", next), func() bool {
			n = made.note(t, p)
			revive()
			return n >= next
		})
		i := rand.IntN(len(victims))
		kill(victims[i])
		victims[i] = begin()
	}
	eventually(t, "the search finds what is there", func() bool {
		return len(added(p.objects(t), before)) > 0 && (!p.onNode() || len(made.processes(t)) > 0)
	})
	for _, v := range victims {
		kill(v)
	}
	made.note(t, p)
	for _, run := range runs {
		if err := in.client.Terminate(t.Context(), run.ID); err != nil {
			t.Fatal(err)
		}
	}
	in.work(worker.Config{Workflows: []*workflow.Definition{swarmV1}})
	minute, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tick := time.NewTicker(500 * time.Millisecond) // looking costs the API server a list of each kind
	defer tick.Stop()
	for {
		left := added(p.objects(t), before)
		if p.onNode() {
			left = append(left, made.processes(t)...)
		}
		if n := in.count("SELECT count(*) FROM stepward.sandbox WHERE destroyed_at IS NULL"); n > 0 {
			left = append(left, fmt.Sprintf("%d rows", n))
		}
		if len(left) == 0 {
			break
		}
		select {
		case <-minute.Done():
			t.Fatalf("left after a minute: %q", left)
		case <-tick.C:
		}
	}
	t.Logf("%d pods, %d workers", len(made), started)
}

// objects returns the name of all that is in the namespace, of any kind that the cluster
// has but events, which tell what was.
func (p *place) objects(t *testing.T) []string {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", p.cluster.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	config.QPS, config.Burst = 200, 400
	config.WarningHandler = rest.NoWarnings{} // of kinds that are to go
	api, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	kinds, err := p.admin.Discovery().ServerPreferredNamespacedResources()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, group := range kinds {
		version, err := schema.ParseGroupVersion(group.GroupVersion)
		if err != nil {
			t.Fatal(err)
		}
		for _, kind := range group.APIResources {
			if !slices.Contains(kind.Verbs, "list") || kind.Kind == "Event" {
				continue
			}
			list, err := api.Resource(version.WithResource(kind.Name)).Namespace(p.name).List(t.Context(), meta.ListOptions{})
			if err != nil {
				t.Fatalf("%s: %v", kind.Name, err)
			}
			for _, o := range list.Items {
				names = append(names, kind.Name+"/"+o.GetName())
			}
		}
	}
	return names
}

func added(now, before []string) []string {
	return slices.DeleteFunc(now, func(name string) bool { return slices.Contains(before, name) })
}

// onNode reports whether processes of pods are this machine's, by ids of their own.
func (p *place) onNode() bool { return p.cluster.Host != "" && !known.userns }

// pods are those that a test has made, by name, and the user that their processes are.
type pods map[string]int64

// note adds the pods that are there now, and returns how many there have been.
func (all pods) note(t *testing.T, p *place) int {
	t.Helper()
	l, err := p.admin.CoreV1().Pods(p.name).List(t.Context(), meta.ListOptions{LabelSelector: shape.LabelSandbox})
	if err != nil {
		t.Fatal(err)
	}
	for _, pod := range l.Items {
		all[pod.Name] = *pod.Spec.SecurityContext.RunAsUser
	}
	return len(all)
}

// processes returns those of this machine that run as a pod does.
func (all pods) processes(t *testing.T) (left []string) {
	t.Helper()
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	users := slices.Collect(maps.Values(all))
	for _, dir := range dirs {
		if fi, err := os.Stat(dir); err == nil && slices.Contains(users, int64(fi.Sys().(*syscall.Stat_t).Uid)) {
			left = append(left, dir)
		}
	}
	return left
}
