package workflow

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stepward/stepward/internal/engine"
	"github.com/stepward/stepward/internal/history"
)

// Export returns what is on record of a run as a JSON document: its input, and
// the result of each step, a line per step. Keep it in a repository and let a test
// replay it against the code of the day: see workflowtest.Replay. The same record
// gives the same bytes. The error is [ErrNotFound], or a *[ValueError] when
// something on record is no JSON.
func (c *Client) Export(ctx context.Context, id RunID) ([]byte, error) {
	h, err := c.history(ctx, id)
	if err != nil {
		return nil, err
	}
	data, err := h.Marshal()
	if err != nil {
		return nil, &ValueError{Kind: "decode", What: "history of " + id.String(), Err: err}
	}
	return data, nil
}

// Replay executes the body of a definition against what is on record of a run of
// that workflow, whatever its version and whether it has ended. No step is
// executed and nothing is written. The error is a *[NonDeterminismError] when
// the body does other than what is on record, a *[ValueError] when something on
// record does not fit its types, a *[DefinitionError], or [ErrNotFound]. Nil
// means that the definition can take the run over. What a completed body returns
// is not compared.
func (c *Client) Replay(ctx context.Context, id RunID, d *Definition) error {
	h, err := c.history(ctx, id)
	if err != nil {
		return err
	}
	return replay(ctx, d.Engine(), h, c.maxBytes)
}

// replayDocument is Replay for a document that Export returned.
func replayDocument(def *engine.Definition, document []byte) error {
	h, err := history.Parse(document)
	if err != nil {
		return &ValueError{Kind: "decode", What: "history", Err: err}
	}
	return replay(context.Background(), def, h, engine.MaxBytesDefault)
}

// How a body ended, of the runs of which that is known. One that was canceled or
// terminated may have ended without its body.
var recordedEnds = map[string]engine.EndKind{"completed": engine.Completed}

func replay(ctx context.Context, def *engine.Definition, h *history.History, maxBytes int) error {
	if err := errors.Join(def.Errs...); err != nil {
		return err
	}
	if def.Workflow != h.Workflow {
		return &DefinitionError{Workflow: def.Workflow, Reason: fmt.Sprintf("the history is of workflow %q", h.Workflow)}
	}
	var run, origin RunID
	err := run.UnmarshalText([]byte(h.Run))
	if origin = run; err == nil && h.Origin != "" {
		err = origin.UnmarshalText([]byte(h.Origin))
	}
	if err != nil {
		return &ValueError{Kind: "decode", What: "history", Err: err}
	}
	end := def.Run(ctx, engine.Turn{
		Run: int64(run), Seed: int64(origin), Epoch: 1, Tenant: h.Tenant, Tick: h.Tick, Input: h.Input, Steps: slices.Clone(h.Steps),
		Now: time.Now, MaxBytes: maxBytes, Logger: slog.New(slog.DiscardHandler), Verify: true, Ended: recordedEnds[h.State],
	})
	return end.Err
}

// verify ends the turn of a body that is verified, where its record ends.
func (t *turn) verify() {
	mismatch := &NonDeterminismError{Seq: t.seq + 1, Recorded: keyEnd + "completed"}
	var renew *continueError
	open := t.oldest()
	switch {
	case t.in.Ended == 0, len(t.branches) == 0 && t.err == nil:
		t.leave(engine.End{Kind: engine.Lost}) // it fits, and nothing is to be written
		return
	case len(t.branches) == 0 && errors.As(t.err, &renew):
		mismatch.Attempted = keyEnd + "continued as new"
	case len(t.branches) == 0:
		mismatch.Attempted = keyEnd + "failed"
	case open != nil:
		mismatch.Seq, mismatch.Attempted = open.seq, open.key
	}
	t.park("nondeterminism", mismatch)
}

// oldest returns the first call in program order that has no result.
func (t *turn) oldest() (first *future) {
	for _, f := range t.unresolved {
		if f.launched && (first == nil || f.seq < first.seq) {
			first = f
		}
	}
	return first
}

// history reads what is on record of a run, a page at a time, as it was at one
// moment.
func (c *Client) history(ctx context.Context, id RunID) (*history.History, error) {
	h := &history.History{Run: id.String()}
	err := pgx.BeginTxFunc(ctx, c.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		var origin RunID
		var tick *time.Time
		err := tx.QueryRow(ctx, c.q.RunHistory, int64(id)).Scan(&h.Tenant, &h.Workflow, &h.Version, &h.State, &h.Input, &h.Output, &h.Error, &origin, &tick)
		if errors.Is(err, pgx.ErrNoRows) {
			return fmt.Errorf("%w: %v", ErrNotFound, id)
		}
		if err != nil {
			return err
		}
		if origin != 0 {
			h.Origin = origin.String()
		}
		h.Tick = utc(tick)
		const page = 1000
		for after, n := -1, page; n == page; {
			rows, err := tx.Query(ctx, c.q.StepHistory, int64(id), after, page)
			if err != nil {
				return err
			}
			var s engine.Checkpoint
			var hash int64
			n = 0
			_, err = pgx.ForEachRow(rows, []any{&s.Seq, &s.Done, &s.Key, &s.Attempt, &hash, &s.Output, &s.Error}, func() error {
				s.InputHash = uint64(hash)
				h.Steps = append(h.Steps, s)
				s.Output, s.Error = nil, nil
				after = s.Seq
				n++
				return nil
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil && !errors.Is(err, ErrNotFound) {
		err = fmt.Errorf("workflow: read the history of %v: %w", id, c.explain(ctx, err))
	}
	if err == nil {
		err = c.openHistory(ctx, h)
	}
	return h, err
}

// openHistory turns what is stored into what was encoded.
func (c *Client) openHistory(ctx context.Context, h *history.History) (err error) {
	if h.Input, err = c.open(ctx, "input of workflow "+h.Workflow, h.Input); err != nil {
		return err
	}
	if h.Output, err = c.open(ctx, "output of workflow "+h.Workflow, h.Output); err != nil {
		return err
	}
	if h.Error, err = c.open(ctx, "error of workflow "+h.Workflow, h.Error); err != nil {
		return err
	}
	for i := range h.Steps {
		s := &h.Steps[i]
		if err := openCheckpoint(ctx, s, c.box.OpenHashed); err != nil {
			return &ValueError{Kind: "decode", What: "result of " + s.Key, Err: err}
		}
	}
	return nil
}
