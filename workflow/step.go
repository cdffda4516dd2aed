package workflow

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stepward/stepward/identity"
	"github.com/stepward/stepward/internal/engine"
	"github.com/stepward/stepward/internal/envname"
	"github.com/stepward/stepward/sandbox"
)

// StepOptions configures a step. Its zero value is a bare step without a
// network, secrets or a sandbox, with finite retries.
type StepOptions struct {
	Mode    Mode         // where the step runs; defaults to Bare
	Sandbox sandbox.Spec // what its sandbox requires, above Bare; Share is for Sandboxed alone
	Retry   Retry

	// Secrets are the names that the step may have of what the tenant's profiles
	// give it, secrets and knobs: see package identity. Above Sandboxed. With a "?" at its
	// end, a name may be missing; without, the step does not begin then. Up to 100.
	// What a store makes for an attempt, such as a user of a database, lasts a minute longer than its Timeout, and
	// an hour if that is none. What has secrets gets no variable of Sandbox.Env by which programs execute, load or trust
	// something: a guest step with one is refused, and so is such a command of a tool step ([sandbox.Cmd].Secrets).
	Secrets []string

	// OnSandboxLost says what an attempt ends with whose sandbox was lost: it ended by
	// itself, or its worker died, or had to leave, and no other could go on with it,
	// as with every sandbox of package local, and of tool steps without Continue. Nobody knows
	// how far the step's function came. It is given a *[RecordedError] of Kind
	// "sandbox". Nil: the step is tried again, which uses up an attempt only if the
	// worker was there all the time. [Permanent] fits for a function that must not
	// begin twice: the step fails.
	OnSandboxLost func(error) error

	// Continue lets a tool step outlive its worker where its sandbox does, as a guest
	// does anyway. The next worker calls the function again, as the same attempt, with
	// the same sandbox: /workspace is as it was, and a command that the attempt has
	// started is followed from its first byte and does not run again, see
	// [sandbox.Open] for which. All else that the function did, it does again: what it
	// wrote to files and appended to streams, and commands with a Stdin and no ID. So it has
	// to be written for that. Its last [Heartbeat] says how far it was. When an earlier
	// command, or its output, is not known any more, or the sandbox is gone, the attempt
	// is lost: see OnSandboxLost.
	Continue bool

	// Timeout bounds one attempt. Defaults to 10 minutes; negative means none.
	Timeout time.Duration

	// HeartbeatTimeout is how long an attempt may go without a [Heartbeat] before
	// it has failed with [ErrTimeout]. 0 is for ever.
	HeartbeatTimeout time.Duration

	// Deadline bounds the step: all its attempts and the waits between them,
	// counted from when the body called it, over all workers. When it passes, or
	// when no further attempt could begin before, the step has failed with
	// [ErrTimeout]; an attempt that runs is interrupted. 0 is none.
	Deadline time.Duration
}

// A Step is a named unit of work. Its function may be executed more than once;
// its result is recorded once. Make it with [NewStep], [NewToolStep] or
// [NewTxStep], as a package-level variable, and list it in [Options]. Its name is 1
// to 100 of letters, digits and "_-.".
type Step[In, Out any] struct {
	core *engine.Step
	err  error
}

// NewStep makes a step of a Go function. With mode [Bare] fn runs in the
// worker's process; with any other mode it runs as a guest: in a process of its
// own inside a sandbox, started from the same program.
func NewStep[In, Out any](name string, fn func(context.Context, In) (Out, error), o StepOptions) *Step[In, Out] {
	s := newStep[In, Out](name, o, fn == nil)
	s.err = errors.Join(s.err, toolOnly(o), steered(o))
	s.core.Call = func(ctx context.Context, input []byte) ([]byte, error) {
		var in In
		if err := decode("input of step "+name, input, &in); err != nil {
			return nil, err
		}
		out, err := fn(ctx, in)
		if err != nil {
			return nil, o.Retry.judged(err)
		}
		return encode("output of step "+name, out, 0)
	}
	return s
}

