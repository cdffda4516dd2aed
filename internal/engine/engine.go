// Package engine is the seam between package workflow, which knows what a run
// does next, and package worker, which does it. Both sides exchange plain data:
// types that a user sees live in those packages.
package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stepward/stepward/sandbox"
)

// MaxBytesDefault is the default limit of an encoded value: 1 MiB.
const MaxBytesDefault = 1 << 20

// MaxDepth is how deep children nest: the run that somebody enqueued is 0 deep.
// Bodies that start each other in a cycle would add runs until Postgres is full,
// faster than a cancelation follows, and each of them waits. A recursion over
// data, as over a tree, is seldom a tenth as deep.
const MaxDepth = 100

// A Definition is a workflow with its body and steps.
type Definition struct {
	Workflow, Version string
	Steps             []*Step
	Errs              []error // what is wrong with the definition; reported when a worker starts

	// Run replays the run and goes on with it. It returns when the run ended,
	// when it has to leave this worker, or when ctx is done.
	Run func(ctx context.Context, t Turn) End

	// Replay compares the body with the exported history of a run.
	Replay func(document []byte) error
}

// A Step is a declared step.
type Step struct {
	Name        string
	Mode        int
	Tool        bool
	Spec        sandbox.Spec
	Secrets     []string      // names; one that ends in "?" may be missing
	Timeout     time.Duration // of one attempt; 0: none
	Heartbeat   time.Duration // that an attempt may be silent; 0: for ever
	Deadline    time.Duration // of all attempts, and the waits between; 0: none
	MaxAttempts int
	Delay       func(failed int) time.Duration // after so many failures
	Again       func(*Fault) bool              // whether another attempt may cure it
	Lost        func(*Fault) error             // what an attempt ends with whose sandbox was lost

	// Call runs the function on encoded values. Nil for the two kinds below.
	Call func(ctx context.Context, input []byte) ([]byte, error)

	// CallTx runs the function of a step in a transaction. Nil for the others.
	CallTx func(ctx context.Context, tx pgx.Tx, input []byte) ([]byte, error)

	// Continue has another worker call the function again, in the same sandbox.
	Continue bool

	// CallTool runs a tool step's function. Nil for the others.
	CallTool func(ctx context.Context, sb *sandbox.Sandbox, input []byte) ([]byte, error)
}

// A Turn is one stay of a run on a worker.
type Turn struct {
	Run      int64
	Epoch    int
	Tenant   string
	Seed     int64     // of chance: the id of the run, or of the one that it was forked from, or another number each time that it began anew
	Tick     time.Time // of the schedule that enqueued the run; zero otherwise
	Input    []byte
	Steps    []Checkpoint     // recorded by earlier turns, in the order of Done
	Attempts map[int]Attempts // of steps without a checkpoint, by seq
	Waits    map[int]Wait     // that earlier turns began, by seq
	Canceled <-chan struct{}  // closed when somebody cancels the run, or its deadline does
	Draining <-chan struct{}  // closed when no further step may start here
	Paused   func() bool      // whether somebody has paused the run; nil: nobody can
	News     <-chan struct{}  // receives when a signal or the end of a child may have arrived, or Paused may have changed
	Crowded  func() bool      // whether other runs want this one's place
	Now      func() time.Time
	MaxBytes int           // of an encoded value
	Patience time.Duration // a wait longer than this leaves the worker
	Sticky   time.Duration // how long a run stays in memory that waits for others
	Host     Host

	// Idle takes the place of the machine's timers, if it is not nil: a test
	// has its own time. It is asked each time that the turn waits, with how many
	// calls it has begun, how many of those it knows to go on, and the time until
	// something is due (negative: never). What it returns tells to look again.
	Idle func(begun, open int, next time.Duration) <-chan time.Time

	// Fetch reads the result of a checkpoint, the first, that is Apart, and of some
	// of those that the replay hands over after it.
	Fetch func(ctx context.Context, next []*Checkpoint) error

	// Open returns what was encoded, of what is stored in Steps and in News,
	// and the input hash of a checkpoint if it is sealed with it. Nil: they are
	// the same.
	Open func(ctx context.Context, stored []byte) (v []byte, hash uint64, err error)

	Logger *slog.Logger

	// Blocked, if it is not nil, is told when a body has not come back from its own
	// code for BlockedAfter, and when it has.
	Blocked func(is bool)

	// Verify compares the body with what is on record and does nothing else:
	// the turn ends, as Lost, where the record does.
	Verify bool
	Ended  EndKind // of a run that is verified: how its body ended; 0 when that is not on record
}

