package attest

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	core "k8s.io/api/core/v1"
)

// free are the fields of a pod that may be anything: where and for how long it runs, and as whom it
// could talk to an API server for whose token it does not ask. All others are what [shape.Sandbox.Spec] says, also
// those that a later Kubernetes has.
var free = []string{
	"nodeName", "nodeSelector", "affinity", "tolerations", "schedulerName", "priority", "priorityClassName", "preemptionPolicy",
	"activeDeadlineSeconds", "terminationGracePeriodSeconds", "overhead", "imagePullSecrets", "serviceAccount", "serviceAccountName",
	"volumes/emptyDir/sizeLimit",
}

// measured are the fields that say how much a container has: as much as may be of what is no device of the node's, and
// shared with nobody.
var measured = []string{"containers/resources", "initContainers/resources"}

// extra returns where a measured field has anything else, empty: nowhere.
func extra(path string, got any) string {
	of, ok := got.(map[string]any)
	if !ok && got != nil {
		return path
	}
	for _, key := range slices.Sorted(maps.Keys(of)) {
		amounts, ok := of[key].(map[string]any)
		if !ok || key != "limits" && key != "requests" {
			return path + "/" + key
		}
		for _, name := range slices.Sorted(maps.Keys(amounts)) {
			if name != "cpu" && name != "memory" && name != "ephemeral-storage" {
				return path + "/" + key + "/" + name
			}
		}
	}
	return ""
}

// differs says where a pod is not what it has to be.
func differs(got map[string]any, spec *core.PodSpec) error {
	text, err := json.Marshal(spec)
	if err != nil {
		return err
	}
	var want map[string]any
	if err := json.Unmarshal(text, &want); err != nil {
		return err
	}
	if at := compare("", got, want); at != "" {
		return denied("the pod is not what the backend makes: see its spec.%s", at)
	}
	return nil
}

// compare returns where two values differ, empty: nowhere. An element of a list has the path of the list.
func compare(path string, got, want any) string {
	switch w := want.(type) {
	case map[string]any:
		g, ok := got.(map[string]any)
		if !ok {
			return path
		}
		both := maps.Clone(w)
		maps.Copy(both, g)
		for _, key := range slices.Sorted(maps.Keys(both)) {
			at := strings.TrimPrefix(path+"/"+key, "/")
			if slices.Contains(free, at) {
				continue
			}
			if slices.Contains(measured, at) {
				if where := extra(at, g[key]); where != "" {
					return where
				}
				continue
			}
			if where := compare(at, g[key], w[key]); where != "" {
				return where
			}
		}
		return ""
	case []any:
		g, ok := got.([]any)
		if !ok || len(g) != len(w) {
			return path
		}
		for i := range w {
			if where := compare(path, g[i], w[i]); where != "" {
				return where
			}
		}
		return ""
	}
	if _, ok := got.(map[string]any); ok {
		return path
	}
	if _, ok := got.([]any); ok {
		return path
	}
	if fmt.Sprint(got) != fmt.Sprint(want) || (got == nil) != (want == nil) {
		return path
	}
	return ""
}