// NewTxStep makes a step of a function that writes to the application's own
// tables, in the database that the worker's Pool is of: what it wrote in tx and
// the step's checkpoint commit together, so both happen exactly once. It is
// always [Bare]. A function that commits or rolls back fails its step; it may be executed
// again when the commit fails, with nothing left of the time before. It holds one
// connection, of the worker's own: see Pool of worker.Config.
func NewTxStep[In, Out any](name string, fn func(context.Context, pgx.Tx, In) (Out, error), o StepOptions) *Step[In, Out] {
	s := newStep[In, Out](name, o, fn == nil)
	s.err = errors.Join(s.err, toolOnly(o))
	if o.Mode != Bare {
		s.err = errors.Join(s.err, errors.New("a step in a transaction has mode Bare"))
	}
	s.core.CallTx = func(ctx context.Context, tx pgx.Tx, input []byte) ([]byte, error) {
		var in In
		if err := decode("input of step "+name, input, &in); err != nil {
			return nil, err
		}
		out, err := fn(ctx, tx, in)
		if err != nil {
			return nil, o.Retry.judged(err)
		}
		return encode("output of step "+name, out, 0)
	}
	return s
}

// NewToolStep makes a step whose function stays on the worker and drives
// commands and files in a sandbox. Its mode is at least [Sandboxed].
func NewToolStep[In, Out any](name string, fn func(context.Context, *sandbox.Sandbox, In) (Out, error), o StepOptions) *Step[In, Out] {
	s := newStep[In, Out](name, o, fn == nil)
	if o.Mode == Bare {
		s.err = errors.Join(s.err, errors.New("a tool step needs mode Sandboxed or above"))
	}
	if o.Continue && o.Sandbox.Share {
		s.err = errors.Join(s.err, errors.New("a step that shares its sandbox has no Continue: the sandbox ends with the worker"))
	}
	s.core.Tool, s.core.Continue = true, o.Continue
	s.core.CallTool = func(ctx context.Context, sb *sandbox.Sandbox, input []byte) ([]byte, error) {
		var in In
		if err := decode("input of step "+name, input, &in); err != nil {
			return nil, err
		}
		out, err := fn(ctx, sb, in)
		if err != nil {
			return nil, o.Retry.judged(err)
		}
		return encode("output of step "+name, out, 0)
	}
	return s
}

// toolOnly refuses what only tool steps have.
func toolOnly(o StepOptions) error {
	if o.Continue {
		return errors.New("only a tool step has Continue: a guest goes on anyway, and a bare step cannot")
	}
	return nil
}

func newStep[In, Out any](name string, o StepOptions, nilFn bool) *Step[In, Out] {
	var errs []error
	if !validPart(name) {
		errs = append(errs, fmt.Errorf("bad name: %s", partRule))
	}
	if nilFn {
		errs = append(errs, errors.New("no function"))
	}
	if o.Mode < Bare || o.Mode > AgentJIT {
		errs = append(errs, fmt.Errorf("no such mode: %v", o.Mode))
	}
	if o.Mode == Bare && !reflect.ValueOf(o.Sandbox).IsZero() {
		errs = append(errs, errors.New("mode Bare takes no Sandbox"))
	}
	for _, n := range []struct {
		what string
		n    int64
	}{
		{"Retry.MaxAttempts", int64(o.Retry.MaxAttempts)}, {"Retry.Backoff", int64(o.Retry.Backoff)}, {"Retry.MaxBackoff", int64(o.Retry.MaxBackoff)},
		{"Deadline", int64(o.Deadline)}, {"HeartbeatTimeout", int64(o.HeartbeatTimeout)},
	} {
		if n.n < 0 {
			errs = append(errs, fmt.Errorf("%s is negative", n.what))
		}
	}
	if o.Mode > Sandboxed && o.Sandbox.Share { // it would be entrusted with what other steps list
		errs = append(errs, fmt.Errorf("mode %v takes no Sandbox.Share: what has secrets is of one attempt", o.Mode))
	}
	if err := o.Sandbox.Validate(); err != nil {
		errs = append(errs, err)
	}
	errs = append(errs, checkSecrets(o))
	for _, t := range []struct {
		what string
		t    reflect.Type
	}{{"input", reflect.TypeFor[In]()}, {"output", reflect.TypeFor[Out]()}} {
		if err := checkType(t.t, t.what, map[reflect.Type]bool{}); err != nil {
			errs = append(errs, err)
		}
	}
	if o.Timeout == 0 {
		o.Timeout = stepTimeoutDefault
	}
	retry := o.Retry.withDefaults()
	return &Step[In, Out]{
		core: &engine.Step{Name: name, Mode: int(o.Mode), Spec: o.Sandbox, Secrets: slices.Clone(o.Secrets), Timeout: max(o.Timeout, 0), Heartbeat: o.HeartbeatTimeout, Deadline: o.Deadline,
			MaxAttempts: retry.MaxAttempts, Delay: retry.delay, Again: retry.judge, Lost: lost(o.OnSandboxLost)},
		err: errors.Join(errs...),
	}
}

