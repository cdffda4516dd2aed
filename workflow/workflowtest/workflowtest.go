// Package workflowtest runs workflows in unit tests, in memory: no Postgres, no
// worker, no sandbox.
//
// [Run] executes a workflow once. [New] makes an [Env] for more: a clock under
// control, fakes of steps and of child runs, and points at which a test sends
// signals, cancels the run, or loses its worker:
//
//	e := workflowtest.New(t, PortfolioV1)
//	workflowtest.Fake(e, publish, func(context.Context, Pages) (string, error) { return "url", nil })
//	e.Before("signal:approve", func() { workflowtest.Send(e, approve, Decision{OK: true}) })
//	e.After("build#2", e.Crash)
//	out, err := workflowtest.Execute(e, Portfolio, brief)
//	fmt.Print(e.Record())
//
// [Env.Runs] shows of the children what was asked for them. Their deadlines hold and
// their keys are unique; priorities and limits hold nothing back, as there is no
// worker that has too little room: whatever is ready is executed, in the order in
// which it began. A tenant there is none.
//
// [Replay] compares code with the history of a run of production, which
// [workflow.Client.Export] wrote, or [Env.History].
package workflowtest

import (
	"errors"
	"fmt"
	"time"

	"github.com/stepward/stepward/workflow"
)

// ErrToolStep reports a tool step: it needs a real sandbox, which a unit test
// does not have.
var ErrToolStep = errors.New("workflowtest: a tool step cannot run without a sandbox")

// ErrTxStep reports a step in a transaction: it needs a real database.
var ErrTxStep = errors.New("workflowtest: a step in a transaction cannot run without a database")

// ErrStuck reports a run that waits for what nobody sends.
var ErrStuck = errors.New("workflowtest: the run waits for a signal without a timeout")

// Run executes a run of the workflow to its end and returns its output. Every
// step's function runs in this process, whatever its mode; waits take no
// time; the Timeout of a step holds. The input, the outputs and
// the errors of steps pass through their encodings as they do in production.
// What a test needs beyond that is in [Env].
//
// The error is a *[workflow.RecordedError] when the run failed or was canceled, [ErrStuck],
// and another one when the definition is wrong or the run would have parked.
func Run[In, Out any](w workflow.DurableWorkflow[In, Out], d *workflow.Definition, in In) (Out, error) {
	if def := d.Engine(); def.Workflow != w.Name {
		var none Out
		return none, fmt.Errorf("workflowtest: the definition is of %s, not of %s", def.Workflow, w.Name)
	}
	e := New(nil, d)
	e.SetNow(time.Now())
	return Execute(e, w, in)
}

// Replay compares a definition with the recorded history of a run, as
// [workflow.Client.Export] writes it: no step is executed. Keep histories of real
// runs beside the code, and let a test replay each: it fails when a deploy would
// park such a run. The errors are those of [workflow.Client.Replay], and a
// *[workflow.ValueError] for what is no history.
func Replay(d *workflow.Definition, history []byte) error { return d.Engine().Replay(history) }
