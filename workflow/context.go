package workflow

import (
	"context"
	"log/slog"
	"time"
)

// Context is what a body passes to steps and to the functions of this package.
// It is no context.Context, on purpose: a body can do no I/O with it. It
// belongs to the body, or to the branch that it was made for; a call on another
// goroutine parks the run.
type Context interface {
	// Info describes the run.
	Info() Info

	// Logger writes to the worker's log with the run's id. It is silent while
	// recorded steps are replayed.
	Logger() *slog.Logger

	// SetAttribute sets an attribute of the run: see EnqueueOptions.Attributes,
	// and the limits there. It is durable before the next step starts. The
	// error is an *[OptionError].
	SetAttribute(name string, value any) error

	at() (*branch, *scope) // seals the interface
}

// Info describes a run to its body.
type Info struct {
	Run               RunID
	Workflow, Version string
	Tenant            string

	// Tick is the time that a schedule enqueued the run for; see
	// [DurableWorkflow.Schedule]. Zero of any other run.
	Tick time.Time
}

type bodyContext struct {
	b *branch
	s *scope
}

func (c bodyContext) at() (*branch, *scope) { return c.b, c.s }

// Info implements Context.
func (c bodyContext) Info() Info {
	t := c.b.t
	return Info{Run: RunID(t.in.Run), Workflow: t.def.Workflow, Version: t.def.Version, Tenant: t.in.Tenant, Tick: t.in.Tick}
}

// Logger implements Context.
func (c bodyContext) Logger() *slog.Logger {
	return slog.New(replayFilter{c.b.t.in.Logger.Handler(), c.b.t})
}

// replayFilter drops log records while the body only repeats what is recorded.
type replayFilter struct {
	slog.Handler
	t *turn
}

// Enabled implements slog.Handler. It is called by who has the baton.
func (h replayFilter) Enabled(ctx context.Context, l slog.Level) bool {
	return len(h.t.replay) == 0 && h.Handler.Enabled(ctx, l)
}

// WithAttrs implements slog.Handler.
func (h replayFilter) WithAttrs(a []slog.Attr) slog.Handler {
	return replayFilter{h.Handler.WithAttrs(a), h.t}
}

// WithGroup implements slog.Handler.
func (h replayFilter) WithGroup(name string) slog.Handler {
	return replayFilter{h.Handler.WithGroup(name), h.t}
}
