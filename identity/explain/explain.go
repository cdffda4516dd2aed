// Package explain says what the steps of a run would get of its tenant's profiles, and why: for who administers them,
// see [identity.Profiles], and for who wonders why a step has not its key.
package explain

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/stepward/stepward/identity"
	"github.com/stepward/stepward/internal/binding"
	"github.com/stepward/stepward/internal/db"
	"github.com/stepward/stepward/internal/hostport"
	"github.com/stepward/stepward/internal/runid"
)

// A Result says what the steps of a run would get if they started now, and
// why. It has no values but those of knobs.
type Result struct {
	Place   identity.Scope   // of the run, without a step
	Version string           // of the run's definition; empty: no worker has had it yet, and what its steps list is not known
	Epoch   map[string]int64 // of what was revoked when it was enqueued
	Keys    []Key            // by step, as its definition lists them
}

// A Key is a name that a step lists.
type Key struct {
	Step, Name string
	Optional   bool
	Bound      *identity.Bound   // when the run was enqueued; nil: it was not
	Now        identity.Resolved // what the profiles say: what wins, and what is shadowed, denied and locked
	State      identity.State    // of the key
	Why        identity.Revocation
	Err        error // nil, or why a step that starts does not get it
}

// Run says of each name that the steps of a run list where it comes from, what it
// was bound to, and whether a step that starts now gets it, and from which commands policies
// keep it. What depends on the level, it says for the highest. run is a workflow.RunID
// as text, or in digits. Error: [identity.ErrNotFound].
func Run(ctx context.Context, pool *pgxpool.Pool, run string, o identity.Options) (r Result, err error) {
	if pool == nil {
		return r, errors.New("identity: a pool is required")
	}
	q, err := db.New(o.Schema)
	if err != nil {
		return r, err
	}
	id, ok := runid.Read(run)
	if !ok {
		return r, fmt.Errorf("%w: %.40q is no id of a run", identity.ErrNotFound, run)
	}
	opts := pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}
	err = pgx.BeginTxFunc(ctx, pool, opts, func(tx pgx.Tx) error {
		r, err = explain(ctx, tx, q, id, o.Engine)
		return err
	})
	if err != nil && !errors.Is(err, identity.ErrNotFound) {
		err = fmt.Errorf("identity: explain: %w", db.Explain(ctx, pool, q, err))
	}
	return r, err
}

func explain(ctx context.Context, tx pgx.Tx, q *db.Queries, run int64, engine identity.Engine) (r Result, err error) {
	var b binding.Binding
	var steps, body []byte
	var version string
	err = tx.QueryRow(ctx, q.BindingExplain, run).Scan(&b.Place.Tenant, &b.Place.Workflow, &version, &r.Version, &steps, &body)
	if errors.Is(err, pgx.ErrNoRows) {
		return r, fmt.Errorf("%w: %s", identity.ErrNotFound, runid.Text(run))
	}
	if err == nil && body != nil {
		err = json.Unmarshal(body, &b)
	}
	if err != nil {
		return r, err
	}
	listers, err := binding.Listers(steps)
	if err != nil {
		return r, err
	}
	uses := []binding.Use{{Run: run}}
	for _, l := range listers {
		uses = append(uses, l.Uses()...)
	}
	v, err := binding.Load(ctx, tx, q, []identity.Scope{b.Place}, uses, b.Keys)
	if err == nil {
		err = v.Recall(ctx, tx, q, b)
	}
	if err != nil {
		return r, err
	}
	v.Engine = engine
	r.Place, r.Epoch = b.Place, b.Epoch
	for _, l := range listers {
		place := b.Place
		place.Step = l.Step
		all := identity.Resolve(v.Profiles, place, b.Keys)
		for _, listed := range l.Secrets {
			name, optional := strings.CutSuffix(listed, "?")
			x := Key{Step: l.Step, Name: name, Optional: optional, Now: all[name]}
			x.Now.Name = name
			if n, ok := b.Bound(l.Step, name); ok {
				x.Bound = &n
			}
			use := binding.Use{Tenant: b.Place.Tenant, Workflow: b.Place.Workflow, Run: run, Bound: b.Epoch, WorkflowVersion: version, Level: identity.L2}
			x.State, x.Why = v.Revocations.Of(use.Of(x.Now))
			given, _, err := b.Start(v, binding.Lister{Step: l.Step, Secrets: []string{name}, Tool: l.Tool}, use)
			if x.Err = err; err == nil {
				x.Now.Rulings, x.Now.Key.Commands = given[0].Rulings, given[0].Key.Commands
			} else if k, ok := errors.AsType[*identity.KeyError](err); ok {
				x.Now.Rulings = k.Rulings
			}
			r.Keys = append(r.Keys, x)
		}
	}
	return r, nil
}

// String returns a line for each name, or one that says why there is none.
func (r Result) String() string {
	switch {
	case r.Version == "":
		return fmt.Sprintf("what the steps of %s list is not known: no worker has had its definition yet\n", r.Place.Workflow)
	case len(r.Keys) == 0:
		return fmt.Sprintf("no step of %s, version %s, lists a name\n", r.Place.Workflow, r.Version)
	}
	var b strings.Builder
	for _, k := range r.Keys {
		fmt.Fprintf(&b, "%s %s: ", k.Step, k.Name)
		if k.Err != nil {
			fmt.Fprintf(&b, "not given: %v", k.Err)
		} else {
			fmt.Fprintf(&b, "%s%s of %v", k.Now.Key.Ref, k.Now.Key.Knob, k.Now.From)
			if i := k.Now.Key.Inject; i != nil {
				fmt.Fprintf(&b, "; not in the sandbox, but put into requests to %s", strings.Join(hostport.All(i.Hosts), ", "))
			}
		}
		for _, ruling := range k.Now.Rulings {
			if k.Err == nil && !ruling.Allow {
				fmt.Fprintf(&b, "; not for %v", ruling)
			}
		}
		for _, s := range k.Now.Shadowed {
			fmt.Fprintf(&b, "; shadows %v", s)
		}
		if k.State != identity.Active && !errors.Is(k.Err, identity.ErrRevoked) { // whose text has it
			fmt.Fprintf(&b, "; %v", k.State)
		}
		b.WriteByte('\n')
	}
	return b.String()
}
