package sandbox_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/stepward/stepward/sandbox"
)

func TestNegativeOrphanAfter(t *testing.T) {
	if _, err := sandbox.Start(t.Context(), nil, sandbox.Options{OrphanAfter: -1}); err == nil || !strings.Contains(err.Error(), "OrphanAfter is negative") {
		t.Errorf("got %v", err)
	}
}

func TestSpecValidate(t *testing.T) {
	for _, c := range []struct {
		field, reason string
		spec          sandbox.Spec
	}{
		{"", "", sandbox.Spec{Env: map[string]string{"KEY": "ä=b"}, Network: sandbox.NetworkPolicy{Allow: []string{"10.0.0.0/8", "example.com:443"}}}},
		{"Env", `variable name "A=B"`, sandbox.Spec{Env: map[string]string{"A=B": ""}}},
		{"Env", `variable name ""`, sandbox.Spec{Env: map[string]string{"": ""}}},
		{"Env", `"KEY" has a NUL byte`, sandbox.Spec{Env: map[string]string{"KEY": "secret\x00"}}},
		{"Env", `"KEY" is not UTF-8`, sandbox.Spec{Env: map[string]string{"KEY": "secret\xff"}}},
		{"Limits.PIDs", "it is negative: -1", sandbox.Spec{Limits: sandbox.Limits{PIDs: -1}}},
		{"Limits.Time", "it is negative", sandbox.Spec{Limits: sandbox.Limits{Time: -1}}},
		{"Network.Allow", `"": it is empty`, sandbox.Spec{Network: sandbox.NetworkPolicy{Allow: []string{""}}}},
		{"Network.Allow", `"10.0.0.0/99"`, sandbox.Spec{Network: sandbox.NetworkPolicy{Allow: []string{"10.0.0.0/99"}}}},
	} {
		err := c.spec.Validate()
		if c.field == "" {
			if err != nil {
				t.Errorf("%+v: %v", c.spec, err)
			}
			continue
		}
		var wrong *sandbox.SpecError
		if !errors.As(err, &wrong) || wrong.Field != c.field || !strings.Contains(wrong.Reason, c.reason) || strings.Contains(err.Error(), "secret") {
			t.Errorf("got %v, want %s of %s", err, c.reason, c.field)
		}
		if _, serr := sandbox.Start(t.Context(), nil, sandbox.Options{Spec: c.spec}); !errors.As(serr, &wrong) {
			t.Errorf("Start: %v", serr)
		}
	}
}
