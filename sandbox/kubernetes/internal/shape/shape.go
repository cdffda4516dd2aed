// Package shape is what the pod of a sandbox looks like: for the backend, which makes it, and for the attestor, which
// has to know it again.
package shape

import (
	"math/rand/v2"
	"strconv"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/stepward/stepward/internal/layers"
	"github.com/stepward/stepward/internal/runner"
)

// Name is the name of the backend.
const Name = "kubernetes"

// Names of the labels. Whatever has LabelSandbox is a sandbox. What cannot be the
// value of a label is in an annotation.
const (
	LabelSandbox = "stepward.sandbox" // "true"
	LabelRun     = "stepward.run"
	LabelSession = "stepward.session"
	LabelNetwork = "stepward.network" // what the NetworkPolicy selects by
	NetworkNone  = "none"

	AnnotationID     = "stepward.id"
	AnnotationLabels = "stepward.labels" // sandbox.Labels in JSON
)

// Port is where the tool runner listens, on the loopback of the pod.
const Port = 39271

// Names of the containers.
const (
	Installer = "install"
	Main      = "sandbox"
)

// Program is where the tool runner is found.
const (
	Program    = programDir + "/program"
	programDir = "/stepward"
)

// Audience is what the token of a pod is for, by which it proves itself to the broker.
const Audience = "stepward-broker"

// The token of a pod is mounted where only the installer is, which passes it on through memory: the tool runner takes
// it and removes it before it serves, so that nothing that runs in the sandbox ever finds it.
const (
	tokenDir    = "/var/run/stepward"
	tokenFile   = "token"
	witnessDir  = "/stepward-witness"
	witnessFile = witnessDir + "/token"
)

// PodName is a name for any id: that may end in a hyphen, which a name may not.
func PodName(id string) string { return "stepward-" + id + "-sandbox" }

// Sandbox is what pods differ in, as far as it matters to who looks at them. Resources, times and where they run do not.
type Sandbox struct {
	RunnerImage, Image string
	RuntimeClass       string
	UserNS             bool
	ID                 int64 // of the user and group

	TokenHash, OrphanAfter string
	OpenFiles, PIDs        string // PIDs may be empty
	Without                layers.Set

	ProofKey string // of the broker; empty: the pod has no token
	Expires  int64  // seconds, of the token
}

// Spec describes the pod.
func (s Sandbox) Spec() core.PodSpec {
	spec := core.PodSpec{
		RestartPolicy:                core.RestartPolicyNever,
		AutomountServiceAccountToken: Ref(false), EnableServiceLinks: Ref(false),
		Hostname: "sandbox", HostUsers: hostUsers(s.UserNS),
		DNSPolicy: core.DNSNone, DNSConfig: &core.PodDNSConfig{Nameservers: []string{"127.0.0.1"}},
		SecurityContext: &core.PodSecurityContext{
			RunAsNonRoot: Ref(true), RunAsUser: Ref(s.ID), RunAsGroup: Ref(s.ID),
			SeccompProfile: &core.SeccompProfile{Type: core.SeccompProfileTypeRuntimeDefault},
		},
		InitContainers: []core.Container{s.installer()},
		Containers:     []core.Container{s.main()},
		Volumes: []core.Volume{
			volume("program", core.StorageMediumDefault), volume("shm", core.StorageMediumMemory),
			volume("workspace", core.StorageMediumMemory), volume("tmp", core.StorageMediumMemory),
		},
	}
	if s.ProofKey != "" {
		spec.Volumes = append(spec.Volumes, volume("witness", core.StorageMediumMemory), s.token())
	}
	if s.RuntimeClass != "" {
		spec.RuntimeClassName = &s.RuntimeClass
	}
	return spec
}

// Ref returns a pointer to v.
func Ref[T any](v T) *T { return &v }

