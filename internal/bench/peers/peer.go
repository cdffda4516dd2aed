package main

import (
	"context"
	"sync/atomic"
)

// A shape is what a run looks like.
type shape int

const (
	chain  shape = iota // n steps, one after the other; the result is n
	fan                 // n steps at once; the result is their number
	letter              // one step, then the wait for a signal; the result is what came
)

// A peer is a system with its client and its worker in this process.
type peer interface {
	// enqueue adds a run. It is durable when enqueue returns.
	enqueue(ctx context.Context, s shape, n int) (handle, error)

	// close ends the worker. What waits is there again after the next open.
	close()
}

// A handle is a run that was enqueued.
type handle struct {
	result func(ctx context.Context) (int, error) // waits for it
	signal func(ctx context.Context, v int) error
}

// A system is a kind of peer.
type system struct {
	name, module string // the module, whose version is printed
	shapes       []shape
	how          string // it is used
	open         func(ctx context.Context, d *database) (peer, error)
}

var everything = []shape{chain, fan, letter}

// systems are what is compared. The first one is what the ratios are to.
var systems = []system{
	{"stepward", "github.com/stepward/stepward", everything, `
Client.Enqueue and Run.Result; a worker of 100 runs.`, openStepward},
	{"dbos", "github.com/dbos-inc/dbos-transact-golang", everything, `
RunWorkflow WithQueue on a registered queue without limits, which is polled every
second, and GetResult of its handle, which looks every second; RunAsStep, and Go for
steps at once; Recv and Send.`, openDBOSQueue},
	{"dbos-direct", "github.com/dbos-inc/dbos-transact-golang", everything, `
the same without a queue: RunWorkflow starts the run in the process that calls it,
which also hears of its result from itself. Nothing is handed to another process,
so no queue is compared here; it is how DBOS is used where none is needed.`, openDBOSDirect},
	{"river", "github.com/riverqueue/river", []shape{chain, fan}, `
one job per run that does all its steps and records none: a run that fails starts
over. The result is the job's output, heard of by Subscribe. A queue of 100 workers.`, openRiver},
	{"river-steps", "github.com/riverqueue/river", []shape{chain, fan}, `
what a team would write on River: a job per step, which inserts a row with its output
and the job of the next step, and completes, in one transaction (JobCompleteTx). The
waiting caller is told in process. Signals would be the team's own invention.`, openRiverSteps},
	{"go-workflows", "github.com/cschleiden/go-workflows", everything, `
its Postgres backend and worker with DefaultOptions (2 pollers each for workflows and
activities, every 200 ms when there was nothing), GetWorkflowResult, which looks after
1 ms and ever more seldom up to every second.`, openGoWorkflows},
}

// executed counts the steps that ran, of all systems. Work is done when it says
// so: that needs nobody's polling.
var executed atomic.Int64

// step is what every system executes as a step.
func step(_ context.Context, n int) (int, error) {
	executed.Add(1)
	return n + 1, nil
}
