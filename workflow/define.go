package workflow

import (
	"fmt"
	"reflect"
	"strings"

	"github.com/stepward/stepward/internal/engine"
	"github.com/stepward/stepward/internal/enqueue"
)

// DurableWorkflow names a workflow and the types of its input and output. It
// is all that a client needs to enqueue runs; [Define] adds the body.
type DurableWorkflow[In, Out any] struct {
	// Name is stored with every run and never changes. 1 to 100 of letters,
	// digits and "_-./".
	Name string

	child *EnqueueOptions // see With
}

// Options configures a workflow.
type Options struct {
	// Version is stored with every run. A run stays with the version that was
	// newest when it was enqueued: the one that was first listed last. When no
	// live worker lists that, as after a deploy that was taken back, it is the
	// newest of those that one has. Defaults to "1".
	Version string

	// Steps lists every step that the body uses.
	Steps []Declared
}

// Declared is a [Step] of any type.
type Declared interface {
	declare() *engine.Step
	problem() error
}

// A Definition is a workflow with its body. Pass it to worker.Run and to
// bootstrap.Init.
type Definition struct{ core *engine.Definition }

// Engine is for package worker: what it returns cannot be used elsewhere.
func (d *Definition) Engine() *engine.Definition {
	if d == nil || d.core == nil {
		return &engine.Definition{Errs: []error{&DefinitionError{Reason: "it was not made by Define"}}}
	}
	return d.core
}

var validName = enqueue.Name

const nameRule = enqueue.NameRule

// validPart reports whether a step, a branch or a patch may have a name. A slash
// would make step a of branch b and step b/a one key.
func validPart(name string) bool {
	return validName.MatchString(name) && !strings.Contains(name, "/")
}

const partRule = "want 1 to 100 letters, digits and _-., not starting with -."

// Define joins a workflow with its body and steps. What is wrong with them is
// reported, all at once, when a worker starts.
func Define[In, Out any](w DurableWorkflow[In, Out], body func(Context, In) (Out, error), o Options) *Definition {
	if o.Version == "" {
		o.Version = "1"
	}
	d := &engine.Definition{Workflow: w.Name, Version: o.Version}
	add := func(step, format string, args ...any) {
		d.Errs = append(d.Errs, &DefinitionError{Workflow: w.Name, Step: step, Reason: fmt.Sprintf(format, args...)})
	}
	if !validName.MatchString(w.Name) {
		add("", "bad name: %s", nameRule)
	}
	if !validName.MatchString(o.Version) {
		add("", "bad version %q: %s", o.Version, nameRule)
	}
	if err := w.plain(); err != nil {
		add("", "%v", err)
	}
	if body == nil {
		add("", "no body")
	}
	for _, t := range []struct {
		what string
		t    reflect.Type
	}{{"input", reflect.TypeFor[In]()}, {"output", reflect.TypeFor[Out]()}} {
		if err := checkType(t.t, t.what, map[reflect.Type]bool{}); err != nil {
			add("", "%v", err)
		}
	}
	seen := make(map[string]*engine.Step)
	for i, s := range o.Steps {
		if s == nil || reflect.ValueOf(s).IsNil() {
			add("", "step %d of Options.Steps is nil", i)
			continue
		}
		step := s.declare()
		if step == nil {
			add("", "step %d of Options.Steps was not made by NewStep, NewToolStep or NewTxStep", i)
			continue
		}
		if err := s.problem(); err != nil {
			d.Errs = append(d.Errs, &DefinitionError{Workflow: w.Name, Step: step.Name, Reason: err.Error(), Err: err})
		}
		if seen[step.Name] != nil {
			add(step.Name, "two steps have this name")
			continue
		}
		seen[step.Name] = step
		d.Steps = append(d.Steps, step)
	}
	d.Run = newTurn(d, seen, func(ctx Context, input []byte, limit int) ([]byte, error) {
		var in In
		if err := decode("input of workflow "+w.Name, input, &in); err != nil {
			return nil, err
		}
		out, err := body(ctx, in)
		if err != nil {
			return nil, err
		}
		return encode("output of workflow "+w.Name, out, limit)
	})
	d.Replay = func(document []byte) error { return replayDocument(d, document) }
	return &Definition{core: d}
}