// BlockedAfter is for how long a body may do what is not durable. It should be none.
const BlockedAfter = 10 * time.Second

// A Host executes and records on behalf of a turn. Its methods are called from
// several goroutines.
type Host interface {
	// Attempt executes one attempt. When ctx ends first its error wraps the
	// cause.
	Attempt(ctx context.Context, a Attempt) (Outcome, error)

	// Write makes a batch durable in one commit. It returns after that
	// commit; an error means that the lease is lost, or that the data cannot
	// be stored.
	Write(ctx context.Context, b Batch) error

	// Child adds the run that a Wait of this run is for, unless an earlier
	// turn did, and returns its id. A *Fault means that there will never be such a
	// run: it is the result of the call.
	Child(ctx context.Context, c Child) (int64, error)

	// Late reports whether it is its deadline that has canceled the run.
	Late(ctx context.Context) (bool, error)

	// Look returns the signals of the names in after, each with an id above the
	// one there, that no turn has received, oldest first, and the children that
	// have ended.
	Look(ctx context.Context, after map[string]int64, children []int64) (News, error)

	// Shown returns up to where what the body shows is on record.
	Shown(ctx context.Context) (Place, error)
}

// An Outcome is what an attempt leaves behind: one that failed, only Details.
type Outcome struct {
	Output  []byte // encoded
	Details []byte // that it reported last; nil if it did not

	// Of a step in a transaction, which is open: one of the two is called.
	// Commit writes the checkpoint in it. Its error is ErrLeaseLost, or means
	// that nothing was committed. Without a Commit, Rollback is called if the output
	// will not be on record.
	Commit   func(ctx context.Context, c Checkpoint) error
	Rollback func(ctx context.Context)

	Progress []Progress // that was set last, and is not written
}

// Drop rolls back what is open.
func (o Outcome) Drop(ctx context.Context) {
	if o.Rollback != nil {
		o.Rollback(ctx)
	}
}

// A Batch is what one commit makes durable.
type Batch struct {
	Checkpoints []Checkpoint
	Failures    []Failure
	Beats       []Beat
	Waits       []Wait
	Dropped     []int    // waits that ended without a checkpoint, by seq
	Received    []Signal // that a checkpoint holds; without the payload
	Cancel      []int64  // children that nobody waits for any more
	Entries     []Entry
	Progress    []Progress
	Attributes  []Attribute
	Shown       Place // of the last of these that the body made; zero: it made none
	End         *End
}

// Empty reports whether there is nothing to write.
func (b Batch) Empty() bool {
	return len(b.Checkpoints) == 0 && len(b.Failures) == 0 && len(b.Beats) == 0 && len(b.Waits) == 0 && len(b.Dropped) == 0 && len(b.Received) == 0 && len(b.Cancel) == 0 &&
		len(b.Entries) == 0 && len(b.Progress) == 0 && len(b.Attributes) == 0 && b.End == nil
}

// A Place is where a body made a call that leaves no checkpoint: the Nth, from
// 1, since so many results.
type Place struct{ Done, N int }

// After reports whether p comes later in the run than o.
func (p Place) After(o Place) bool { return p.Done > o.Done || p.Done == o.Done && p.N > o.N }

// An Entry is a value that is appended to a stream.
type Entry struct {
	Stream  string
	Step    string // key of the step whose function appends it; empty: the body
	Attempt int    // 0: the body
	Payload []byte
	Guest   int // number that a guest gave it, from 1; 0: none
}

