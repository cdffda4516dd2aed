package kubernetes

import (
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stepward/stepward/internal/layers"
	"github.com/stepward/stepward/internal/runner"
	"github.com/stepward/stepward/sandbox"
)

// Names of the labels. Whatever has labelSandbox is a sandbox. What cannot be the
// value of a label is in an annotation.
const (
	labelSandbox = "stepward.sandbox" // "true"
	labelRun     = "stepward.run"
	labelSession = "stepward.session"
	labelNetwork = "stepward.network" // what the NetworkPolicy selects by
	networkNone  = "none"

	annotationID     = "stepward.id"
	annotationLabels = "stepward.labels" // sandbox.Labels in JSON
)

// port is where the tool runner listens, on the loopback of the pod.
const port = 39271

// Names of the containers.
const (
	installer = "install"
	main      = "sandbox"
)

// podName is a name for any id: that may end in a hyphen, which a name may not.
func podName(id string) string { return "stepward-" + id + "-sandbox" }

func podLabels(l sandbox.Labels) map[string]string {
	return map[string]string{
		labelSandbox: "true", labelNetwork: networkNone,
		labelRun: strconv.FormatInt(l.Run, 10), labelSession: "s" + strconv.FormatInt(l.Session, 10),
	}
}

// describe describes the pod.
func (b *Backend) describe(ctx context.Context, c *cluster, f found, limits sandbox.Limits, s sandbox.Creation) (*core.Pod, error) {
	off := layers.Off(ctx)
	all, err := json.Marshal(s.Labels)
	if err != nil {
		return nil, err
	}
	pod := &core.Pod{
		ObjectMeta: meta.ObjectMeta{
			Name: podName(s.ID), Labels: podLabels(s.Labels),
			Annotations: map[string]string{annotationID: s.ID, annotationLabels: string(all)},
		},
		Spec: core.PodSpec{
			RestartPolicy: core.RestartPolicyNever, NodeSelector: b.config.NodeSelector,
			ActiveDeadlineSeconds:         ref(int64(cmp.Or(b.config.MaxLife, defaultMaxLife) / time.Second)),
			TerminationGracePeriodSeconds: ref(int64(1)),
			AutomountServiceAccountToken:  ref(false), EnableServiceLinks: ref(false),
			Hostname: "sandbox", HostUsers: hostUsers(f.userns),
			DNSPolicy: core.DNSNone, DNSConfig: &core.PodDNSConfig{Nameservers: []string{"127.0.0.1"}},
			SecurityContext: podSecurity(f.userns),
			InitContainers:  []core.Container{b.installContainer(c)},
			Containers:      []core.Container{b.mainContainer(c, off, limits, s)},
			Volumes: []core.Volume{
				volume("program", core.StorageMediumDefault, 0), volume("shm", core.StorageMediumMemory, 1<<20),
				volume("workspace", core.StorageMediumMemory, limits.Disk), volume("tmp", core.StorageMediumMemory, limits.Disk),
			},
		},
	}
	if b.config.RuntimeClass != "" {
		pod.Spec.RuntimeClassName = &b.config.RuntimeClass
	}
	for _, name := range b.config.PullSecrets {
		pod.Spec.ImagePullSecrets = append(pod.Spec.ImagePullSecrets, core.LocalObjectReference{Name: name})
	}
	if c.owner != nil {
		pod.OwnerReferences = []meta.OwnerReference{*c.owner}
	}
	without(pod, off, layers.Bind(ctx))
	return pod, nil
}

func ref[T any](v T) *T { return &v }

// hostUsers asks for a user namespace. Not to ask is nil, which old clusters know.
func hostUsers(userns bool) *bool {
	if userns {
		return ref(false)
	}
	return nil
}

// Ids of sandboxes. Without user namespaces each has its own, or the limit of
// processes, which the kernel counts by id, would be shared by all of a node.
const (
	idInUserNS = 10001
	firstID    = 100_000
	lastID     = 1<<31 - 2
)

