package kubernetes

import (
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stepward/stepward/internal/layers"
	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/sandbox/kubernetes/internal/shape"
)

func podLabels(l sandbox.Labels) map[string]string {
	return map[string]string{
		shape.LabelSandbox: "true", shape.LabelNetwork: shape.NetworkNone,
		shape.LabelRun: strconv.FormatInt(l.Run, 10), shape.LabelSession: "s" + strconv.FormatInt(l.Session, 10),
	}
}

// describe describes the pod.
func (b *Backend) describe(ctx context.Context, c *cluster, f found, limits sandbox.Limits, s sandbox.Creation) (*core.Pod, error) {
	off := layers.Off(ctx)
	all, err := json.Marshal(s.Labels)
	if err != nil {
		return nil, err
	}
	life := cmp.Or(b.config.MaxLife, defaultMaxLife)
	box := shape.Sandbox{
		RunnerImage: c.runnerImage, Image: cmp.Or(s.Spec.Image, c.image), RuntimeClass: b.config.RuntimeClass,
		UserNS: f.userns, ID: shape.NewID(f.userns),
		TokenHash: hex.EncodeToString(s.TokenHash[:]), OrphanAfter: cmp.Or(s.OrphanAfter, sandbox.DefaultOrphanAfter).String(),
		OpenFiles: strconv.Itoa(limits.OpenFiles), Without: off,
		ProofKey: b.config.ProofKey, Expires: max(minExpires, int64(life/time.Second)),
	}
	if limits.PIDs != 0 {
		box.PIDs = strconv.Itoa(limits.PIDs)
	}
	pod := &core.Pod{
		ObjectMeta: meta.ObjectMeta{
			Name: shape.PodName(s.ID), Labels: podLabels(s.Labels),
			Annotations: map[string]string{shape.AnnotationID: s.ID, shape.AnnotationLabels: string(all)},
		},
		Spec: box.Spec(),
	}
	pod.Spec.NodeSelector = b.config.NodeSelector
	pod.Spec.ActiveDeadlineSeconds, pod.Spec.TerminationGracePeriodSeconds = ref(int64(life/time.Second)), ref(int64(1))
	pod.Spec.InitContainers[0].Resources = b.resources(sandbox.Limits{Memory: DefaultRequestMemory * 2, CPU: 1})
	pod.Spec.Containers[0].Resources = b.resources(limits)
	shape.Limit(&pod.Spec, "shm", 1<<20)
	shape.Limit(&pod.Spec, "witness", 1<<20)
	shape.Limit(&pod.Spec, "workspace", limits.Disk)
	shape.Limit(&pod.Spec, "tmp", limits.Disk)
	for _, name := range b.config.PullSecrets {
		pod.Spec.ImagePullSecrets = append(pod.Spec.ImagePullSecrets, core.LocalObjectReference{Name: name})
	}
	if c.owner != nil {
		pod.OwnerReferences = []meta.OwnerReference{*c.owner}
	}
	without(pod, off, layers.Bind(ctx))
	return pod, nil
}

// minExpires is the least that a token of a pod may be asked to live, in seconds. It ends with its pod.
const minExpires = 600

func ref[T any](v T) *T { return &v }

// ephemeral bounds what a pod may take of its node's disk: the copy of the program
// is all that there is.
const ephemeral = 1 << 30

// resources are limits, and what the scheduler sets aside.
func (b *Backend) resources(l sandbox.Limits) core.ResourceRequirements {
	milli := func(cores float64) resource.Quantity {
		return *resource.NewMilliQuantity(max(1, int64(cores*1000)), resource.DecimalSI)
	}
	bytes := func(n int64) resource.Quantity { return *resource.NewQuantity(n, resource.BinarySI) }
	r := core.ResourceRequirements{
		Limits: core.ResourceList{core.ResourceEphemeralStorage: bytes(ephemeral)},
		Requests: core.ResourceList{
			core.ResourceEphemeralStorage: bytes(DefaultRequestMemory),
			core.ResourceMemory:           bytes(cmp.Or(b.config.Request.Memory, DefaultRequestMemory)),
			core.ResourceCPU:              milli(cmp.Or(b.config.Request.CPU, DefaultRequestCPU)),
		},
	}
	if l.Memory != 0 {
		r.Limits[core.ResourceMemory] = bytes(l.Memory)
		r.Requests[core.ResourceMemory] = bytes(min(l.Memory, r.Requests.Memory().Value()))
	}
	if l.CPU != 0 {
		r.Limits[core.ResourceCPU] = milli(l.CPU)
		r.Requests[core.ResourceCPU] = milli(min(l.CPU, r.Requests.Cpu().AsApproximateFloat64()))
	}
	return r
}

// without leaves layers out, for tests.
func without(pod *core.Pod, off layers.Set, bind string) {
	box := &pod.Spec.Containers[0]
	host := func(dir string) {
		name := fmt.Sprintf("host%d", len(pod.Spec.Volumes))
		pod.Spec.Volumes = append(pod.Spec.Volumes, core.Volume{Name: name, VolumeSource: core.VolumeSource{HostPath: &core.HostPathVolumeSource{Path: dir}}})
		box.VolumeMounts = append(box.VolumeMounts, core.VolumeMount{Name: name, MountPath: dir, ReadOnly: true})
	}
	if bind != "" {
		host(bind)
	}
	if off.Has(layers.Mount) {
		host("/var/tmp")
	}
	if off.Has(layers.Network) {
		delete(pod.Labels, shape.LabelNetwork)
	}
	if off.Has(layers.PID) {
		pod.Spec.HostPID = true
	}
	if off.Has(layers.Seccomp) {
		pod.Spec.SecurityContext.SeccompProfile.Type = core.SeccompProfileTypeUnconfined
	}
	if off.Has(layers.IDMap) {
		pod.Spec.SecurityContext.RunAsUser, pod.Spec.SecurityContext.RunAsNonRoot = ref(int64(0)), nil
		pod.Spec.SecurityContext.RunAsGroup = ref(int64(0))
	}
}
