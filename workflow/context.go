package workflow

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"time"
)

// Context is what a body passes to steps and to the functions of this package.
// It is no context.Context, on purpose: a body can do no I/O with it. It
// belongs to the body, or to the branch that it was made for; a call on another
// goroutine parks the run.
//
// Its methods take no time and never wait. What waits, such as [Sleep], or has a
// type of its own, such as [Map], is a function that takes a Context.
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

	// Now returns the time. It is recorded: a replay gets the same.
	Now() time.Time

	// Random returns a source of chance that is the same on every replay. Each
	// branch has its own.
	Random() *rand.Rand

	// Patched reports whether the run executes code that came with a patch:
	// true for runs that get here for the first time, false for those that
	// passed here before the patch. Both ways stay in the body as long as there
	// are such runs. A name is 1 to 100 of letters, digits and "_-.":
	//
	//	if ctx.Patched("mail-first") {
	//		…
	//	}
	Patched(name string) bool

	// Finally has fn called when the body has returned, whether it failed, was
	// canceled or completed; the last one registered is called first. Its
	// Context is not canceled with the run. A deferred function cannot do that:
	// it is called each time that the run leaves its worker. All are called,
	// also after one has failed; the first error is that of the run when the
	// body returned none, others are dropped. One that is registered by a cleanup is not called, and none can
	// begin the run anew. No time
	// bounds a cleanup, not even a cancelation: [Client.Terminate] ends it. A run that
	// ends where its body cannot return has none: one that is terminated, or that is
	// canceled or late while it is parked, but for a pause.
	Finally(fn func(Context) error)

	// WithCancel returns a Context whose calls return [ErrCanceled] once the
	// function was called, by whichever branch of the body. Steps that execute then are
	// interrupted.
	WithCancel() (Context, func())

	// WithTimeout returns a Context whose calls return [ErrTimeout] once d has
	// passed, and [ErrCanceled] once the function was called. Call it when the
	// Context is done with. What had come before d was over is handed over first, also when no
	// worker had the run then. A run that has nothing else to wait for does not wait for d.
	WithTimeout(d time.Duration) (Context, func())

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

// caller returns the branch and the scope that a Context is of. Without one there is no
// run to park; that the body panics does.
func caller(ctx Context) (*branch, *scope) {
	if ctx == nil {
		panic(&OptionError{Option: "Context", Reason: "it is nil: want the one that the body, or its branch, is passed"})
	}
	return ctx.at()
}

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