// checkSecrets returns what is wrong with the names that a step lists, or nil.
func checkSecrets(o StepOptions) error {
	if len(o.Secrets) > 0 && o.Mode <= Sandboxed {
		return fmt.Errorf("a step of mode %v has no Secrets", o.Mode)
	}
	if len(o.Secrets) > maxSecrets {
		return fmt.Errorf("%d Secrets, the limit is %d", len(o.Secrets), maxSecrets)
	}
	seen := make(map[string]bool)
	for _, s := range o.Secrets {
		name := strings.TrimSuffix(s, "?")
		if reason := envname.Problem(name, true); reason != "" {
			return fmt.Errorf("in Secrets: %w", &identity.ProfileError{Key: name, Reason: reason})
		}
		if seen[name] {
			return fmt.Errorf("in Secrets, %s is listed twice", name)
		}
		seen[name] = true
	}
	return nil
}

const maxSecrets = 100

// steered refuses variables that a guest which has secrets will not get.
func steered(o StepOptions) error {
	if len(o.Secrets) == 0 {
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(o.Sandbox.Env)) {
		if steers, unlessFixed := envname.Steers(name); steers && !unlessFixed {
			return fmt.Errorf("in Sandbox.Env, %s: by it programs execute, load or trust something, and a guest that has secrets gets none such", name)
		}
	}
	return nil
}

// Name returns the name that the step was made with.
func (s *Step[In, Out]) Name() string { return s.core.Name }

func (s *Step[In, Out]) declare() *engine.Step { return s.core }

func (s *Step[In, Out]) problem() error { return s.err }

// Run executes the step, or returns what it recorded earlier. The error is a
// *[StepError], or wraps [ErrCanceled].
func (s *Step[In, Out]) Run(ctx Context, in In) (Out, error) {
	return s.Go(ctx, in).Get(ctx)
}

// Go starts the step and returns without waiting for it. A run waits for all
// steps that it started before it completes.
func (s *Step[In, Out]) Go(ctx Context, in In) *Future[Out] {
	b, sc := caller(ctx)
	b.enter()
	core := s.of(b)
	f := b.call(sc, core, b.occurrence(core.Name), in)
	b.t.launch(f, f.begin)
	return &Future[Out]{f}
}

// of returns what a branch that has a Step calls with it.
func (s *Step[In, Out]) of(b *branch) *engine.Step {
	b.needs(s != nil && s.core != nil, "Step", "it is nil, or its zero value: want what NewStep, NewToolStep or NewTxStep returns")
	return s.core
}

// StepInfo describes the attempt that a step's function is part of.
type StepInfo struct {
	Run     RunID
	Step    string // the step's key: name, and occurrence or index
	Attempt int    // from 1; attempts that failed are counted, and of those that were lost with a worker the ones above Bare and those that sent a heartbeat; a guest that outlives its worker, and a tool step with Continue, stays the attempt that it is

	// IdempotencyKey is the same for all attempts of the step, on every
	// worker, and another one after ContinueAsNew. Hand it to outside systems, so that they can recognise a
	// repeated request: no database can do that for them.
	IdempotencyKey string

	details string // see Details
}

// StepInfoFrom returns the attempt that ctx belongs to. It works in a bare
// step, in a guest and in a tool step; elsewhere ok is false.
func StepInfoFrom(ctx context.Context) (info StepInfo, ok bool) {
	a, ok := engine.AttemptFrom(ctx)
	if !ok {
		return StepInfo{}, false
	}
	return StepInfo{Run: RunID(a.Run), Step: a.Key, Attempt: a.Number, IdempotencyKey: a.Unique, details: string(a.Details)}, true
}
