package workflow_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/workflow"
)

// The names that a step lists are checked when it is made, and each of them.
func TestStepSecrets(t *testing.T) {
	many := make([]string, 101)
	for i := range many {
		many[i] = fmt.Sprint("K", i)
	}
	for what, c := range map[string]struct {
		mode    workflow.Mode
		secrets []string
		culprit string
	}{
		"without":            {workflow.Identity, nil, ""},
		"required, optional": {workflow.AgentJIT, []string{"DEPLOY_TOKEN", "REGION?"}, ""},
		"bare":               {workflow.Bare, []string{"DEPLOY_TOKEN"}, "mode bare"},
		"sandboxed":          {workflow.Sandboxed, []string{"DEPLOY_TOKEN"}, "mode sandboxed"},
		"reserved":           {workflow.Identity, []string{"LD_PRELOAD?"}, "LD_PRELOAD"},
		"lower case":         {workflow.Identity, []string{"token"}, "token"},
		"twice":              {workflow.Identity, []string{"A", "A?"}, "A is listed twice"},
		"too many":           {workflow.Identity, many, "101"},
	} {
		step := workflow.NewStep("publish", func(context.Context, int) (int, error) { return 0, nil }, workflow.StepOptions{Mode: c.mode, Secrets: c.secrets})
		d := workflow.Define(workflow.DurableWorkflow[int, int]{Name: "site"}, func(workflow.Context, int) (int, error) { return 0, nil }, workflow.Options{Steps: []workflow.Declared{step}}).Engine()
		err := errors.Join(d.Errs...)
		switch {
		case c.culprit == "" && (err != nil || !slices.Equal(d.Steps[0].Secrets, c.secrets)):
			t.Errorf("%s: got %v, %v", what, d.Steps[0].Secrets, err)
		case c.culprit != "" && (err == nil || !strings.Contains(err.Error(), c.culprit) || !strings.Contains(err.Error(), "publish")):
			t.Errorf("%s: got %v", what, err)
		}
	}
}

// What would have a guest that has secrets load or trust something is refused when the step is made. Commands of a tool step need
// not have any.
func TestSteeredStep(t *testing.T) {
	spec := func(names ...string) sandbox.Spec {
		env := map[string]string{"REGION": "eu", "HOME": "/workspace", "PATH": "/usr/bin"}
		for _, n := range names {
			env[n] = "x"
		}
		return sandbox.Spec{Env: env}
	}
	step := func(s sandbox.Spec, secrets ...string) workflow.Declared {
		return workflow.NewStep("publish", func(context.Context, int) (int, error) { return 0, nil }, workflow.StepOptions{Mode: workflow.Identity, Secrets: secrets, Sandbox: s})
	}
	tool := workflow.NewToolStep("publish", func(context.Context, *sandbox.Sandbox, int) (int, error) { return 0, nil },
		workflow.StepOptions{Mode: workflow.Identity, Secrets: []string{"TOKEN"}, Sandbox: spec("LD_PRELOAD")})
	for what, c := range map[string]struct {
		step    workflow.Declared
		culprit string
	}{
		"others":     {step(spec(), "TOKEN"), ""},
		"no secrets": {step(spec("LD_PRELOAD")), ""},
		"a tool":     {tool, ""},
		"steered":    {step(spec("NODE_OPTIONS", "LD_PRELOAD"), "TOKEN"), "LD_PRELOAD"},
		"lower case": {step(spec("https_proxy"), "TOKEN"), "https_proxy"},
	} {
		d := workflow.Define(workflow.DurableWorkflow[int, int]{Name: "site"}, func(workflow.Context, int) (int, error) { return 0, nil }, workflow.Options{Steps: []workflow.Declared{c.step}}).Engine()
		if err := errors.Join(d.Errs...); (err != nil) != (c.culprit != "") || err != nil && (!strings.Contains(err.Error(), c.culprit) || !strings.Contains(err.Error(), "publish")) {
			t.Errorf("%s: got %v", what, err)
		}
	}
}

// A sandbox with secrets is of one attempt: what others list is not in it.
func TestSecretsAreNotShared(t *testing.T) {
	for mode, want := range map[workflow.Mode]bool{workflow.Sandboxed: false, workflow.Identity: true, workflow.AgentJIT: true} {
		step := workflow.NewStep("publish", func(context.Context, int) (int, error) { return 0, nil }, workflow.StepOptions{Mode: mode, Sandbox: sandbox.Spec{Share: true}})
		d := workflow.Define(workflow.DurableWorkflow[int, int]{Name: "site"}, func(workflow.Context, int) (int, error) { return 0, nil }, workflow.Options{Steps: []workflow.Declared{step}}).Engine()
		if err := errors.Join(d.Errs...); (err != nil) != want || want && (!strings.Contains(err.Error(), "Share") || !strings.Contains(err.Error(), "publish")) {
			t.Errorf("%v: got %v", mode, err)
		}
	}
}
