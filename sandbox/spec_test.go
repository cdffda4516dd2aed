package sandbox_test

import (
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
	for want, s := range map[string]sandbox.Spec{
		"":                              {Env: map[string]string{"KEY": "ä=b"}, Network: sandbox.NetworkPolicy{Allow: []string{"10.0.0.0/8", "example.com:443"}}},
		`variable name "A=B"`:           {Env: map[string]string{"A=B": ""}},
		`variable name ""`:              {Env: map[string]string{"": ""}},
		"KEY has a NUL byte":            {Env: map[string]string{"KEY": "a\x00"}},
		`"KEY" is not UTF-8`:            {Env: map[string]string{"KEY": "secret\xff"}},
		"limit PIDs is negative":        {Limits: sandbox.Limits{PIDs: -1}},
		`Network.Allow "": it is empty`: {Network: sandbox.NetworkPolicy{Allow: []string{""}}},
		`Network.Allow "10.0.0.0/99"`:   {Network: sandbox.NetworkPolicy{Allow: []string{"10.0.0.0/99"}}},
	} {
		err := s.Validate()
		if want == "" {
			if err != nil {
				t.Errorf("%+v: %v", s, err)
			}
		} else if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}