// hostUsers asks for a user namespace. Not to ask is nil, which old clusters know.
func hostUsers(userns bool) *bool {
	if userns {
		return Ref(false)
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

// NewID returns the id of a sandbox.
func NewID(userns bool) int64 {
	if userns {
		return idInUserNS
	}
	return firstID + rand.Int64N(lastID-firstID)
}

func security() *core.SecurityContext {
	return &core.SecurityContext{
		AllowPrivilegeEscalation: Ref(false), ReadOnlyRootFilesystem: Ref(true), Privileged: Ref(false),
		Capabilities: &core.Capabilities{Drop: []core.Capability{"ALL"}},
	}
}

func volume(name string, medium core.StorageMedium) core.Volume {
	return core.Volume{Name: name, VolumeSource: core.VolumeSource{EmptyDir: &core.EmptyDirVolumeSource{Medium: medium}}}
}

// Limit sets the size of a volume.
func Limit(spec *core.PodSpec, name string, size int64) {
	for _, v := range spec.Volumes {
		if v.Name == name {
			v.EmptyDir.SizeLimit = resource.NewQuantity(size, resource.BinarySI)
		}
	}
}

func (s Sandbox) token() core.Volume {
	return core.Volume{Name: "token", VolumeSource: core.VolumeSource{Projected: &core.ProjectedVolumeSource{Sources: []core.VolumeProjection{
		{ServiceAccountToken: &core.ServiceAccountTokenProjection{Audience: Audience, ExpirationSeconds: &s.Expires, Path: tokenFile}},
	}}}}
}

// installer copies the tool runner to a volume of the pod. It has the
// environment of its image: nothing else runs beside it.
func (s Sandbox) installer() core.Container {
	mode := "111" // the text of the program is none of the sandbox's business
	if s.RuntimeClass != "" {
		mode = "555" // gVisor cannot execute what it cannot read
	}
	c := core.Container{
		Name: Installer, Image: s.RunnerImage, ImagePullPolicy: core.PullIfNotPresent,
		Env: []core.EnvVar{
			{Name: runner.EnvMode, Value: "install"}, {Name: runner.EnvInstall, Value: Program}, {Name: runner.EnvInstallMode, Value: mode},
		},
		VolumeMounts:             []core.VolumeMount{{Name: "program", MountPath: programDir}},
		SecurityContext:          security(),
		TerminationMessagePolicy: core.TerminationMessageFallbackToLogsOnError,
	}
	if s.ProofKey != "" {
		c.Env = append(c.Env, core.EnvVar{Name: runner.EnvInstallWitness, Value: tokenDir + "/" + tokenFile}, core.EnvVar{Name: runner.EnvWitnessFile, Value: witnessFile})
		c.VolumeMounts = append(c.VolumeMounts, core.VolumeMount{Name: "token", MountPath: tokenDir, ReadOnly: true}, core.VolumeMount{Name: "witness", MountPath: witnessDir})
	}
	return c
}

func (s Sandbox) main() core.Container {
	c := core.Container{
		Name: Main, Image: s.Image, ImagePullPolicy: core.PullIfNotPresent,
		Command: []string{Program}, WorkingDir: runner.Workspace,
		VolumeMounts: []core.VolumeMount{
			{Name: "program", MountPath: programDir, ReadOnly: true}, {Name: "shm", MountPath: "/dev/shm", ReadOnly: true},
			{Name: "workspace", MountPath: runner.Workspace}, {Name: "tmp", MountPath: "/tmp"},
		},
		SecurityContext:          security(),
		TerminationMessagePolicy: core.TerminationMessageFallbackToLogsOnError,
	}
	env := func(name, value string) { c.Env = append(c.Env, core.EnvVar{Name: name, Value: value}) }
	env(runner.EnvMode, "serve")
	env(runner.EnvSocket, "127.0.0.1:"+strconv.Itoa(Port))
	env(runner.EnvTokenHash, s.TokenHash)
	env(runner.EnvOrphanAfter, s.OrphanAfter)
	env(runner.EnvOpenFiles, s.OpenFiles)
	if s.PIDs != "" {
		env(runner.EnvPIDs, s.PIDs)
	}
	if s.Without != 0 {
		env(runner.EnvWithout, s.Without.String())
	}
	if !s.Without.Has(layers.Network) { // the node knows the address
		env(runner.EnvClosed, "$(KUBERNETES_SERVICE_HOST) $(KUBERNETES_SERVICE_PORT)")
	}
	if s.ProofKey != "" {
		env(runner.EnvWitness, Name)
		env(runner.EnvWitnessFile, witnessFile)
		env(runner.EnvWitnessBroker, s.ProofKey)
		c.VolumeMounts = append(c.VolumeMounts, core.VolumeMount{Name: "witness", MountPath: witnessDir})
	}
	return c
}

// ReadEnv takes over what the tool runner was told that may be anything.
func (s *Sandbox) ReadEnv(env []core.EnvVar) {
	for _, e := range env {
		switch e.Name {
		case runner.EnvTokenHash:
			s.TokenHash = e.Value
		case runner.EnvOrphanAfter:
			s.OrphanAfter = e.Value
		case runner.EnvOpenFiles:
			s.OpenFiles = e.Value
		case runner.EnvPIDs:
			s.PIDs = e.Value
		}
	}
}
