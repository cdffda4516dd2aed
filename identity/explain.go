package identity

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/stepward/stepward/internal/runid"
)

// An Explanation says what the steps of a run would get if they started now, and
// why. It has no values but those of knobs.
type Explanation struct {
	Place Scope            // of the run, without a step
	Epoch map[string]int64 // of what was revoked when it was enqueued
	Keys  []Explained      // by step, as its definition lists them
}

// An Explained is a name that a step lists.
type Explained struct {
	Step, Name string
	Optional   bool
	Bound      *Bound   // when the run was enqueued; nil: it was not
	Now        Resolved // what the profiles say: what wins, and what is shadowed, denied and locked
	State      State    // of the key
	Why        Revocation
	Err        error // nil, or why a step that starts does not get it
}

// Explain says of each name that the steps of a run list where it comes from, what it
// was bound to, and whether a step that starts now gets it, and from which commands policies
// keep it. What depends on the level, it says for the highest. run is a workflow.RunID
// as text, or in digits. Error: [ErrNotFound].
func (p *Profiles) Explain(ctx context.Context, run string) (e Explanation, err error) {
	id, ok := parseRun(run)
	if !ok {
		return e, fmt.Errorf("%w: %.40q is no id of a run", ErrNotFound, run)
	}
	opts := pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}
	err = pgx.BeginTxFunc(ctx, p.pool, opts, func(tx pgx.Tx) error {
		e, err = p.explain(ctx, tx, id)
		return err
	})
	if err != nil && !errors.Is(err, ErrNotFound) {
		err = fmt.Errorf("identity: explain: %w", err)
	}
	return e, err
}

func (p *Profiles) explain(ctx context.Context, tx pgx.Tx, run int64) (e Explanation, err error) {
	var b Binding
	var steps, body []byte
	var version string
	err = tx.QueryRow(ctx, p.q.BindingExplain, run).Scan(&b.Place.Tenant, &b.Place.Workflow, &version, &steps, &body)
	if errors.Is(err, pgx.ErrNoRows) {
		return e, fmt.Errorf("%w: %s", ErrNotFound, runid.Text(run))
	}
	if err == nil && body != nil {
		err = json.Unmarshal(body, &b)
	}
	if err != nil {
		return e, err
	}
	listers, err := Listers(steps)
	if err != nil {
		return e, err
	}
	uses := []Use{{Run: run}}
	for _, l := range listers {
		uses = append(uses, l.Uses()...)
	}
	v, err := Load(ctx, tx, p.q, []Scope{b.Place}, uses, b.Keys)
	if err == nil {
		err = v.Recall(ctx, tx, p.q, b)
	}
	if err != nil {
		return e, err
	}
	v.Engine = p.engine
	e.Place, e.Epoch = b.Place, b.Epoch
	for _, l := range listers {
		place := b.Place
		place.Step = l.Step
		all := Resolve(v.Profiles, place, b.Keys)
		for _, listed := range l.Secrets {
			name, optional := strings.CutSuffix(listed, "?")
			x := Explained{Step: l.Step, Name: name, Optional: optional, Now: all[name]}
			x.Now.Name = name
			if n, ok := b.bound(l.Step, name); ok {
				x.Bound = &n
			}
			use := Use{Tenant: b.Place.Tenant, Workflow: b.Place.Workflow, Run: run, Bound: b.Epoch, WorkflowVersion: version, Level: L2}
			x.State, x.Why = v.Revocations.Of(use.of(x.Now))
			given, _, err := b.Start(v, Lister{Step: l.Step, Secrets: []string{name}, Tool: l.Tool}, use)
			if x.Err = err; err == nil {
				x.Now.Rulings, x.Now.Key.Commands = given[0].Rulings, given[0].Key.Commands
			} else if k, ok := errors.AsType[*KeyError](err); ok {
				x.Now.Rulings = k.Rulings
			}
			e.Keys = append(e.Keys, x)
		}
	}
	return e, nil
}

// String returns a line for each name.
func (e Explanation) String() string {
	var b strings.Builder
	for _, k := range e.Keys {
		fmt.Fprintf(&b, "%s %s: ", k.Step, k.Name)
		if k.Err != nil {
			fmt.Fprintf(&b, "not given: %v", k.Err)
		} else {
			fmt.Fprintf(&b, "%s%s of %v", k.Now.Key.Ref, k.Now.Key.Knob, k.Now.From)
			if i := k.Now.Key.Inject; i != nil {
				fmt.Fprintf(&b, "; not in the sandbox, but put into requests to %s", strings.Join(i.Endpoints(), ", "))
			}
		}
		for _, r := range k.Now.Rulings {
			if k.Err == nil && !r.Allow {
				fmt.Fprintf(&b, "; not for %v", r)
			}
		}
		for _, s := range k.Now.Shadowed {
			fmt.Fprintf(&b, "; shadows %v", s)
		}
		if k.State != Active {
			fmt.Fprintf(&b, "; %v", k.State)
		}
		b.WriteByte('\n')
	}
	return b.String()
}
