package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stepward/stepward/internal/envelope"
	"github.com/stepward/stepward/internal/rpc"
	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/workflow"
)

// claim is what a worker says of an attempt. It is compared with what is on record.
type claim struct {
	run                 int64
	seq, attempt, epoch int
	session             int64
	sandbox             string
}

func claimed(c *rpc.Claim) (claim, error) {
	out, err := coming(c)
	if err == nil && (out.sandbox == "" || len(out.sandbox) > 200) {
		err = errIncomplete
	}
	return out, err
}

// coming is a claim of an attempt that has no sandbox yet.
func coming(c *rpc.Claim) (claim, error) {
	out := claim{run: c.GetRun(), seq: int(c.GetSeq()), attempt: int(c.GetAttempt()), epoch: int(c.GetEpoch()), session: c.GetSession(), sandbox: c.GetSandbox()}
	if out.run <= 0 || out.seq <= 0 || out.attempt <= 0 || out.epoch <= 0 || out.session == 0 {
		return out, errIncomplete
	}
	return out, nil
}

var errIncomplete = refuse(reasonFenced, "", "broker: a claim is incomplete")

// args are the arguments that every statement about an attempt begins with.
func (c claim) args(more ...any) []any {
	return append([]any{c.run, c.epoch, c.session, c.seq, c.attempt, c.sandbox}, more...)
}

// facts are what is on record of an attempt that goes on.
type facts struct {
	claim
	tenant, workflow, version string
	key                       string // of the step: with its occurrence
	mode                      workflow.Mode
	worker                    string   // its name
	before                    []string // names and sessions of those that had the attempt before
	def                       stepDefinition
}

// stepDefinition is what a worker has written down of a step.
type stepDefinition struct {
	Name    string   `json:"name"`
	Tool    bool     `json:"tool"`
	Secrets []string `json:"secrets"`

	Timeout time.Duration `json:"timeout_ns"` // of an attempt; 0: none
	Sandbox sandbox.Spec  `json:"sandbox"`
}

// facts reads what is on record. It refuses an attempt that is not the worker's, or is over.
func (b *broker) facts(ctx context.Context, c claim) (facts, error) {
	f := facts{claim: c}
	var steps []byte
	err := b.Pool.QueryRow(ctx, b.q.IssueFacts, c.args()...).Scan(&f.tenant, &f.workflow, &f.version, &f.key, &f.mode, &steps, &f.worker, &f.before)
	if errors.Is(err, pgx.ErrNoRows) {
		return facts{}, refuse(reasonFenced, "", "broker: attempt %d of place %d of run %v is not of this worker and sandbox, or is over", c.attempt, c.seq, workflow.RunID(c.run))
	}
	if err != nil {
		return facts{}, fmt.Errorf("broker: read what is on record: %w", err)
	}
	if f.mode < workflow.Identity {
		return facts{}, refuse(reasonDenied, "", "broker: step %s has mode %v, which has no secrets", f.key, f.mode)
	}
	return f, f.define(steps)
}

// define looks the step up among those of its definition.
func (f *facts) define(steps []byte) error {
	var defs []stepDefinition
	if err := json.Unmarshal(steps, &defs); err != nil {
		return refuse(reasonUnresolved, "", "broker: %s@%s is not defined in the database", f.workflow, f.version)
	}
	name := envelope.StepName(f.key)
	for _, d := range defs {
		if d.Name == name {
			f.def = d
			return nil
		}
	}
	return refuse(reasonUnresolved, "", "broker: %s@%s has no step %s", f.workflow, f.version, name)
}

// sealed is what the envelope of the attempt is tied to. policy is the digest of what the run was bound to.
func (b *broker) sealed(f facts, policy [32]byte) envelope.Facts {
	return envelope.Facts{
		Tenant: f.tenant, Workflow: f.workflow, Version: f.version, Step: f.key, Run: f.run, Seq: f.seq, Attempt: f.attempt,
		Epoch: f.epoch, Sandbox: f.sandbox, Nonce: b.root.nonce(f.claim), Policy: policy,
	}
}
