// Package workflow runs ordinary Go functions as durable workflows.
//
// A run executes one workflow function, its body, on behalf of a tenant. The
// body calls steps. A [Step] executes one unit of work, and its result is
// written to Postgres as a checkpoint. When a worker dies, the next worker
// replays the run: steps that have a checkpoint return it without being
// executed, and the first that has none is where the run goes on.
//
// This package is the side that plans: it defines workflows, and a [Client]
// enqueues runs, asks about them and cancels them. It never executes a step;
// package worker does.
//
// # A workflow
//
// [DurableWorkflow] is a name and two types: enough to enqueue runs, so that a
// program that only enqueues links no body. [Define] adds the body and its
// steps, for workers:
//
//	var Greeting = workflow.DurableWorkflow[string, string]{Name: "greeting"}
//
//	var compose = workflow.NewStep("compose", composeText, workflow.StepOptions{})
//
//	var GreetingV1 = workflow.Define(Greeting, func(ctx workflow.Context, name string) (string, error) {
//		return compose.Run(ctx, name)
//	}, workflow.Options{Steps: []workflow.Declared{compose}})
//
// A step's [Mode] says where its function runs: [Bare] in the worker's process,
// [Sandboxed] as a guest in a sandbox. [NewToolStep] makes a step whose function
// stays on the worker and drives commands and files in a sandbox.
//
// Where a sandbox outlives its worker, as a container does, so does a guest: when its
// worker dies or leaves, the next one goes on with it, as the same attempt. Else the
// attempt is lost, and [StepOptions].OnSandboxLost decides. The function of a tool
// step is called again from its start, in a new sandbox, or with [StepOptions].Continue
// in the one that it had, where it finds the commands that it has started.
//
// Each attempt has a sandbox of its own. With [sandbox.Spec].Share the steps of a run have one
// for all, and find the files that earlier ones left, for as long as the run is on its worker. That
// is for mode [Sandboxed]: one with secrets is of one attempt.
//
// # Side by side
//
// [Step.Go] starts a step and returns a [Future]; [Map] executes a step for every
// item of a slice, so many at once. [Go] starts a branch of the body and [MapFunc]
// one for every item; branches take turns between durable calls, one at a time,
// so they may share variables, and what they do is the same on a replay. [Ready]
// yields futures in the order in which they end. WithTimeout and WithCancel of a
// [Context] make another one, that ends what waits in it. Its Finally registers
// what has to be done at the end, whichever it is.
//
// # Secrets
//
// A step of mode [Identity] has those of its tenant's secrets that [StepOptions].Secrets lists,
// as environment variables inside the sandbox: os.Getenv in a guest, and in a command that
// names them in sandbox.Cmd.Secrets and may have them. Package identity says whose they are,
// package identity/broker how they get there. The worker never has one. When a secret is
// revoked hard, what holds it is stopped, and the step fails with a *[RecordedError] of Kind
// "revoked"; one that is missing or denied makes it "identity". examples/identity shows all of it.
//
// # Waiting
//
// [Sleep] and [Until] wait for a time, [Signal.Receive] for a value that somebody
// sends, [DurableWorkflow.Run] for another run, a child. A run that waits for long
// leaves its worker: it is a few rows in Postgres, and no memory. It goes on, on
// whichever worker, by being replayed. Waits of a few seconds are spent in memory.
//
// A signal may be sent before it is awaited, and to a run that nobody has begun.
// Signals of one name are received in the order in which they were sent, each
// once. [Signal.SendTx] sends in the application's own transaction.
//
// # Children
//
// A child has the tenant of its parent; [DurableWorkflow.With] gives it a timeout, a
// limit, attributes and another priority. With [DurableWorkflow.Run] and Go the
// parent's end is the child's, what others call the parent-close policy "cancel": a
// run waits for its children before it completes, and its cancelation is theirs.
// [DurableWorkflow.Start] is "abandon": the child goes on by itself. A body that goes
// on for ever returns [DurableWorkflow.ContinueAsNew] now and then, so that its
// history does not.
//
// # Failure and time
//
// A step that fails is tried again as its [Retry] says, unless its error is
// [Permanent], or Retry.If says that it is no use. [RetryAfter] passes on how long
// a server wants to be left alone. [StepOptions].Timeout bounds an attempt and
// Deadline all of them with the waits between, on whichever worker they are. When
// that is used up the body gets a *[StepError]; a body that returns an error fails
// its run.
//
// A step that takes long calls [Heartbeat] with how far it has come: that is
// written about once a second, and the next attempt, on whichever worker, reads it
// with [StepInfo.Details]. With [StepOptions].HeartbeatTimeout, silence ends an
// attempt.
//
// A run that was enqueued with a Timeout fails when that passes, wherever it is:
// its calls return [ErrCanceled], what it gave to [Context].Finally is called, and
// its children are canceled.
//
// Now and Random of a [Context] are the time and the chance that a replay gets
// again.
//
// # Schedules
//
// [DurableWorkflow.Schedule] enqueues runs at times: by a cron in a time zone, or
// every so often. [ScheduleOptions] say what happens when a run of an earlier tick
// goes on, how much is made up for after a time without workers, and how ticks are
// spread. The [Schedule] can be paused, resumed, triggered now, backfilled and
// deleted. A body learns from [Info] for which tick it runs.
//
// Each tick is enqueued once or is counted as left out. There is no leader: any
// worker does it, holding the schedule's row while it adds the runs and moves on.
// A tick comes within about a second of its time.
//
// # Enqueued once
//
// [DurableWorkflow.EnqueueTx] adds a run in the application's own transaction: there
// is a run for what was committed, and none for what was not. With
// [EnqueueOptions].Key a call may be repeated: the same key finds the same run, and
// for another input it is a *[KeyConflictError].
//
// # Many at once
//
// [DurableWorkflow.EnqueueMany] adds any number of runs, with a result for each, and
// holds only a part of them in memory.
//
// # Whose turn it is
//
// Tenants take turns: of however many runs of one that are ready, another's single
// run need not wait for more than its turn, which is one claim when a worker has as
// many places as there are tenants. Within a tenant the older run goes first, and
// [EnqueueOptions].Priority moves one forward or back, by a minute a step.
//
// A [Limit] bounds how many of the runs that share it are executed at once, and
// how many begin per time. Those that it holds back delay no others, and take
// turns by tenant as well. The slot of a run is free when its turn ends, however it
// does: a worker that is killed keeps none longer than its lease. When a slot gets
// free on a worker that cannot use it, another one sees it within a second or so.
//
// # What a run shows
//
// A run can be followed while it goes on, and read after it has ended.
// [Progress] is a named value, of which the latest stands: pages done, a stage.
// [Stream] is a list that only grows; [Stream.Tail] yields its entries as they
// come, from any offset, until the run has ended. A body that sets progress or
// appends does so once, however often it is replayed: what it shows is written
// with its checkpoints, in the same commit. The function of a step shows what it
// does before it ends, in a guest too: an entry is durable at once, and a repeated
// attempt adds its own.
//
// [EnqueueOptions].Attributes and Context.SetAttribute tag a run with small typed
// values, which [Client.Runs] finds it by: see [AttributeFilter]. No codec is
// applied to them.
//
// # What is promised
//
// A run that Enqueue has returned is durable. It waits for a worker, and survives
// the loss of any.
//
// A step may be executed more than once: when its worker dies, or an attempt
// fails. Its checkpoint is written once, by the worker that holds the run, and
// the step that the body starts next waits for that. An outside system
// recognises a repeated request by [StepInfo].IdempotencyKey; the application's own
// tables are written by a [NewTxStep], in one commit with the checkpoint.
//
// A run that cannot go on until somebody does something is parked with the
// reason, not failed: its code does not fit its history, a step is not declared,
// no worker has a backend, its worker died five times, its body passes a call what
// that cannot take, makes 100,000 calls in a row that have nothing to wait for, has
// more than 10,000 under way at once, makes more than 200,000 before it ends or
// begins anew, or shows more than 16 MiB anew during a replay. See
// [RunStatus].Reason and [Client.Resume].
//
// # Operating
//
// [Client.Why] says why a run is not moving: which signal, time, child, attempt,
// deploy or worker it waits for, since when, and what would unblock it.
//
// [Client.Cancel] lets a run clean up and end, [Client.Terminate] ends it there and
// then. [Client.Pause] holds it up without losing what is under way, and
// [Client.Resume] lets it go on. [Client.Retry] takes a failed run up again at the
// step that failed, [Client.Repin] moves one to another version of its workflow.
// Each of them is one transaction, with an event of its own. [Client.Each] applies
// one to all runs that a [RunFilter] selects.
//
// # What a body must not do
//
// A body is replayed, so it has to decide the same way every time. Everything
// that can come out differently belongs into a step, or is asked of this package:
// clocks, random numbers, input and output, environment variables, the order of a
// map. [Context] is no
// context.Context, so that a body cannot use it for input and output by accident.
//
// The Logger of a [Context] is silent while a run is replayed. Package workflowtest
// executes a body in a unit test, with a clock and crashes of its own.
//
// Package workflowvet finds most of what a body must not do: install its command
// stepwardvet and run go vet -vettool=$(which stepwardvet) ./...
//
//   - A body starts no goroutines: it uses [Go], [Step.Go] or [Map].
//   - Deferred calls of a body run each time that it leaves a worker, and are no
//     place for what has to happen once: that is for [Context].Finally. A recover does
//     not hold up the leaving, and a mutex that is held then stays locked.
//
// # Changing code under live runs
//
// A body that is replaced while runs are under way calls the same steps in the same
// order with the same inputs, as far as those runs have got. Otherwise give it a new
// [Options].Version and keep the old one until its runs have ended, or ask Patched of
// a [Context], which tells runs that began before a change of the body from later
// ones. A history that does not fit parks the run with a *[NonDeterminismError], and
// repeats or skips nothing. [Client.Repin] moves runs to another version. A step that
// has no result yet is no history: another one in its place begins anew, without its
// failures, its delay or its heartbeats, and not in its sandbox. The same one with
// another input is taken for it, but where it runs in a sandbox, that one is lost, and
// another attempt has the new input.
//
// # The record of a run, and other code
//
// [Client.Replay] executes a body against what is on record of a run, and nothing
// else: whether a definition could take the run over shows before a deploy.
// [Client.Export] returns the record as a document to keep beside the code, and
// workflowtest.Replay does the same with that, in a test.
//
// A worker that takes a run up reads what is called and in which order, and up to 16
// MiB of results; more of them in pages of 4 MiB, as the body comes to them. It lets go
// of each as the body takes it, but for what the body itself keeps: a [Future] has its
// result, and [Map] those of its items until it returns. So a long record costs a worker
// the time of a replay, and some hundred bytes of memory for each call: ContinueAsNew
// keeps it short. A Client that exports or replays a run reads its record whole.
//
// [Client.Fork] makes a run of another one: what was called before some place is
// taken over, and the rest is executed anew, with mended code perhaps; with the secrets of
// now, or, with [ForkOptions].Reproduce, with those of then or none.
//
// # Values
//
// Inputs and outputs of workflows and steps are encoded by encoding/json, at most
// 1 MiB each unless configured. This holds in production, in
// guests and in workflowtest alike:
//
//   - Integers keep every digit in a Go integer type. In an any they arrive as a
//     float64, which holds 53 bits.
//   - A time.Time keeps its nanoseconds and its offset. Its monotonic clock
//     reading and its zone's name are lost: compare with Equal.
//   - Unexported fields are lost, and so are fields tagged json:"-". A struct
//     that has no other fields is refused when the worker starts.
//   - Invalid UTF-8 in a string is replaced by U+FFFD. A []byte arrives as it was.
//   - An interface arrives as the map, slice, string, float64 or bool that JSON
//     makes of it: not as the type that it held.
//   - Channels, functions, complex numbers, and maps by anything but text and
//     integers are refused when the worker starts; NaN, infinities and cycles
//     when they are encoded, with a *[ValueError].
//
// Errors of steps are values too. The body gets a *[RecordedError] with the text
// and the kind of the original, at first as on replay.
//
// Values of more than 64 KiB are kept apart, in a table or in a [BlobStore], and
// change nothing else.
//
// A [Codec] is applied to every value before it is stored; package sealed has one
// that encrypts. What is stored names its key, so keys rotate, and a codec may be set
// while there are runs. Names are stored as they are: those of workflows, steps and
// tenants, idempotency keys, and attributes with their values. A body, a step and a guest get the
// values themselves.
//
// A run and all that is on record of it stay until a worker's Retention deletes
// them: with the run go its idempotency key, its streams and its large values.
//
// # The names
//
// Each exported name belongs to one of these groups.
//
// Who defines: [DurableWorkflow], [Define] with [Options], [Declared] and
// [Definition]; [NewStep], [NewToolStep], [NewTxStep] with [Step], [StepOptions],
// [Retry] and [Mode] with its five values.
//
// What a body is given: [Context], whose methods never wait, and [Info]. What it
// calls: [Future], [Go], [Map], [MapFunc], [MapOptions], [Ready] for what is side
// by side; [Sleep], [Until], [Signal], [NewSignal] for waits.
//
// What a step's function calls: [StepInfoFrom] with [StepInfo], [Heartbeat],
// [Permanent], [RetryAfter].
//
// What a run shows: [Progress], [Stream] with [StreamEntry].
//
// Who enqueues and operates: [NewClient] with [ClientConfig], [Client],
// [EnqueueOptions] with [Limit], [Run]; [RunID]; [RunFilter],
// [AttributeFilter],
// [RunStatus] with [State] and its seven values, [StepStatus], [Why],
// [ForkOptions]; [Schedule], [ScheduleOptions], [ScheduleStatus]; [Migrate] with
// [MigrateOptions].
//
// What others implement: [Codec], [BlobStore].
//
// What callers decide by, with errors.As: [OptionError], [DefinitionError] and
// [ValueError] are of what was passed; a [SchemaError] of the database; a
// [StateError] of a run that is not where a call needs it, a [KeyConflictError] of
// one that has the key; a [StepError] is of a step that was executed, a
// [RecordedError] of that and of a run; a [NonDeterminismError] of a body. With
// errors.Is: [ErrCanceled], [ErrTimeout], [ErrLeaseLost], [ErrNotFound].
//
// # Map of the code
//
// Package worker claims runs, keeps leases and executes; sandbox says what a
// sandbox requires, and its backends make them; audit reads the record of what
// happened; workflowtest runs a workflow in a unit test, in memory; workflowvet is
// for go vet.
//
// Here, a definition is in define.go, step.go, mode.go and retry.go; what a body
// calls in context.go, step.go, future.go, fan.go, branch.go, scope.go, wait.go,
// signal.go, child.go, progress.go, stream.go and attribute.go; the replay in turn.go,
// inbox.go, record.go, end.go and attempt.go; values in codec.go and seal.go;
// a client in client.go, enqueue.go, schedule.go, trigger.go, run.go, watch.go, query.go, why.go,
// operate.go, history.go and fork.go; tables in migrate.go.
//
// # Where to go next
//
// Start with [NewStep], [Define] and [NewClient], and with the program in
// examples/quickstart. ARCHITECTURE.md follows a run through the tables, and
// RATIONALE.md says why it is so.
package workflow
