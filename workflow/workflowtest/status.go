package workflowtest

import (
	"maps"

	"github.com/stepward/stepward/internal/engine"
	"github.com/stepward/stepward/workflow"
)

// Runs returns the run that was executed last and those that bodies have started,
// in the order in which they were started, as [workflow.Client.Runs] does: with the
// priority, the limit, the attributes and the deadline that were asked for. One that
// nobody waits for may not have got far: the Env executes no more when the first
// has ended.
func (e *Env) Runs() []workflow.RunStatus {
	e.mu.Lock()
	defer e.mu.Unlock()
	var all []workflow.RunStatus
	for _, r := range e.runs {
		all = append(all, r.look())
	}
	return all
}

func (r *memRun) look() workflow.RunStatus {
	s := workflow.RunStatus{
		ID: r.id, Workflow: r.workflow, Priority: int(r.options.Priority), Limit: r.options.Limit.Key, Turns: r.epoch,
		Enqueued: r.began, Finished: r.ended, CancelRequested: r.isCanceled && r.end.Kind == 0, Attributes: maps.Clone(r.tags),
	}
	if r.parent != nil {
		s.Parent = r.parent.id
	}
	if r.def != nil {
		s.Version = r.def.Version
	}
	if r.deadline != nil && r.end.Kind == 0 && !r.isCanceled {
		s.Deadline = r.deadline.until
	}
	switch {
	case r.end.Kind == engine.Completed:
		s.State = workflow.StateCompleted
	case r.end.Kind == engine.Canceled:
		s.State, s.Err = workflow.StateCanceled, recorded(r.end.Error)
	case r.end.Kind == engine.Failed:
		s.State, s.Err = workflow.StateFailed, recorded(r.end.Error)
	case r.status == waiting:
		s.State, s.Since = workflow.StateWaiting, r.until
	case r.status == active:
		s.State = workflow.StateRunning
	default:
		s.State = workflow.StateReady
	}
	return s
}

// tag gives attributes to a run.
func (r *memRun) tag(attributes []engine.Attribute) {
	for _, a := range attributes {
		if r.tags == nil {
			r.tags = make(map[string]any)
		}
		r.tags[a.Name] = engine.DecodeAttribute(a.Value)
	}
}
