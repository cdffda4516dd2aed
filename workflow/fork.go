package workflow

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"

	"github.com/stepward/stepward/internal/enqueue"
)

// ForkOptions configures [Client.Fork].
type ForkOptions struct {
	// From is the key of the call where the fork begins to execute, as
	// [StepStatus].Step shows it: "build#2", "page[3]/check", or that of a wait,
	// "signal:approve". Empty means the beginning.
	From string

	// Version is the version of the workflow that the fork is pinned to, which
	// a worker must have defined. Defaults to that of the run.
	Version string

	// Signals gives the fork those signals as well that the run received at
	// From or later, or has not received. Without it the fork waits for its own.
	Signals bool

	// Reproduce gives steps that execute in the fork the secrets that steps of the same
	// key were given last in the run: the same values, in the versions of then, or the step fails
	// with a *[RecordedError] of Kind "identity"; "revoked" if they are. So does a step with secrets that
	// the run has not executed, and each of a child that the fork starts. What is denied now is not given.
	// Without it they get the current values. Children that are started on their own do anyway.
	Reproduce bool
}

// Fork adds a run with the tenant, priority, tick, [Limit] and input of another one, and with the
// results of all that its body called before From in program order: those are not
// executed again, and children among them are not started again. Everything else
// is executed anew. [Context].Random gives the fork the numbers of the run, and [Context].Now the
// times before From. The run may have ended or be under way; it is not touched,
// and nothing waits for it.
//
// The fork has the attributes of the run, and no deadline. If it has results, it has
// begun, and takes nothing of the Limit's Rate. Progress and streams begin empty, and get
// what the body sets and appends from its beginning on.
//
// A fork is a run of its own: it has another id, so idempotency keys differ, and no
// parent. A body that passes its id to a step does not fit the copied results. A
// step that executes has no result to copy, so it is executed anew as well.
//
// When Fork returns, the fork is durable, and an audit event "run.forked" is in the
// record of both. After an error that leaves open whether it is, as of a connection
// that broke, forking again makes perhaps two. Errors: [ErrNotFound], an *[OptionError] for a version that
// no worker has defined, and for a From that is not on record, with the keys that
// are nearest.
func (c *Client) Fork(ctx context.Context, id RunID, o ForkOptions) (fork RunID, err error) {
	for _, f := range []struct{ name, v string }{{"From", o.From}, {"Version", o.Version}} {
		if len(f.v) > 10_000 || strings.ContainsRune(f.v, 0) || !utf8.ValidString(f.v) {
			return 0, &OptionError{Option: "ForkOptions." + f.name, Reason: "want at most 10,000 bytes of UTF-8 without NUL"}
		}
	}
	// One snapshot: the run may go on meanwhile.
	for try := 1; try == 1 || try <= 3 && conflicts(err); try++ {
		err = pgx.BeginTxFunc(ctx, c.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead}, func(tx pgx.Tx) error {
			fork, err = c.forkTx(ctx, tx, id, o)
			return err
		})
	}
	var option *OptionError
	switch {
	case err == nil:
		return fork, nil
	case errors.Is(err, ErrNotFound), errors.As(err, &option):
		return 0, err
	}
	return 0, fmt.Errorf("workflow: fork %v: %w", id, c.explain(ctx, err))
}

func (c *Client) forkTx(ctx context.Context, tx pgx.Tx, id RunID, o ForkOptions) (RunID, error) {
	item := enqueue.Item{Kin: int64(id), Fork: true}
	var tick *time.Time
	var per float64
	err := tx.QueryRow(ctx, c.q.RunForkable, int64(id)).Scan(&item.Tenant, &item.Workflow, &item.Version, &item.Pin, &item.Input, &item.Priority, &tick,
		&item.Limit.Key, &item.Limit.Concurrency, &item.Limit.Rate, &per)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, fmt.Errorf("%w: %v", ErrNotFound, id)
	}
	if err != nil {
		return 0, err
	}
	if tick != nil {
		item.Tick = *tick
	}
	item.Limit.Per = time.Duration(per * float64(time.Second))
	if o.Version != "" {
		item.Version = o.Version
		err := tx.QueryRow(ctx, c.q.DefinitionGet, item.Workflow, o.Version).Scan(&item.Pin)
		if errors.Is(err, pgx.ErrNoRows) {
			return 0, &OptionError{Option: "ForkOptions.Version", Reason: fmt.Sprintf("no worker has defined %s@%s", item.Workflow, o.Version)}
		}
		if err != nil {
			return 0, err
		}
	}
	place := new(int)
	if o.From != "" {
		if err := tx.QueryRow(ctx, c.q.StepPlace, int64(id), o.From).Scan(&place); err != nil {
			return 0, err
		}
		if place == nil {
			return 0, c.noStep(ctx, tx, id, o.From)
		}
	}
	results, err := c.insertTx(ctx, tx, []enqueue.Item{item})
	if err != nil {
		return 0, err
	}
	fork := RunID(results[0].Run)
	var copied int
	if err := tx.QueryRow(ctx, c.q.RunFork, int64(id), int64(fork), *place, o.Signals, o.Reproduce).Scan(&copied); err != nil {
		return 0, err
	}
	what := map[string]any{"run": id, "fork": fork, "steps": copied}
	if o.Reproduce {
		what["reproduce"] = true
	}
	detail, err := json.Marshal(what)
	if err != nil {
		return 0, err
	}
	_, err = tx.Exec(ctx, c.q.RunForked, int64(id), int64(fork), "client", optional(o.From), detail)
	return fork, err
}

// noStep looks for keys that were meant.
func (c *Client) noStep(ctx context.Context, tx pgx.Tx, id RunID, key string) error {
	const shown = 3
	type near struct {
		key      string
		distance int
	}
	var nearest []near
	rows, err := tx.Query(ctx, c.q.StepKeys, int64(id))
	if err != nil {
		return err
	}
	var k string
	_, err = pgx.ForEachRow(rows, []any{&k}, func() error {
		if len(k)+len(key) > 1000 { // it would take too long to compare so many of these
			return nil
		}
		nearest = append(nearest, near{k, distance(key, k)})
		slices.SortFunc(nearest, func(a, b near) int { return cmp.Or(cmp.Compare(a.distance, b.distance), cmp.Compare(a.key, b.key)) })
		nearest = nearest[:min(len(nearest), shown)]
		return nil
	})
	if err != nil {
		return err
	}
	reason := fmt.Sprintf("%v has no call %q on record", id, key)
	for i, n := range nearest {
		if i == 0 {
			reason += "; the nearest are "
		} else {
			reason += ", "
		}
		reason += strconv.Quote(n.key)
	}
	return &OptionError{Option: "ForkOptions.From", Reason: reason}
}

// distance is how many bytes have to be inserted, removed or replaced to make
// one text of the other.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
