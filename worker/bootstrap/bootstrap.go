// Package bootstrap makes a worker's program usable as what runs inside its
// sandboxes: the tool runner, and the process of a guest step.
package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/stepward/stepward/internal/engine"
	"github.com/stepward/stepward/internal/runner"
	_ "github.com/stepward/stepward/internal/runner/early" // serves before main
	"github.com/stepward/stepward/workflow"
)

// Init is the first line of main in a program that embeds a worker. Started
// inside a sandbox, it serves there and never returns. Everywhere else it does
// nothing.
//
// The initialization of the program's packages runs before it, in the sandbox
// as well: without a network, on a read-only file system and with an empty
// environment. What needs those belongs into main, after Init. A guest step has all
// of it behind itself; the tool runner begins in the middle of it, as soon as what
// it consists of is initialized, and leaves the rest out. A guest that does not get
// to Init within 15 s is ended.
func Init(definitions ...*workflow.Definition) {
	runner.Main(func(ctx context.Context, r runner.GuestRequest) ([]byte, error) {
		step, err := find(definitions, r)
		if err != nil {
			return nil, err
		}
		var id workflow.RunID
		if err := id.UnmarshalText([]byte(r.RunID)); err != nil {
			return nil, err
		}
		_, key, _ := strings.Cut(r.IdempotencyKey, "/")
		out, err := step.Call(engine.WithAttempt(ctx, engine.Attempt{
			Step: step, Run: int64(id), Key: key, Number: r.Attempt, Unique: r.IdempotencyKey, Details: r.Details, Beat: r.Beat, Outlet: r.Outlet,
		}), r.Input)
		if value := (*workflow.ValueError)(nil); errors.As(err, &value) {
			err = workflow.Permanent(err) // as on the worker: it will not do better next time
		}
		return out, err
	})
}

// find returns the step that a worker asks for. The program may be another one
// than the worker's, so it may be missing.
func find(definitions []*workflow.Definition, r runner.GuestRequest) (*engine.Step, error) {
	for _, d := range definitions {
		e := d.Engine()
		if e.Workflow != r.Workflow || e.Version != r.Version {
			continue
		}
		for _, s := range e.Steps {
			if s.Name == r.Step && s.Call != nil {
				return s, nil
			}
		}
	}
	return nil, workflow.Permanent(fmt.Errorf("the program in the sandbox has no guest step %s of %s@%s: pass its definition to bootstrap.Init", r.Step, r.Workflow, r.Version))
}
