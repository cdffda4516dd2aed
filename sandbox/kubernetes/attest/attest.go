package attest

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	authentication "k8s.io/api/authentication/v1"
	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	client "k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/stepward/stepward/identity/broker"
	"github.com/stepward/stepward/sandbox/kubernetes/internal/shape"
)

// Config configures [New]. What must be the same as in the kubernetes.Config of workers is so named.
type Config struct {
	REST *rest.Config // defaults to the service account of the pod that this runs in

	Namespace string // of the sandboxes; required
	Worker    string // the workers' service account, as "namespace/name"; required

	RunnerImage string   // as workers name it, best by its digest; required
	Images      []string // that sandboxes may be made of, besides RunnerImage
	ProofKey    string   // of the broker; required

	RuntimeClass string // of the pods

	// Annotations are names of those that the cluster itself puts on pods. With any other, a pod is not attested, as
	// some of them have a node's runtime do more.
	Annotations []string
}

// An Attestor is a broker.Attestor.
type Attestor struct {
	config Config
	api    client.Interface

	mu      sync.Mutex // held while rights are looked at
	looked  time.Time
	verdict error
}

// New returns an attestor. It talks to nothing yet.
func New(c Config) (*Attestor, error) {
	for field, missing := range map[string]bool{
		"Namespace": c.Namespace == "", "RunnerImage": c.RunnerImage == "", "ProofKey": c.ProofKey == "",
		"Worker": strings.Count(strings.Trim(c.Worker, "/"), "/") != 1,
	} {
		if missing {
			return nil, fmt.Errorf("attest: Config.%s is required", field)
		}
	}
	if c.REST == nil {
		var err error
		if c.REST, err = rest.InClusterConfig(); err != nil {
			return nil, fmt.Errorf("attest: Config.REST is nil, and this is no pod: %w", err)
		}
	}
	c.REST = rest.CopyConfig(c.REST)
	if c.REST.QPS == 0 { // the default of 5 a second is for people
		c.REST.QPS, c.REST.Burst = 200, 400
	}
	api, err := client.NewForConfig(c.REST)
	if err != nil {
		return nil, fmt.Errorf("attest: %w", err)
	}
	return &Attestor{config: c, api: api}, nil
}

// denied is a no: of the pod or the cluster as it is.
func denied(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{errNot}, args...)...)
}

var errNot error = not{}

// not is broker.ErrDenied with a text of its own.
type not struct{}

func (not) Error() string        { return "attest" }
func (not) Is(target error) bool { return target == broker.ErrDenied }

// Attest implements broker.Attestor: secret is the token.
func (a *Attestor) Attest(ctx context.Context, sandbox string, secret []byte) error {
	uid, err := a.review(ctx, sandbox, string(secret))
	if err != nil {
		return err
	}
	if err := a.pod(ctx, sandbox, uid); err != nil {
		return err
	}
	return a.rights(ctx)
}

// Where the API server says whose token it was.
const (
	extraPod = "authentication.kubernetes.io/pod-name"
	extraUID = "authentication.kubernetes.io/pod-uid"
)

// review returns the UID of the pod of a token, which is that of the sandbox.
func (a *Attestor) review(ctx context.Context, sandbox, token string) (uid string, err error) {
	r, err := a.api.AuthenticationV1().TokenReviews().Create(ctx, &authentication.TokenReview{
		Spec: authentication.TokenReviewSpec{Token: token, Audiences: []string{shape.Audience}},
	}, meta.CreateOptions{})
	if err != nil {
		return "", fmt.Errorf("attest: review a token: %w", err)
	}
	s := r.Status
	one := func(key string) string { return strings.Join(s.User.Extra[key], " ") }
	name, uid := one(extraPod), one(extraUID)
	switch {
	case !s.Authenticated || !slices.Contains(s.Audiences, shape.Audience):
		return "", denied("the API server does not know the sandbox's token, for %s", shape.Audience)
	case !strings.HasPrefix(s.User.Username, "system:serviceaccount:"+a.config.Namespace+":"):
		return "", denied("the token is of %s, and not of namespace %s", s.User.Username, a.config.Namespace)
	case name != shape.PodName(sandbox) || uid == "":
		return "", denied("the token is of pod %q, and not of sandbox %s", name, sandbox)
	}
	return uid, nil
}