// A Progress is a named value that a run shows.
type Progress struct {
	Name  string
	Value []byte
	Body  bool // set by the body, not by the function of a step
}

// An Attribute is a tag of a run.
type Attribute struct {
	Name  string
	Value []byte // see table attribute
}

// An Outlet is how the function of a step shows what it does, before it ends.
type Outlet interface {
	// Append returns when the entry is durable.
	Append(ctx context.Context, stream string, payload []byte) error

	// Progress returns at once. The value is written soon, or with the
	// checkpoint.
	Progress(name string, value []byte) error
}

// A Wait is what a run waits for, other than its own steps, or the deadline of one
// of those.
type Wait struct {
	Seq    int
	Key    string
	Left   time.Duration // until it ends by itself, or Never; negative: since it should have
	Signal string        // name of the signal that ends it
	Child  int64         // run whose end ends it; negative: one that is on its own, and whose start only is not recorded yet
}

// Never is the Left of a Wait that does not end by itself.
const Never time.Duration = math.MinInt64

// A Child is a run that a body starts.
type Child struct {
	Seq      int
	Key      string
	Workflow string
	Input    []byte
	Detach   bool   // nobody waits for it
	Unique   string // the idempotency key, of one that nobody waits for
	Options  Options
}

// Options are what is said of a run before it begins.
type Options struct {
	Priority   int16         `json:"priority,omitempty"` // of a child, 0 is that of its parent
	Attributes []Attribute   `json:"attributes,omitempty"`
	Timeout    time.Duration `json:"timeout,omitempty"`
	Limit      Limit         `json:"limit,omitzero"`
	Identity   Identity      `json:"identity,omitzero"`
}

// Identity says where a run is among those of its tenant, for the profiles that
// apply to it, and what is said of its secrets. Zero, of a child: as its parent.
type Identity struct {
	Project     string          `json:"project,omitempty"`
	Environment string          `json:"environment,omitempty"`
	Keys        json.RawMessage `json:"keys,omitempty"` // identity.Key by name
}

// IsZero reports whether nothing is said.
func (i Identity) IsZero() bool { return i.Project == "" && i.Environment == "" && len(i.Keys) == 0 }

// A Limit is shared by the runs that name its key. Zero numbers: no limit.
type Limit struct {
	Key               string
	Concurrency, Rate int
	Per               time.Duration
}

// News is what has arrived for a run.
type News struct {
	Signals  []Signal
	More     bool // there may be more signals of one of the names
	Children []ChildEnd
}

// A Signal is a value that was sent to a run.
type Signal struct {
	ID      int64
	Name    string
	Payload []byte
}

// A ChildEnd is the end of a child.
type ChildEnd struct {
	Run    int64
	Kind   EndKind // Completed, Failed or Canceled
	Output []byte
	Error  []byte
}

// An Attempt is one try of a step.
type Attempt struct {
	Step   *Step
	Run    int64
	Seq    int
	Key    string
	Number int
	Unique string // the idempotency key
	Input  []byte
	Outlet Outlet

	// Sandbox is what the attempt goes on in, that another turn began then. Empty: it
	// begins.
	Sandbox string
	Began   time.Time // local clock

	Details []byte               // that an earlier attempt reported last
	Beat    func(details []byte) // reports that it is alive
}

// A Checkpoint is the recorded result of a step.
type Checkpoint struct {
	Seq       int // place in program order, from 1; 0 is the cancelation of the run
	Done      int // place in the order in which the body got to know results, from 1
	Key       string
	Mode      int
	Attempt   int
	InputHash uint64
	Started   time.Time // local clock; only its distance to now is stored
	Elapsed   time.Duration
	Output    []byte
	Error     []byte // encoded; nil when the step succeeded
	Calls     int    // of a failure, a time limit and the cancelation: how many the body had made when it got to know
	Opened    bool   // of one on record: it is as it was before it was stored
	Apart     int    // of one on record: how many bytes its result has that was not read with it
}