func podSecurity(userns bool) *core.PodSecurityContext {
	id := int64(idInUserNS)
	if !userns {
		id = firstID + rand.Int64N(lastID-firstID)
	}
	return &core.PodSecurityContext{
		RunAsNonRoot: ref(true), RunAsUser: &id, RunAsGroup: &id,
		SeccompProfile: &core.SeccompProfile{Type: core.SeccompProfileTypeRuntimeDefault},
	}
}

func containerSecurity() *core.SecurityContext {
	return &core.SecurityContext{
		AllowPrivilegeEscalation: ref(false), ReadOnlyRootFilesystem: ref(true), Privileged: ref(false),
		Capabilities: &core.Capabilities{Drop: []core.Capability{"ALL"}},
	}
}

func volume(name string, medium core.StorageMedium, size int64) core.Volume {
	dir := &core.EmptyDirVolumeSource{Medium: medium}
	if size > 0 {
		dir.SizeLimit = resource.NewQuantity(size, resource.BinarySI)
	}
	return core.Volume{Name: name, VolumeSource: core.VolumeSource{EmptyDir: dir}}
}

// installContainer copies the tool runner to a volume of the pod. It has the
// environment of its image: nothing else runs beside it.
func (b *Backend) installContainer(c *cluster) core.Container {
	mode := "111" // the text of the program is none of the sandbox's business
	if b.config.RuntimeClass != "" {
		mode = "555" // gVisor cannot execute what it cannot read
	}
	return core.Container{
		Name: installer, Image: c.runnerImage, ImagePullPolicy: core.PullIfNotPresent,
		Env: []core.EnvVar{
			{Name: runner.EnvMode, Value: "install"}, {Name: runner.EnvInstall, Value: ProgramPath}, {Name: runner.EnvInstallMode, Value: mode},
		},
		VolumeMounts:             []core.VolumeMount{{Name: "program", MountPath: programDir}},
		SecurityContext:          containerSecurity(),
		Resources:                b.resources(sandbox.Limits{Memory: DefaultRequestMemory * 2, CPU: 1}),
		TerminationMessagePolicy: core.TerminationMessageFallbackToLogsOnError,
	}
}

func (b *Backend) mainContainer(c *cluster, off layers.Set, limits sandbox.Limits, s sandbox.Creation) core.Container {
	env := []core.EnvVar{
		{Name: runner.EnvMode, Value: "serve"},
		{Name: runner.EnvSocket, Value: "127.0.0.1:" + strconv.Itoa(port)},
		{Name: runner.EnvTokenHash, Value: hex.EncodeToString(s.TokenHash[:])},
		{Name: runner.EnvOrphanAfter, Value: cmp.Or(s.OrphanAfter, sandbox.DefaultOrphanAfter).String()},
		{Name: runner.EnvOpenFiles, Value: strconv.Itoa(limits.OpenFiles)},
	}
	if limits.PIDs != 0 {
		env = append(env, core.EnvVar{Name: runner.EnvPIDs, Value: strconv.Itoa(limits.PIDs)})
	}
	if off != 0 {
		env = append(env, core.EnvVar{Name: runner.EnvWithout, Value: off.String()})
	}
	if !off.Has(layers.Network) { // the node knows the address
		env = append(env, core.EnvVar{Name: runner.EnvClosed, Value: "$(KUBERNETES_SERVICE_HOST) $(KUBERNETES_SERVICE_PORT)"})
	}
	return core.Container{
		Name: main, Image: cmp.Or(s.Spec.Image, c.image), ImagePullPolicy: core.PullIfNotPresent,
		Command: []string{ProgramPath}, WorkingDir: runner.Workspace, Env: env,
		VolumeMounts: []core.VolumeMount{
			{Name: "program", MountPath: programDir, ReadOnly: true}, {Name: "shm", MountPath: "/dev/shm", ReadOnly: true},
			{Name: "workspace", MountPath: runner.Workspace}, {Name: "tmp", MountPath: "/tmp"},
		},
		SecurityContext:          containerSecurity(),
		Resources:                b.resources(limits),
		TerminationMessagePolicy: core.TerminationMessageFallbackToLogsOnError,
	}
}

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
		delete(pod.Labels, labelNetwork)
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
