package enqueue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/stepward/stepward/identity"
	"github.com/stepward/stepward/internal/binding"
	"github.com/stepward/stepward/internal/db"
)

// bindings are what runs are bound to, as it is stored, by their place among the items.
type bindings map[int][]byte

// A candidate is an item that has something to do with secrets: its steps list some, or it has a
// place, or nobody has defined its workflow and its tenant has profiles.
type candidate struct {
	i       int
	steps   []binding.Lister
	place   identity.Scope
	keys    map[string]identity.Key
	early   bool
	instead *binding.Binding // of the run that this is a fork of
}

// candidates returns those of the items. The others cost nothing.
func candidates(ctx context.Context, tx pgx.Tx, q *db.Queries, items []Item, defs map[string]definition) (all []candidate, err error) {
	for i := range items {
		it := &items[i]
		d := defs[it.Workflow]
		c := candidate{i: i, early: d.version == ""}
		if it.Pin != 0 {
			c.early = it.Version == ""
			err := tx.QueryRow(ctx, q.DefinitionSteps, it.Workflow, it.Version).Scan(&d.steps)
			if err != nil && !errors.Is(err, pgx.ErrNoRows) {
				return nil, err
			}
		}
		if c.steps, err = binding.Listers(d.steps); err != nil {
			return nil, err
		}
		if len(c.steps) == 0 && !c.early && it.Identity.IsZero() {
			continue
		}
		if len(it.Identity.Keys) > 0 {
			if err := json.Unmarshal(it.Identity.Keys, &c.keys); err != nil {
				return nil, err
			}
		}
		c.place = identity.Scope{Tenant: it.Tenant, Project: it.Identity.Project, Environment: it.Identity.Environment, Workflow: it.Workflow}
		if it.Kin != 0 {
			if c.instead, err = inherit(ctx, tx, q, it, &c.place, &c.keys); err != nil {
				return nil, err
			}
		}
		all = append(all, c)
	}
	return all, nil
}

// ask adds to a batch what the candidates are bound by: profiles, and what is revoked.
func ask(b *pgx.Batch, q *db.Queries, all []candidate) *binding.View {
	var places []identity.Scope
	var keys []map[string]identity.Key
	uses, early := []binding.Use{}, false
	for _, c := range all {
		for _, s := range c.steps {
			uses = append(uses, s.Uses()...)
		}
		early = early || c.early
		places, keys = append(places, c.place), append(keys, c.keys)
	}
	if early { // of whatever key
		uses = nil
	}
	return binding.AskToBind(b, q, places, uses, keys)
}

// bind says what the candidates are bound to. What is refused is in results.
func bind(view *binding.View, all []candidate, results []Result) (bindings, error) {
	out := make(bindings)
	for _, c := range all {
		var b binding.Binding
		var err error
		if c.early {
			b, err = view.BindEarly(c.place, c.keys)
		} else {
			b, err = view.Bind(c.place, c.keys, c.steps)
		}
		if err != nil {
			results[c.i].Err = err
			continue
		}
		if c.instead != nil {
			b.Keep(*c.instead)
		}
		if len(b.Names) > 0 || len(c.steps) > 0 || c.place.Project != "" || c.place.Environment != "" || len(c.keys) > 0 {
			if out[c.i], err = json.Marshal(b); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

// inherit gives an item what its kin has and it has not: what is said of the kin's keys
// stays. It returns what a fork is bound to at most.
func inherit(ctx context.Context, tx pgx.Tx, q *db.Queries, it *Item, place *identity.Scope, keys *map[string]identity.Key) (*binding.Binding, error) {
	var body []byte
	var up int
	err := tx.QueryRow(ctx, q.BindingKin, it.Kin).Scan(&body, &up)
	if errors.Is(err, pgx.ErrNoRows) {
		if it.Fork { // of what is bound to nothing
			return &binding.Binding{}, nil
		}
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var kin binding.Binding
	if err := json.Unmarshal(body, &kin); err != nil {
		return nil, fmt.Errorf("what run %d is bound to: %w", it.Kin, err)
	}
	if place.Project == "" {
		place.Project = kin.Place.Project
	}
	if place.Environment == "" {
		place.Environment = kin.Place.Environment
	}
	for name, k := range kin.Keys {
		if *keys == nil {
			*keys = make(map[string]identity.Key)
		}
		(*keys)[name] = k
	}
	switch {
	case !it.Fork:
		return nil, nil
	case up > 0: // what it is a child of is bound, and it is not
		return &binding.Binding{}, nil
	}
	return &kin, nil
}
