// Package audit reads the record of what happened: who enqueued, claimed,
// executed, canceled and recovered a run, which sandboxes were made for it with
// what enforced, and what these wanted to reach.
//
// Every event has one shape, whatever part it is about. It is written in the
// transaction of the change that it records, so that there is no change without
// its event and no event without its change. A checkpoint and a claim are their
// own record and are not written twice: [Events] shows them in the same shape.
//
// Events are not chained or signed yet: who can write to Postgres as the owner
// of the tables can change them. The grants of a worker's role (see
// workflow.Migrate) do not include changing or deleting an event.
package audit

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/stepward/stepward/internal/db"
	"github.com/stepward/stepward/internal/payload"
	"github.com/stepward/stepward/workflow"
)

// Kinds of events.
const (
	RunEnqueued      = "run.enqueued"
	RunClaimed       = "run.claimed"   // detail: epoch
	RunRecovered     = "run.recovered" // from a dead worker; detail: dead_worker, crashes
	RunParked        = "run.parked"    // detail: the error
	RunResumed       = "run.resume"
	RunCancel        = "run.cancel"    // somebody asked for it
	RunPause         = "run.pause"     // the same
	RunTerminate     = "run.terminate" // and it ends here and now
	RunRetry         = "run.retry"     // a run that had failed goes on; detail: what was removed
	RunRepin         = "run.repin"     // to another version
	RunForked        = "run.forked"    // on both runs; detail: the other one
	RunScheduled     = "run.scheduled" // detail: schedule, tick
	RunRenewed       = "run.renewed"   // it continued as new; detail: steps
	RunDeadline      = "run.deadline"  // its time has passed
	RunCompleted     = "run.completed"
	RunFailed        = "run.failed" // detail: the error
	RunCanceled      = "run.canceled"
	RunsDeleted      = "runs.deleted" // by retention, of no run; detail: runs, and the ids of the first and the last
	StepCompleted    = "step.completed"
	StepCopied       = "step.copied"       // into a fork
	StepFailed       = "step.failed"       // for good; detail: seq, attempt, epoch, mode, elapsed_s
	AttemptFailed    = "attempt.failed"    // and is repeated; detail: the error
	SandboxCreated   = "sandbox.created"   // detail: what was enforced
	SandboxJoined    = "sandbox.joined"    // a step shares one that is there; detail: sandbox
	SandboxTaken     = "sandbox.taken"     // another worker goes on in it; detail: sandbox, attempt, and the session that it is from
	SandboxEgress    = "sandbox.egress"    // detail: sandbox, and what was decided about each endpoint so far; the newest of a sandbox has all
	SandboxDestroyed = "sandbox.destroyed" // detail: sandbox, and what its commands used
	EnvelopeIssued   = "envelope.issued"   // by the broker, before it left; detail: envelope, sandbox, attempt, level, why it is no more, and of each secret its name, origin, reference, version and fingerprint
	EnvelopeOpened   = "envelope.opened"   // in its sandbox; detail: envelope
	EnvelopeRefused  = "envelope.refused"  // detail: reason, name of the secret, attempt, error; policies, if they were asked
	KeyWithheld      = "key.withheld"      // from an attempt that can do without; detail: name, attempt, error; policies, if they were asked
	KeyInjected      = "key.injected"      // put into requests, before the first of them and of each half minute; detail: name, host, count of uses, attempt, envelope
	KeyDeprecated    = "key.deprecated"    // was issued all the same; detail: name, version, attempt, and what of it is deprecated
	EnvelopeClosed   = "envelope.closed"   // its attempt is over, and it is renewed no more; detail: envelope. What stores have made for it ends after that
	LeaseRevoked     = "lease.revoked"     // a store has ended what it made for an attempt; detail: envelope, name, store
	LeasePending     = "lease.pending"     // it was asked to, the first time in vain, and is asked again until it has; detail: also until, when that ends by itself if the store did as it was asked, and the error
	LeaseUnsupported = "lease.unsupported" // the store ends nothing that it has made; detail: also until
	ProfilePut       = "profile.put"       // of no run; detail: profile, scope, generation, the names that were changed, and of each change its key, field, from and to; more: so many are left out
	ProfileDeleted   = "profile.deleted"   // and what ran with it is stopped
	KeyRotated       = "key.rotated"       // of no run; detail: key, version
	IdentityRevoked  = "identity.revoked"  // of no run; detail: kind, target, version, state, reason
)

// An Event is one record.
type Event struct {
	At     time.Time      `json:"at"` // the database's clock
	Run    workflow.RunID `json:"run"`
	Tenant string         `json:"tenant,omitempty"`
	Kind   string         `json:"kind"`
	Actor  string         `json:"actor"`          // "client", "worker:NAME" or "worker:SESSION"
	Step   string         `json:"step,omitempty"` // the step's key

	// Detail is JSON. One that a codec encoded which the Filter lacks is
	// {"sealed": KEYID}.
	Detail json.RawMessage `json:"detail,omitempty"`
}

// Filter selects events. Zero fields select all.
type Filter struct {
	Schema string // as workflow.ClientConfig.Schema
	Run    workflow.RunID
	Tenant *string
	Kinds  []string
	Codec  workflow.Codec // as workflow.ClientConfig.Codec
	Limit  int            // defaults to 1,000, at most 10,000
	Offset int            // leaves out so many, to continue a listing
}

// Events returns events, oldest first. Asking for one run uses indexes; asking
// for less reads every run of the tenant, or all.
func Events(ctx context.Context, pool *pgxpool.Pool, f Filter) ([]Event, error) {
	q, err := db.New(f.Schema)
	if err != nil {
		return nil, err
	}
	if f.Limit <= 0 {
		f.Limit = 1000
	}
	var run *int64
	if f.Run != 0 {
		id := int64(f.Run)
		run = &id
	}
	rows, err := pool.Query(ctx, q.EventList, run, f.Tenant, f.Kinds, min(f.Limit, 10000), max(f.Offset, 0))
	if err != nil {
		return nil, fmt.Errorf("audit: list events: %w", db.Explain(ctx, pool, q, err))
	}
	box := &payload.Box{Codec: f.Codec}
	events, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (Event, error) {
		var e Event
		var step *string
		var detail []byte
		err := row.Scan(&e.At, &e.Run, &e.Tenant, &e.Kind, &e.Actor, &step, &detail)
		if step != nil {
			e.Step = *step
		}
		e.Detail = detail
		return e, err
	})
	for i := 0; i < len(events) && err == nil; i++ {
		events[i].Detail, err = open(ctx, box, events[i].Detail)
	}
	if err != nil {
		return nil, fmt.Errorf("audit: list events: %w", db.Explain(ctx, pool, q, err))
	}
	return events, nil
}

// open returns the detail as JSON, whether or not the codec can.
func open(ctx context.Context, box *payload.Box, detail json.RawMessage) (json.RawMessage, error) {
	keyID, sealed := payload.Sealed(detail)
	if !sealed {
		return detail, nil
	}
	if v, err := box.Open(ctx, detail); err == nil {
		return v, nil
	}
	return json.Marshal(map[string]string{"sealed": keyID})
}
