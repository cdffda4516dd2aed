package enqueue

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/jackc/pgx/v5"

	"github.com/stepward/stepward/internal/binding"
	"github.com/stepward/stepward/internal/db"
)

// A Memory has the names that the steps of workflows of one schema listed when runs of them were added last. It is
// but a guess of what they list now: what is asked of profiles and of what is revoked for a guess goes together
// with the question what they list, and is asked again when that is something else. Its zero value is empty.
type Memory struct {
	mu    sync.Mutex
	steps map[string][]byte // by workflow, as table definition has them
}

// maxRemembered is how many workflows a Memory has at most.
const maxRemembered = 1000

// look returns what counts for the items: the newest definitions, and profiles and what is revoked for those that
// have something to do with secrets.
func (m *Memory) look(ctx context.Context, tx pgx.Tx, q *db.Queries, items []Item) (map[string]definition, []candidate, *binding.View, error) {
	var names []string
	apart := false // something else has to be asked first
	for _, it := range items {
		apart = apart || it.Pin != 0 || it.Kin != 0
		if it.Pin == 0 && !slices.Contains(names, it.Workflow) {
			names = append(names, it.Workflow)
		}
	}
	b := &pgx.Batch{}
	defs := newest(b, q, names)
	guess := m.recall(names)
	var all []candidate
	var view *binding.View
	var err error
	if !apart {
		if all, err = candidates(ctx, tx, q, items, guess); err != nil {
			return nil, nil, nil, err
		}
		if len(all) > 0 {
			view = ask(b, q, all)
		}
	}
	if err := tx.SendBatch(ctx, b).Close(); err != nil {
		m.learn(names, nil) // what is guessed wrong must not be asked in vain for ever
		return nil, nil, nil, fmt.Errorf("read definitions, and for those with secrets profiles and what is revoked: %w", err)
	}
	m.learn(names, defs)
	if !apart && right(guess, defs) {
		return defs, all, view, nil
	}
	if err := undefined(ctx, tx, q, names, defs); err != nil {
		return nil, nil, nil, err
	}
	if all, err = candidates(ctx, tx, q, items, defs); err != nil || len(all) == 0 {
		return defs, nil, nil, err
	}
	b = &pgx.Batch{}
	view = ask(b, q, all)
	if err := tx.SendBatch(ctx, b).Close(); err != nil {
		return nil, nil, nil, fmt.Errorf("read profiles and what is revoked: %w", err)
	}
	return defs, all, view, nil
}

// guessed is the version of a definition that is but a guess.
const guessed = "?"

// recall returns a guess for each workflow. One that is not remembered lists nothing.
func (m *Memory) recall(names []string) map[string]definition {
	m.mu.Lock()
	defer m.mu.Unlock()
	guess := make(map[string]definition)
	for _, name := range names {
		guess[name] = definition{version: guessed, steps: m.steps[name]}
	}
	return guess
}

// learn remembers what definitions list, and forgets workflows that have none or list nothing.
func (m *Memory) learn(names []string, defs map[string]definition) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, name := range names {
		steps := defs[name].steps
		switch {
		case steps == nil:
			delete(m.steps, name)
		case m.steps == nil || len(m.steps) >= maxRemembered && m.steps[name] == nil:
			m.steps = map[string][]byte{name: steps}
		default:
			m.steps[name] = steps
		}
	}
}

// right reports whether what was asked for a guess is what has to be asked.
func right(guess, defs map[string]definition) bool {
	for name, g := range guess {
		if d, ok := defs[name]; !ok || !bytes.Equal(d.steps, g.steps) {
			return false
		}
	}
	return true
}
