package kubernetes

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"

	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/sandbox/kubernetes/internal/shape"
)

// assess says whether the tool runner of a pod runs, or why it never will.
func assess(pod *core.Pod) (running bool, err error) {
	for _, s := range pod.Status.InitContainerStatuses {
		if err := waitsInVain(pod, s); err != nil {
			return false, err
		}
		if t := s.State.Terminated; t != nil && (t.ExitCode != 0 || t.Reason != "Completed") {
			if strings.Contains(t.Message, "exec format error") {
				return false, &sandbox.ImageError{Backend: Name, Image: imageIn(pod, s.Name), Reason: "wrong platform: the node cannot execute its program"}
			}
			return false, unavailable("the tool runner could not be copied from image "+imageIn(pod, s.Name)+". "+said(t), nil)
		}
		// A program that ignores what it was asked to be would run for ever.
	}
	for _, s := range pod.Status.ContainerStatuses {
		if err := waitsInVain(pod, s); err != nil {
			return false, err
		}
		if t := s.State.Terminated; t != nil {
			return false, ended(pod, s.Name, t)
		}
		running = running || s.State.Running != nil
	}
	if pod.Status.Phase == core.PodFailed {
		return false, unavailable("the node refused pod "+pod.Name+": "+pod.Status.Reason+": "+pod.Status.Message, nil)
	}
	return running, nil
}

// ended explains a tool runner that ended before anybody reached it.
func ended(pod *core.Pod, container string, t *core.ContainerStateTerminated) error {
	switch {
	case strings.Contains(t.Message, openNetwork):
		return unavailable("the cluster does not enforce NetworkPolicy on pods of namespace "+pod.Namespace+": "+strings.TrimSpace(t.Message), nil)
	case strings.Contains(t.Message, writable):
		_, dir, _ := strings.Cut(t.Message, writable+": ")
		return &sandbox.ImageError{Backend: Name, Image: imageIn(pod, container), Reason: "has a VOLUME at " + strings.TrimSpace(dir) +
			", on the node's disk and without limit, from which only Landlock keeps commands: and that is not there"}
	case strings.Contains(t.Message, "exec format error"):
		return &sandbox.ImageError{Backend: Name, Image: imageIn(pod, container), Reason: "wrong platform: the node cannot execute the tool runner"}
	case strings.Contains(t.Message, ProgramPath) && strings.Contains(t.Message, "no such file"):
		return unavailable("the tool runner is not on its volume: is bootstrap.Init the first call in main of the program in "+imageIn(pod, shape.Installer)+"?", nil)
	}
	return unavailable("the tool runner ended at once. "+said(t), nil)
}

// How a tool runner says so.
const (
	openNetwork = "the network is still open"
	writable    = "there is another directory to write to"
)

func said(t *core.ContainerStateTerminated) string {
	return fmt.Sprintf("It ended with status %d, %s, and said: %s", t.ExitCode, cmp.Or(t.Reason, "no reason"), cmp.Or(strings.TrimSpace(t.Message), "nothing"))
}

func imageIn(pod *core.Pod, container string) string {
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		if c.Name == container {
			return c.Image
		}
	}
	return ""
}

// Parts of messages about images that trying again does not help.
var permanent = []struct{ part, reason string }{
	{"invalid reference format", "is no image reference"},
	{"no match for platform", "wrong platform: it has none for the node"},
	{"does not match the specified platform", "wrong platform"},
	{"not found", "not found"},
	{"manifest unknown", "not found"},
	{"pull access denied", "not found, or its registry wants credentials: see kubernetes.Config.PullSecrets"},
	{"unauthorized", "its registry wants credentials: see kubernetes.Config.PullSecrets"},
	{"authorization failed", "its registry wants credentials: see kubernetes.Config.PullSecrets"},
	{"no such host", "its registry does not exist"},
}

// inVain returns why trying again does not help, "" where it may.
func inVain(message string) string {
	for _, p := range permanent {
		if strings.Contains(message, p.part) {
			return p.reason
		}
	}
	return ""
}

// waitsInVain reports a container that waits for what does not come.
func waitsInVain(pod *core.Pod, s core.ContainerStatus) error {
	w := s.State.Waiting
	if w == nil {
		return nil
	}
	says := " (" + w.Reason + ": " + w.Message + ")"
	failed := func(reason string) error {
		return &sandbox.ImageError{Backend: Name, Image: imageIn(pod, s.Name), Reason: reason + says}
	}
	switch w.Reason {
	case "InvalidImageName":
		return failed("is no image reference")
	case "ErrImageNeverPull":
		return failed("not on the node, and never pulled")
	case "ErrImagePull", "ImagePullBackOff":
		if reason := inVain(w.Message); reason != "" {
			return failed(reason)
		}
	case "CreateContainerConfigError", "CreateContainerError", "RunContainerError":
		return unavailable("the node cannot make container "+s.Name+" of pod "+pod.Name+": "+w.Reason+": "+w.Message, nil)
	}
	return nil
}