// pod looks at the pod of a sandbox, as the API server has it: also at what this package has no name for.
func (a *Attestor) pod(ctx context.Context, sandbox, uid string) error {
	raw, err := a.api.CoreV1().RESTClient().Get().Namespace(a.config.Namespace).Resource("pods").Name(shape.PodName(sandbox)).
		SetHeader("Accept", "application/json").Do(ctx).Raw()
	if apierrors.IsNotFound(err) {
		return denied("the pod of sandbox %s is gone", sandbox)
	} else if err != nil {
		return fmt.Errorf("attest: look at the pod of sandbox %s: %w", sandbox, err)
	}
	var p core.Pod
	var all struct{ Spec map[string]any }
	if err := errors.Join(json.Unmarshal(raw, &p), json.Unmarshal(raw, &all)); err != nil {
		return fmt.Errorf("attest: the pod of sandbox %s: %w", sandbox, err)
	}
	switch {
	case string(p.UID) != uid || p.Annotations[shape.AnnotationID] != sandbox:
		return denied("the token is of another pod of that name")
	case p.DeletionTimestamp != nil:
		return denied("the pod is being deleted")
	case p.Labels[shape.LabelNetwork] != shape.NetworkNone:
		return denied("the pod's network is not that of a sandbox")
	}
	for name := range p.Annotations {
		if name != shape.AnnotationID && name != shape.AnnotationLabels && !slices.Contains(a.config.Annotations, name) {
			return denied("the pod has annotation %s: is it of Config.Annotations?", name)
		}
	}
	want, err := a.want(&p)
	if err != nil {
		return err
	}
	return differs(all.Spec, want)
}

// want is what the pod has to be. What it says of itself is taken over where any value will do.
func (a *Attestor) want(p *core.Pod) (*core.PodSpec, error) {
	if len(p.Spec.Containers) != 1 || len(p.Spec.InitContainers) != 1 || len(p.Spec.EphemeralContainers) != 0 {
		return nil, denied("the pod has %d containers, %d before them and %d beside them: want 1, 1 and none",
			len(p.Spec.Containers), len(p.Spec.InitContainers), len(p.Spec.EphemeralContainers))
	}
	main := p.Spec.Containers[0]
	if main.Image != a.config.RunnerImage && !slices.Contains(a.config.Images, main.Image) {
		return nil, denied("the pod is of image %s, which is none of Config.Images", main.Image)
	}
	box := shape.Sandbox{
		RunnerImage: a.config.RunnerImage, Image: main.Image, RuntimeClass: a.config.RuntimeClass, ProofKey: a.config.ProofKey,
		UserNS: p.Spec.HostUsers != nil,
	}
	if s := p.Spec.SecurityContext; s != nil && s.RunAsUser != nil {
		box.ID = *s.RunAsUser
	}
	if box.ID == 0 {
		return nil, denied("the pod runs as root")
	}
	box.ReadEnv(main.Env)
	for _, v := range p.Spec.Volumes {
		if v.Projected != nil && len(v.Projected.Sources) == 1 && v.Projected.Sources[0].ServiceAccountToken != nil && v.Projected.Sources[0].ServiceAccountToken.ExpirationSeconds != nil {
			box.Expires = *v.Projected.Sources[0].ServiceAccountToken.ExpirationSeconds
		}
	}
	spec := box.Spec()
	for _, c := range []*core.Container{&spec.InitContainers[0], &spec.Containers[0]} {
		c.TerminationMessagePath = cmp.Or(c.TerminationMessagePath, core.TerminationMessagePathDefault)
	}
	for _, v := range spec.Volumes {
		if v.Projected != nil {
			v.Projected.DefaultMode = shape.Ref(core.ProjectedVolumeSourceDefaultMode)
		}
	}
	return &spec, nil
}
