package workflow

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/stepward/stepward/identity"
	"github.com/stepward/stepward/internal/db"
	"github.com/stepward/stepward/internal/engine"
)

var (
	// ErrLeaseLost reports that another worker has claimed the run. What
	// returned it changed nothing, and the turn stops.
	ErrLeaseLost = engine.ErrLeaseLost

	// ErrCanceled is what a durable call returns in the body of a run that was
	// canceled, or whose deadline has passed, and what [Run.Result] wraps for one
	// that was canceled. All calls that follow return it, too: a body that never
	// stops calling is ended.
	ErrCanceled = errors.New("workflow: run canceled")

	// ErrNotFound reports a run or a schedule that does not exist.
	ErrNotFound = errors.New("workflow: not found")

	// ErrTimeout is in the chain of the error of what took longer than it may:
	// an attempt, a step, a call within [Context].WithTimeout; and in that of
	// [Run.Result], a run.
	ErrTimeout = engine.ErrTimeout
)

// A StateError reports that a run is not where a call needs it to be: one that
// has ended cannot be canceled, one that goes on cannot be retried. Nothing was
// changed.
type StateError struct {
	Run   RunID
	State State   // where it is
	Want  []State // where it has to be: in one of these
}

func (e *StateError) Error() string {
	s := fmt.Sprintf("the run is %s, and has to be %s", e.State, e.Want[0])
	for i, want := range e.Want[1:] {
		if i < len(e.Want)-2 {
			s += fmt.Sprintf(", %s", want)
		} else {
			s += fmt.Sprintf(" or %s", want)
		}
	}
	if e.State == StateRunning && slices.Contains(e.Want, StateReady) {
		s += ": pause it, and try again when it is parked"
	}
	return s
}

// A StepError is what a body gets when a step has failed for good: its error
// was permanent, or its attempts are used up; and when a child, a signal or a wait
// came to nothing. On replay the body gets an equal one.
type StepError struct {
	Step    string // the step's key: name, and occurrence or index
	Attempt int    // the number of the attempt that failed last; 0 if there was none, as of a child or a wait
	Err     error  // a *[RecordedError]; what was passed that cannot be, as a *[ValueError]; or, of a Context that was canceled, [ErrCanceled] or [ErrTimeout]
}

func (e *StepError) Error() string {
	if e.Attempt == 0 { // a child, a signal or a time has none
		return fmt.Sprintf("step %s: %v", e.Step, e.Err)
	}
	return fmt.Sprintf("step %s, attempt %d: %v", e.Step, e.Attempt, e.Err)
}

func (e *StepError) Unwrap() error { return e.Err }

// A RecordedError is an error that was written to Postgres and read back: of a
// step, in a [StepError]; of a run that failed or was canceled, as [Run.Result]
// wraps it. The original value is gone, on replay and at first, so that a body
// decides the same way both times.
type RecordedError struct {
	Message string `json:"message"` // up to 16 KiB of it

	// Kind is "timeout", "panic", "exit" (a guest that ended without an
	// answer), "sandbox" (its sandbox was lost: see [StepOptions].OnSandboxLost),
	// "identity" (it got no secrets, as one of them is missing or denied: see
	// [StepOptions].Secrets), "revoked" (it got none, or was stopped, as one is revoked),
	// "size", "encode", "decode", "canceled", "terminated" (see [Client.Terminate]),
	// "depth" (a child that would be nested too deep), "conflict" (a run that was
	// started with the key of another), or empty for an error that the step's
	// function returned.
	Kind string `json:"kind,omitempty"`

	Type      string `json:"type,omitempty"`      // Go type of the original
	Stack     string `json:"stack,omitempty"`     // of a panic
	Permanent bool   `json:"permanent,omitempty"` // see [Permanent]
	Step      string `json:"step,omitempty"`      // of a run's error: the step that caused it
	Attempt   int    `json:"attempt,omitempty"`
}