// tooLate explains why a pod was not ready in time.
func (c *cluster) tooLate(ctx context.Context, pod *core.Pod, bound time.Duration) error {
	late := fmt.Sprintf("pod %s was not ready after %v: ", pod.Name, bound)
	for _, cond := range pod.Status.Conditions {
		if cond.Type == core.PodScheduled && cond.Status == core.ConditionFalse {
			return unavailable(late+"no node takes it: "+cond.Message, nil)
		}
	}
	for _, s := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		if w := s.State.Waiting; w != nil && (w.Reason == "ErrImagePull" || w.Reason == "ImagePullBackOff") {
			return &sandbox.ImageError{Backend: Name, Image: imageIn(pod, s.Name), Reason: "cannot be pulled: " + w.Message}
		}
		if s.Name == shape.Installer && s.State.Running != nil {
			return unavailable(late+"the program in image "+imageIn(pod, shape.Installer)+" does not end: is bootstrap.Init the first call in its main?", nil)
		}
	}
	all := c.warnings(ctx, pod)
	if err := notPulled(pod, all); err != nil {
		return err
	}
	if w := latest(all); w != "" {
		return unavailable(late+w, nil)
	}
	return unavailable(late+"it is "+string(pod.Status.Phase), nil)
}

// notPulled explains a pod whose last warning is about an image: the node's events may be
// there well before its status of the pod.
func notPulled(pod *core.Pod, warnings []core.Event) error {
	w := latest(warnings)
	if !strings.Contains(w, "ErrImagePull") && !strings.Contains(w, "ImagePullBackOff") && !strings.Contains(w, pullFailed) {
		return nil
	}
	e := warnings[len(warnings)-1]
	for _, each := range warnings { // others say only that it failed
		if each.InvolvedObject.FieldPath == e.InvolvedObject.FieldPath && strings.HasPrefix(each.Message, pullFailed) {
			e = each
		}
	}
	_, container, _ := strings.Cut(e.InvolvedObject.FieldPath, "{") // spec.containers{NAME}
	container = strings.TrimSuffix(container, "}")
	for _, s := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		if s.Name == container && (s.ImageID != "" || s.State.Waiting == nil) { // it was pulled since
			return nil
		}
	}
	return &sandbox.ImageError{
		Backend: Name, Image: imageIn(pod, container),
		Reason: cmp.Or(inVain(e.Message), "cannot be pulled") + " (" + e.Message + ")",
	}
}

// pullFailed is how the message of such an event begins.
const pullFailed = "Failed to pull image"

// warnings returns the warnings about a pod, the last one last.
func (c *cluster) warnings(ctx context.Context, pod *core.Pod) []core.Event {
	list, err := c.api.CoreV1().Events(c.namespace).List(ctx, meta.ListOptions{
		FieldSelector: fields.Set{"involvedObject.uid": string(pod.UID), "type": core.EventTypeWarning}.String(),
	})
	if err != nil {
		return nil
	}
	at := func(e core.Event) time.Time {
		if e.LastTimestamp.IsZero() {
			return e.EventTime.Time
		}
		return e.LastTimestamp.Time
	}
	slices.SortStableFunc(list.Items, func(a, b core.Event) int { return at(a).Compare(at(b)) })
	return list.Items
}

// latest returns what the last of a pod's warnings says, "" if there is none.
func latest(warnings []core.Event) string {
	if len(warnings) == 0 {
		return ""
	}
	e := warnings[len(warnings)-1]
	return e.Reason + ": " + e.Message
}

// errNoUserNS reports a node whose container runtime has no user namespaces.
var errNoUserNS = errors.New("the node's container runtime has no user namespaces")

// hopeless reports a warning about what the node will try again, in vain.
func hopeless(warning string) error {
	switch {
	case strings.Contains(warning, "user namespace"):
		return fmt.Errorf("%w: %s", errNoUserNS, warning)
	case strings.Contains(warning, "no runtime for"):
		return unavailable("the node lacks the runtime of its RuntimeClass: "+warning, nil)
	}
	return nil
}
