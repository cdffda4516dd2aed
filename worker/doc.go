// Package worker executes runs.
//
// [Run] claims runs from Postgres, replays what is recorded of them, executes
// the steps that are not, and writes each result as a checkpoint. A program
// embeds as many workers as it likes, on one pool or several, and starts and stops
// them at will: a run belongs to none of them.
//
//	bootstrap.Init(sitework.PortfolioV1) // first: inside a sandbox it becomes the tool runner
//	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
//	defer stop()
//	err := worker.Run(ctx, worker.Config{Pool: pool, Workflows: []*workflow.Definition{sitework.PortfolioV1}})
//
// # Runs of other River clients
//
// Any River client, in any language, may insert a job of kind stepward_start into
// queue stepward of Stepward's River schema. Its arguments are workflow and input,
// and if wanted tenant, key, priority, timeout_seconds, and limit with key,
// concurrency, rate and per_seconds, as in [workflow.EnqueueOptions]. Without a key
// the job's id is it. A job whose arguments say what cannot be is canceled, with
// the field that is wrong.
//
// # What it promises
//
// A run is held by one worker at a time. The right to write for it is the pair
// of the run's epoch, which rises with each claim, and the worker's session,
// which is random; every write of a turn checks both, in the statement that
// writes. So a worker that was believed dead and comes back changes nothing.
//
// A result is durable before the next step starts. The steps of a dead worker
// that had not got so far are executed again, elsewhere, within 15 seconds with
// the defaults: 10 of them are the lease, which [Config.LeaseTTL] sets.
//
// An outage of Postgres ends no worker. Shorter than the lease it costs nothing:
// steps go on, and their results wait. A longer one costs the turns: they stop,
// and the runs continue with a new session.
//
// A run that cannot go on before somebody does something is parked with the
// reason, and neither failed nor lost: see workflow.RunStatus.
//
// # What it does not promise
//
// A step may execute more than once: its effects and its checkpoint are in two
// places. workflow.StepInfoFrom returns a key that outside systems can recognise
// a repetition by.
//
// A bare step runs in the worker's process and can do all that it can. What must
// not be trusted belongs into a sandboxed step; see package sandbox.
//
// A function that ignores its context cannot be stopped. Its attempt ends, and
// its goroutine keeps its place until it returns; [Report] counts those.
//
// # What it tells
//
// [Config.MeterProvider] gets, with no attribute that names a run, a tenant or a
// workflow:
//
//	stepward.ready.backlog, .oldest             runs that could be claimed, and for how long
//	stepward.claim.latency                      from ready to claimed
//	stepward.runs.held, .recovered, .deleted    here now; from dead workers; by Retention
//	stepward.turns                              by how they ended
//	stepward.attempt.duration                   by mode, and whether it failed
//	stepward.steps.stuck                        functions that ignore their context
//	stepward.bodies.blocked                     bodies that wait for what is not durable
//	stepward.commit.batch_size                  writes that shared a commit
//	stepward.lease.slack                        what was left of the lease when it was renewed
//	stepward.schedule.ticks                     by outcome: enqueued, overlap, too_late
//	stepward.schedule.lateness                  from when a tick was due to its run
package worker
