package enqueue

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/stepward/stepward/internal/db"
)

// A Need is what a worker must offer to hold a run.
type Need struct {
	Workflow string
	Version  string   // empty while no worker has defined the workflow
	Modes    []string // sorted
}

// Compare orders needs. Whoever writes several rows of table requirement or
// definition writes them in this order: two transactions that wrote the same
// rows in different orders would wait for each other.
func (n Need) Compare(o Need) int {
	return cmp.Or(cmp.Compare(n.Workflow, o.Workflow), cmp.Compare(n.Version, o.Version), slices.Compare(n.Modes, o.Modes))
}

// Requirements returns the id of the requirement of each need, and writes those
// down that are new. Another transaction that is writing one of them is waited
// for.
func Requirements(ctx context.Context, tx pgx.Tx, q *db.Queries, needs []Need) ([]int32, error) {
	order := make([]int, len(needs))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(i, j int) int { return needs[i].Compare(needs[j]) })
	ids := make([]int32, len(needs))
	for _, i := range order {
		id, err := requirement(ctx, tx, q, needs[i])
		if err != nil {
			return nil, err
		}
		ids[i] = id
	}
	return ids, nil
}

func requirement(ctx context.Context, tx pgx.Tx, q *db.Queries, n Need) (id int32, err error) {
	if n.Modes == nil {
		n.Modes = []string{}
	}
	canonical, err := json.Marshal([]any{n.Workflow, n.Version, n.Modes})
	if err != nil {
		return 0, err
	}
	hash := sha256.Sum256(canonical)
	err = tx.QueryRow(ctx, q.RequirementGet, hash[:]).Scan(&id)
	if !errors.Is(err, pgx.ErrNoRows) {
		return id, err
	}
	if _, err := tx.Exec(ctx, q.RequirementInsert, hash[:], n.Workflow, n.Version, n.Modes); err != nil {
		return 0, err
	}
	return id, tx.QueryRow(ctx, q.RequirementGet, hash[:]).Scan(&id)
}