func (e *RecordedError) Error() string { return e.Message }

// Is reports whether the error is of the kind that target stands for: [ErrTimeout], [ErrCanceled] or [identity.ErrRevoked].
func (e *RecordedError) Is(target error) bool {
	return target == ErrTimeout && e.Kind == "timeout" || target == ErrCanceled && (e.Kind == "canceled" || e.Kind == "terminated") ||
		target == identity.ErrRevoked && e.Kind == "revoked"
}

// A NonDeterminismError reports that the body did not do what its history
// recorded. The run is parked with it until the code is right again.
type NonDeterminismError struct {
	Seq       int    // position, from 1
	Recorded  string // key of the recorded step; empty if none was
	Attempted string // key of the step that the body called; empty if none was
	SameKey   bool   // the keys agree, the inputs do not
}

// The end of a run, among the keys of an error: "end:completed".
const keyEnd = "end:"

func (e *NonDeterminismError) Error() string {
	switch {
	case e.SameKey:
		return fmt.Sprintf("workflow: step %d, %s, was recorded with another input than the body passes now; restore the code that computes it, or define a new version", e.Seq, e.Recorded)
	case strings.HasPrefix(e.Recorded, keyEnd) && strings.HasPrefix(e.Attempted, keyEnd):
		return fmt.Sprintf("workflow: the body ends as %s, and the end on record is %s; restore the code that decides it, or define a new version", e.Attempted[len(keyEnd):], e.Recorded[len(keyEnd):])
	case strings.HasPrefix(e.Recorded, keyEnd):
		return fmt.Sprintf("workflow: the run is on record as %s before step %d, and the body calls %s; remove the call, or define a new version", e.Recorded[len(keyEnd):], e.Seq, e.Attempted)
	case e.Recorded == "":
		return fmt.Sprintf("workflow: step %d has no result on record, those of later steps are, and the body calls %s, which has one at once; restore the order of calls, or define a new version", e.Seq, e.Attempted)
	case e.Attempted == "":
		return fmt.Sprintf("workflow: the body returned without calling step %d, %s, which is recorded; restore the call, or define a new version", e.Seq, e.Recorded)
	default:
		return fmt.Sprintf("workflow: step %d was recorded as %s, and the body calls %s; restore the order of calls, or define a new version", e.Seq, e.Recorded, e.Attempted)
	}
}

// A DefinitionError reports what is wrong with a workflow or one of its steps:
// how it is defined, that a body calls a step which its definition does not list,
// or a mode that this version of Stepward cannot execute.
type DefinitionError struct {
	Workflow, Step string // Step is empty when the workflow itself is meant
	Reason         string
	Err            error // what Reason says of a step, for errors.As: a [sandbox.SpecError]; may be nil
}

func (e *DefinitionError) Unwrap() error { return e.Err }

func (e *DefinitionError) Error() string {
	if e.Step != "" {
		return fmt.Sprintf("workflow %q: step %q: %s", e.Workflow, e.Step, e.Reason)
	}
	return fmt.Sprintf("workflow %q: %s", e.Workflow, e.Reason)
}

// A ValueError reports a value that could not be encoded, stored or read back.
type ValueError struct {
	What string // "input of step build", "output of workflow portfolio"

	// Kind is "encode" for what JSON cannot hold, "size" for more bytes than the
	// limit, and "decode" for stored bytes that do not fit the Go type, or that
	// the [Codec] or the [BlobStore] did not give back.
	Kind string

	Bytes, Limit int   // of Kind "size"
	Err          error // of the others
}

func (e *ValueError) Error() string {
	if e.Kind == "size" {
		return fmt.Sprintf("workflow: %s is %d bytes, the limit is %d", e.What, e.Bytes, e.Limit)
	}
	return fmt.Sprintf("workflow: %s %s: %v", e.Kind, e.What, e.Err)
}