// A Failure is an attempt that failed and will be repeated.
type Failure struct {
	Seq     int
	Key     string
	Mode    int
	Attempt int
	Started time.Time
	Elapsed time.Duration
	Error   []byte
	Delay   time.Duration // until the next attempt
	Orphan  bool          // it was lost with its worker, and does not count; Delay is not kept
	Details []byte        // that it reported last
}

// A Beat is what an attempt reports while it runs.
type Beat struct {
	Seq     int
	Key     string
	Mode    int
	Attempt int
	Started time.Time
	Details []byte
}

// Attempts is what earlier turns left behind of a step.
type Attempts struct {
	Key    string        // of the call that they are of: another version, or another order of results, may have put it there
	Last   int           // the highest number given
	Failed int           // how many ended with an error
	Wait   time.Duration // until the next may start

	Details []byte // that were reported last

	Sandbox string    // that the last one has begun in, when no end of it is on record; else empty
	Began   time.Time // of that; local clock
}

// EndKind says how a turn ended.
type EndKind int

// The kinds of End.
const (
	Completed EndKind = iota + 1
	Failed
	Canceled
	Timer    // waits for Delay, or for what its Waits say
	Parked   // waits for a deploy or an operator
	Released // goes on elsewhere, at once
	Renewed  // begins anew, with Output as its input and nothing on record
	Lost     // the lease is gone: nothing may be written
)

// An End is how a turn ended.
type End struct {
	Kind   EndKind
	Output []byte
	Error  []byte
	Delay  time.Duration // of Timer; negative: no time ends the wait
	Aware  bool          // of Timer: the body knows that it was canceled, and waits all the same
	Reason string        // of Parked
	Err    error         // of Parked, Failed and Lost, for the log
}

// Final reports whether the run itself ended.
func (e End) Final() bool { return e.Kind == Completed || e.Kind == Failed || e.Kind == Canceled }

// Causes of a turn's context.
var (
	ErrLeaseLost = errors.New("workflow: lease lost")
	ErrHandBack  = errors.New("workflow: the worker is stopping")
)

// A Fault is a step's error as the host saw it, with what a plain error cannot
// say.
type Fault struct {
	Kind      string // see package workflow, type RecordedError
	Message   string
	Type      string // Go type of the error
	Stack     string // of a panic
	Permanent bool
	Orphan    bool          // the attempt was lost with its worker
	After     time.Duration // the wait before the next attempt that was asked for; 0: none was
	Err       error
}

func (f *Fault) Error() string { return f.Message }

func (f *Fault) Unwrap() error { return f.Err }

// TooDeep is the fault of a child that would be deeper than MaxDepth.
func TooDeep(parent, child string) *Fault {
	return &Fault{Kind: "depth", Permanent: true, Message: fmt.Sprintf("workflow: %s cannot start %s: children nest %d deep at most; "+
		"workflows that start each other in a cycle need an end, as by a count in their inputs", parent, child, MaxDepth)}
}

// RetryAfter returns After.
func (f *Fault) RetryAfter() time.Duration { return f.After }

// A ParkError asks for the run to be parked: no retry would help before a
// deploy or an operator does.
type ParkError struct {
	Reason string
	Err    error
}

// Passing reports whether what a run is parked for may be over without anybody's doing, when an engine, a
// registry, a broker, a store or a codec answers again: the run is tried again. Each such reason keeps a step from
// beginning; what executes beside goes on to its end first, or each try would begin it anew.
func Passing(reason string) bool {
	switch reason {
	case "no_backend", "image", "broker", "store", "level", "unreadable":
		return true
	}
	return false
}

func (p *ParkError) Error() string { return p.Err.Error() }

func (p *ParkError) Unwrap() error { return p.Err }

type attemptKey struct{}

// WithAttempt attaches the attempt to the context of a step's function.
func WithAttempt(ctx context.Context, a Attempt) context.Context {
	return context.WithValue(ctx, attemptKey{}, a)
}

// AttemptFrom returns what WithAttempt attached.
func AttemptFrom(ctx context.Context) (Attempt, bool) {
	a, ok := ctx.Value(attemptKey{}).(Attempt)
	return a, ok
}
