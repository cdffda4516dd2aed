package workflow

import "log/slog"

// Context is what a body passes to steps and to the functions of this package.
// It is no context.Context, on purpose: a body can do no I/O with it. It
// belongs to the goroutine that the body was called on; a call from another one
// parks the run.
type Context interface {
	// Info describes the run.
	Info() Info

	// Logger writes to the worker's log with the run's id. It is silent while
	// recorded steps are replayed.
	Logger() *slog.Logger

	turn() *turn // seals the interface
}

// Info describes a run to its body.
type Info struct {
	Run               RunID
	Workflow, Version string
	Tenant            string
}

type bodyContext struct{ t *turn }

func (c bodyContext) turn() *turn { return c.t }

func (c bodyContext) Info() Info {
	return Info{Run: RunID(c.t.in.Run), Workflow: c.t.def.Workflow, Version: c.t.def.Version, Tenant: c.t.in.Tenant}
}

func (c bodyContext) Logger() *slog.Logger {
	return slog.New(replayFilter{c.t.in.Logger.Handler(), c.t})
}