func (e *ValueError) Unwrap() error { return e.Err }

// A KeyConflictError reports an idempotency key that belongs to a run with
// another workflow or input.
type KeyConflictError struct {
	Tenant, Key string
	Run         RunID
}

func (e *KeyConflictError) Error() string {
	return fmt.Sprintf("workflow: key %q of tenant %q belongs to %v, which has another workflow or input", e.Key, e.Tenant, e.Run)
}

// A SchemaError reports a schema that cannot be used: its name, or its version,
// which is that of another program; or one that [Migrate] does not delete.
type SchemaError = db.SchemaError

type permanentError struct{ err error }

func (e *permanentError) Error() string { return e.err.Error() }

func (e *permanentError) Unwrap() error { return e.err }

// Permanent is what the worker asks an error that it did not make.
func (e *permanentError) Permanent() bool { return true }

// Permanent marks the error of a step as one that no further attempt can cure.
// It returns nil for nil.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return &permanentError{err}
}

// record turns an error into what is stored of it.
func record(err error) *RecordedError {
	var (
		recorded *RecordedError
		fault    *engine.Fault
		step     *StepError
		perm     *permanentError
		value    *ValueError
	)
	out := &RecordedError{Message: err.Error(), Type: fmt.Sprintf("%T", err)}
	switch {
	case errors.As(err, &fault):
		out.Kind, out.Type, out.Stack, out.Permanent = fault.Kind, fault.Type, fault.Stack, fault.Permanent
	case errors.As(err, &recorded):
		out.Kind, out.Type, out.Stack, out.Permanent = recorded.Kind, recorded.Type, recorded.Stack, recorded.Permanent
	case errors.As(err, &value):
		out.Kind, out.Permanent = value.Kind, true
	}
	if errors.As(err, &perm) {
		out.Permanent = true
	}
	if out.Type == fmt.Sprintf("%T", err) { // of what was marked, not of the mark
		out.Type = fmt.Sprintf("%T", unmarked(err))
	}
	if errors.As(err, &step) {
		out.Step, out.Attempt = step.Step, step.Attempt
	}
	if out.Kind == "depth" && recorded != nil { // once, not with what each of a hundred parents would put before it
		out.Message = recorded.Message
	}
	switch {
	case errors.Is(err, ErrCanceled):
		out.Kind = "canceled"
	case errors.Is(err, ErrTimeout):
		out.Kind = "timeout"
	}
	return out
}

// sound returns the error of a function that it was given, with its methods called:
// one that panics, such as that of a nil pointer, is to do so where that is taken
// for a panic of the function, and not later, when the worker would end of it.
func sound(err error) error {
	if err != nil {
		_ = record(err)
	}
	return err
}

// What is kept of the texts of an error.
const (
	maxMessage = 16 << 10
	maxStack   = 32 << 10
)

// cut shortens a text that is too long to be stored, and says so.
func cut(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	return strings.ToValidUTF8(s[:limit], "") + fmt.Sprintf(" … (%d bytes cut off)", len(s)-limit)
}

// unmarked takes off what Permanent and RetryAfter put around an error.
func unmarked(err error) error {
	for {
		switch err.(type) { //nolint:errorlint // each layer by itself
		case *permanentError, *retryAfterError:
			err = errors.Unwrap(err)
		default:
			return err
		}
	}
}

func (e *RecordedError) encode() []byte {
	short := *e
	short.Message, short.Stack, short.Type = cut(e.Message, maxMessage), cut(e.Stack, maxStack), cut(e.Type, 1<<10)
	b, err := json.Marshal(short)
	if err != nil { // strings and an int: cannot happen
		return []byte(`{"message":"unknown error"}`)
	}
	return b
}

func decodeError(b []byte) *RecordedError {
	e := new(RecordedError)
	if err := json.Unmarshal(b, e); err != nil {
		e.Message = "unreadable error: " + string(b)
	}
	return e
}
