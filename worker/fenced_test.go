package worker

import (
	"context"
	"errors"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stepward/stepward/internal/boottime"
	"github.com/stepward/stepward/internal/db"
	"github.com/stepward/stepward/internal/engine"
	"github.com/stepward/stepward/internal/enqueue"
	"github.com/stepward/stepward/internal/payload"
	"github.com/stepward/stepward/internal/testenv"
	"github.com/stepward/stepward/workflow"
)

// fenced has the statements of a turn that name its epoch and session, in each form
// in which they are sent. They return how many runs they found to be the turn's.
var fenced = map[string]func(ctx context.Context, w *worker, tx pgx.Tx, t *heldTurn) (int, error){
	"Commit": func(ctx context.Context, w *worker, tx pgx.Tx, t *heldTurn) (int, error) {
		return commits(ctx, w, tx, write{t: t, Batch: everything, blobs: payload.Use{Runs: []int64{t.run}, Keys: []string{"blob"}}})
	},
	"Commit of a result in a transaction": func(ctx context.Context, w *worker, tx pgx.Tx, t *heldTurn) (int, error) {
		h := &host{w: w, t: t}
		err := h.commitTx(ctx, tx, func(context.Context) {}, everything.Checkpoints[0])
		return found(err)
	},
	"TurnLeave to wait": func(ctx context.Context, w *worker, tx pgx.Tx, t *heldTurn) (int, error) {
		return leaves(w.leaveTo(ctx, tx, t, engine.End{Kind: engine.Timer, Delay: time.Second}))
	},
	"TurnLeave to another worker": func(ctx context.Context, w *worker, tx pgx.Tx, t *heldTurn) (int, error) {
		return leaves(w.leaveTo(ctx, tx, t, engine.End{Kind: engine.Released}))
	},
	"TurnLeave to park": func(ctx context.Context, w *worker, tx pgx.Tx, t *heldTurn) (int, error) {
		return leaves(w.leaveTo(ctx, tx, t, engine.End{Kind: engine.Parked, Reason: "storage"}))
	},
	"TurnRenew": func(ctx context.Context, w *worker, tx pgx.Tx, t *heldTurn) (int, error) {
		return leaves(w.renewTo(ctx, tx, t, engine.End{Kind: engine.Renewed, Output: []byte("2")}))
	},
	"ChildWait": func(ctx context.Context, w *worker, tx pgx.Tx, t *heldTurn) (int, error) {
		_, err := w.childTx(ctx, tx, t, engine.Child{Seq: 5, Key: "kid"}, enqueue.Item{}) // it is there already
		return found(err)
	},
	"AttemptDispatch": func(ctx context.Context, w *worker, tx pgx.Tx, t *heldTurn) (int, error) {
		h := &host{w: w, t: t}
		return found(h.dispatch(ctx, tx, engine.Attempt{Seq: 4, Key: "box", Number: 1, Step: &engine.Step{}}, "sandbox", "local", "sandbox.created", []byte("{}"), nil))
	},
	"AttemptTake": func(ctx context.Context, w *worker, tx pgx.Tx, t *heldTurn) (int, error) {
		h := &host{w: w, t: t}
		_, _, err := h.take(ctx, tx, engine.Attempt{Seq: 10, Key: "old", Number: 1}, "old", "local")
		return found(err)
	},
	"TurnReap": func(ctx context.Context, w *worker, tx pgx.Tx, _ *heldTurn) (int, error) {
		tag, err := tx.Exec(ctx, w.q.TurnReap, 10, 5, "me", pausedDetail)
		return int(tag.RowsAffected()), err
	},
}

// everything is what a turn can write at once.
var everything = engine.Batch{
	Checkpoints: []engine.Checkpoint{{Seq: 1, Done: 1, Key: "a", Attempt: 1, Output: []byte("1")}},
	Failures:    []engine.Failure{{Seq: 2, Key: "b", Attempt: 1, Error: []byte("{}")}},
	Beats:       []engine.Beat{{Seq: 3, Key: "c", Attempt: 1, Details: []byte("1")}},
	Waits:       []engine.Wait{{Seq: 6, Key: "signal:s", Left: engine.Never, Signal: "s"}},
	Dropped:     []int{5},
	Received:    []engine.Signal{{ID: 1, Name: "s"}, {ID: 2, Name: "s"}},
	Cancel:      []int64{9},
	Entries:     []engine.Entry{{Stream: "s", Payload: []byte("1")}, {Stream: "s", Step: "c", Attempt: 1, Payload: []byte("1")}},
	Progress:    []engine.Progress{{Name: "body", Value: []byte("1"), Body: true}, {Name: "step", Value: []byte("1")}},
	Attributes:  []engine.Attribute{{Name: "tag", Value: []byte("i1")}},
	Shown:       engine.Place{Done: 1, N: 1},
	End:         &engine.End{Kind: engine.Completed, Output: []byte("1")},
}

func commits(ctx context.Context, w *worker, tx pgx.Tx, xs ...write) (int, error) {
	rows, err := tx.Query(ctx, w.q.Commit, arguments(xs, w.q.WatchChannel())...)
	if err != nil {
		return 0, err
	}
	ids, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (id int64, err error) {
		var checkpoints int
		if err = row.Scan(&id, nil, nil, &checkpoints, nil); err == nil && checkpoints < 0 {
			err = errLocked
		}
		return id, err
	})
	return len(ids), err
}

func leaves(_ string, err error) (int, error) { return found(err) }

func found(err error) (int, error) {
	if errors.Is(err, pgx.ErrNoRows) || errors.Is(err, engine.ErrLeaseLost) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return 1, nil
}

// holding makes a run that a session holds, with something on record for each
// statement to change.
func holding(t *testing.T) (*worker, *heldTurn) {
	t.Helper()
	pool, schema := testenv.Postgres(t)
	if err := workflow.Migrate(t.Context(), pool, workflow.MigrateOptions{Schema: schema}); err != nil {
		t.Fatal(err)
	}
	q, err := db.New(schema)
	if err != nil {
		t.Fatal(err)
	}
	w := &worker{Config: Config{Pool: pool, Name: "me"}.withDefaults(), q: q}
	w.lease.deadline.Store(int64(boottime.Now() + 30*time.Second))
	h := &heldTurn{run: 7, epoch: 3, session: 4711}
	h.watched.Store(true)
	for _, sql := range []string{
		"INSERT INTO stepward.worker (session, name, state, lease_until, lease_s, requirements, backends) VALUES (4711, 'me', 'dead', 'epoch', 10, '{}', '{}')",
		`INSERT INTO stepward.run (id, tenant, workflow, version, requirement_id, input, epoch, session, parent_id)
		 VALUES (7, '', 'w', '1', 1, '1', 3, 4711, 8), (8, '', 'w', '1', 1, '1', 4, 4711, NULL), (9, '', 'w', '1', 1, '1', 1, NULL, 7)`,
		"INSERT INTO stepward.turn (run_id, session, epoch) VALUES (7, 4711, 3)",
		"INSERT INTO stepward.wait (run_id, seq, key, child_id) VALUES (7, 5, 'kid', 9), (8, 5, 'kid', 7)",
		"INSERT INTO stepward.signal (run_id, name, payload) VALUES (7, 's', '1'), (8, 's', '1')",
		"INSERT INTO stepward.attempt (run_id, started_at, seq, epoch, attempt, mode, key, sandbox_id) VALUES (7, now(), 10, 1, 1, 1, 'old', 'old')",
		"INSERT INTO stepward.sandbox (id, run_id, session, backend, handle) VALUES ('old', 7, 4710, 'local', '1')",
		"INSERT INTO stepward.blob (key, data) VALUES ('blob', '1')",
	} {
		if _, err := pool.Exec(t.Context(), in(q, sql)); err != nil {
			t.Fatal(err)
		}
	}
	return w, h
}

func in(q *db.Queries, sql string) string { return strings.ReplaceAll(sql, "stepward.", q.Schema+".") }

// dump returns all rows of all tables, as tx sees them.
func dump(t *testing.T, w *worker, tx pgx.Tx) (text string) {
	t.Helper()
	var all string
	err := tx.QueryRow(t.Context(), `SELECT string_agg(format('SELECT %L, t::text FROM %I.%I t', tablename, schemaname, tablename), ' UNION ALL ')
		FROM pg_tables WHERE schemaname = $1`, w.q.Schema).Scan(&all)
	if err == nil {
		err = tx.QueryRow(t.Context(), "SELECT string_agg(concat_ws(' ', a, b), E'\n' ORDER BY a, b) FROM ("+all+") AS x(a, b)").Scan(&text)
	}
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// Only who holds (epoch, session) writes: each statement changes nothing of a run
// that another session holds, that was claimed or reaped again, that this turn has
// left, or that has ended.
func TestFence(t *testing.T) {
	t.Parallel()
	w, h := holding(t)
	for name, send := range fenced {
		for _, held := range []struct{ name, sql string }{
			{"the turn's own", "SELECT"},
			{"another session's", "UPDATE stepward.run SET session = 4712 WHERE id = 7"},
			{"nobody's", "UPDATE stepward.run SET session = NULL WHERE id = 7"},
			{"of a later epoch", "UPDATE stepward.run SET epoch = 4 WHERE id = 7"},
			{"over", "UPDATE stepward.run SET state = 'failed' WHERE id = 7"},
		} {
			t.Run(name+"/"+held.name, func(t *testing.T) {
				tx, err := w.Pool.Begin(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = tx.Rollback(context.Background()) }()
				if _, err := tx.Exec(t.Context(), in(w.q, held.sql)); err != nil {
					t.Fatal(err)
				}
				before := dump(t, w, tx)
				n, err := send(t.Context(), w, keepsOpen{tx}, h)
				if err != nil {
					t.Fatal(err)
				}
				after := dump(t, w, tx)
				own := held.sql == "SELECT"
				if wrote := after != before; n > 0 != own || wrote != (own && name != "ChildWait") {
					t.Errorf("found %d, wrote %t:\n%s", n, wrote, after)
				}
			})
		}
	}
}

// keepsOpen is a transaction whose end is its owner's.
type keepsOpen struct{ pgx.Tx }

func (keepsOpen) Commit(context.Context) error { return nil }

// Of the turns in one statement each is judged by its own epoch: what the others
// write is theirs alone.
func TestFenceOfEach(t *testing.T) {
	t.Parallel()
	w, h := holding(t)
	late := &heldTurn{run: 8, epoch: 3, session: 4711} // the run's is 4
	own := write{t: h, Batch: engine.Batch{Dropped: []int{5}}}
	other := write{t: late, Batch: everything, blobs: payload.Use{Runs: []int64{late.run}, Keys: []string{"blob"}}}
	left := func(xs ...write) string {
		tx, err := w.Pool.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = tx.Rollback(context.Background()) }()
		if n, err := commits(t.Context(), w, tx, xs...); err != nil || n != 1 {
			t.Errorf("found %d, %v", n, err)
		}
		return dump(t, w, tx)
	}
	if alone, both := left(own), left(own, other); alone != both {
		t.Errorf("without the late one\n%s\nwith it\n%s", alone, both)
	}
}

// A run that somebody has locked is worth another try only if it is the turn's.
func TestFenceOfLocked(t *testing.T) {
	t.Parallel()
	w, h := holding(t)
	lock := func(sql string) (commit func()) {
		tx, err := w.Pool.Begin(t.Context())
		if err == nil {
			_, err = tx.Exec(t.Context(), in(w.q, sql))
		}
		if err != nil {
			t.Fatal(err)
		}
		return func() {
			if err := tx.Commit(context.Background()); err != nil {
				t.Error(err)
			}
		}
	}
	try := func(h *heldTurn) error {
		errs := make([]error, 1)
		if err := w.send(t.Context(), []write{{t: h, Batch: engine.Batch{Dropped: []int{1}}}}, errs, false); err != nil {
			t.Fatal(err)
		}
		return errs[0]
	}
	commit := lock("UPDATE stepward.run SET state = 'failed' WHERE id = 7")
	if err := try(h); !errors.Is(err, errLocked) {
		t.Errorf("the turn's own: %v", err)
	}
	for name, other := range map[string]*heldTurn{
		"another session's": {run: 7, epoch: 3, session: 4712},
		"of another epoch":  {run: 7, epoch: 2, session: 4711},
	} {
		if err := try(other); !errors.Is(err, engine.ErrLeaseLost) {
			t.Errorf("%s: %v", name, err)
		}
	}
	commit()
	commit = lock("SELECT FROM stepward.run WHERE id = 7 FOR UPDATE")
	if err := try(h); !errors.Is(err, engine.ErrLeaseLost) {
		t.Errorf("one that is over: %v", err)
	}
	commit()
}

// No statement of a turn waits for who has locked its run, with a connection in its
// hands.
func TestFenceDoesNotWait(t *testing.T) {
	t.Parallel()
	w, h := holding(t)
	begin := func() pgx.Tx {
		tx, err := w.Pool.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = tx.Rollback(context.Background()) })
		return tx
	}
	if _, err := begin().Exec(t.Context(), in(w.q, "SELECT FROM stepward.run WHERE id = 7 FOR NO KEY UPDATE")); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for name, send := range fenced {
		if name == "Commit of a result in a transaction" { // tries again until it has an answer
			continue
		}
		tx := begin()
		if n, err := send(ctx, w, tx, h); n != 0 || err != nil && !locked(err) && !errors.Is(err, errLocked) {
			t.Errorf("%s: found %d, %v", name, n, err)
		}
		if err := tx.Rollback(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// After a lost answer a result counts as written only if this turn wrote it.
func TestFenceOfOutcome(t *testing.T) {
	t.Parallel()
	w, h := holding(t)
	for _, sql := range []string{
		"UPDATE stepward.run SET state = 'completed' WHERE id = 7",
		"INSERT INTO stepward.step (run_id, started_at, input_hash, seq, epoch, done, elapsed, attempt, mode, key) VALUES (7, now(), 0, 1, 3, 1, 0, 2, '1', 'a')",
	} {
		if _, err := w.Pool.Exec(t.Context(), in(w.q, sql)); err != nil {
			t.Fatal(err)
		}
	}
	step := func(seq, attempt int) engine.Batch {
		return engine.Batch{Checkpoints: []engine.Checkpoint{{Seq: seq, Attempt: attempt}}}
	}
	ends := func(k engine.EndKind) engine.Batch { return engine.Batch{End: &engine.End{Kind: k}} }
	for name, test := range map[string]struct {
		t    *heldTurn
		b    engine.Batch
		mine bool
	}{
		"step":                   {h, step(1, 2), true},
		"step of another epoch":  {&heldTurn{run: 7, epoch: 2, session: 4711}, step(1, 2), false},
		"step of another run":    {&heldTurn{run: 8, epoch: 3, session: 4711}, step(1, 2), false},
		"another step":           {h, step(2, 2), false},
		"another attempt":        {h, step(1, 1), false},
		"end":                    {h, ends(engine.Completed), true},
		"another end":            {h, ends(engine.Failed), false},
		"end by another session": {&heldTurn{run: 7, epoch: 3, session: 4712}, ends(engine.Completed), false},
		"end in another epoch":   {&heldTurn{run: 7, epoch: 2, session: 4711}, ends(engine.Completed), false},
		"a failure alone, or what else leaves no trace": {h, engine.Batch{}, false},
	} {
		if mine, err := w.outcome(t.Context(), w.Pool, write{t: test.t, Batch: test.b}); err != nil || mine != test.mine {
			t.Errorf("%s: %t, %v", name, mine, err)
		}
	}
}

// Every statement that names a turn's session is in one of the tests above.
func TestFenceCoversEveryStatement(t *testing.T) {
	q, err := db.New("")
	if err != nil {
		t.Fatal(err)
	}
	names := regexp.MustCompile(`\b(r|run)\.session = (\$1|dead)\b`)
	v := reflect.ValueOf(*q)
	for i := range v.NumField() {
		name := v.Type().Field(i).Name
		if names.MatchString(v.Field(i).String()) && !slices.ContainsFunc(slices.Collect(maps.Keys(fenced)), func(key string) bool {
			return key == name || strings.HasPrefix(key, name+" ")
		}) {
			t.Errorf("statement %s has no case", name)
		}
	}
}

// An attempt that is over is not heard any more, nor is one of an earlier turn.
func TestFenceOfAttempt(t *testing.T) {
	t.Parallel()
	w, h := holding(t)
	tx, err := w.Pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.Background()) }()
	if _, err := tx.Exec(t.Context(), in(w.q, `INSERT INTO stepward.attempt (run_id, started_at, seq, epoch, attempt, mode, key, error)
		VALUES (7, now(), 2, 3, 1, 1, 'b', '{}'), (7, now(), 3, 2, 1, 1, 'c', NULL)`)); err != nil {
		t.Fatal(err)
	}
	before := dump(t, w, tx)
	beats := []engine.Beat{{Seq: 2, Key: "b", Attempt: 1, Details: []byte("1")}, {Seq: 3, Key: "c", Attempt: 1, Details: []byte("1")}}
	if n, err := commits(t.Context(), w, tx, write{t: h, Batch: engine.Batch{Beats: beats}}); err != nil || n != 1 {
		t.Errorf("found %d, %v", n, err)
	}
	if after := dump(t, w, tx); after != before {
		t.Errorf("there were\n%s\nare\n%s", before, after)
	}
}

// Only a session that is live and has its lease claims, and one that has ended stays
// so.
func TestFenceOfSession(t *testing.T) {
	t.Parallel()
	w, _ := holding(t)
	claims := func(tx pgx.Tx, sql string, more ...any) (n int) {
		args := append([]any{int64(4711), []int32{1}, []int32{1}, []string{"1"}, 10}, append(more, nil, nil, nil)...)
		rows, err := tx.Query(t.Context(), sql, args...)
		if err != nil {
			t.Fatal(err)
		}
		ids, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (id int64, err error) {
			return id, row.Scan(append([]any{&id}, make([]any, 12)...)...)
		})
		if err != nil {
			t.Fatal(err)
		}
		return len(ids)
	}
	for _, sql := range []string{
		"UPDATE stepward.run SET session = NULL, limit_key = 'one' WHERE id = 8",
		"UPDATE stepward.worker SET requirements = '{1}', lease_until = now() + interval '1 hour', state = 'live'",
		"INSERT INTO stepward.run_limit (key, concurrency, rate, per_s, tokens) VALUES ('one', 1, 0, 0, 0)",
		"INSERT INTO stepward.ready (requirement_id, run_id) VALUES (1, 8), (1, 9)",
	} {
		if _, err := w.Pool.Exec(t.Context(), in(w.q, sql)); err != nil {
			t.Fatal(err)
		}
	}
	for name, test := range map[string]struct {
		sql          string
		claims, ends bool
	}{
		"live":     {"", true, false},
		"expired":  {"UPDATE stepward.worker SET lease_until = 'epoch'", false, false},
		"draining": {"UPDATE stepward.worker SET state = 'draining'", false, false},
		"dead":     {"UPDATE stepward.worker SET state = 'dead'", false, true},
		"gone":     {"UPDATE stepward.worker SET state = 'gone'", false, true},
		"another":  {"UPDATE stepward.worker SET session = 4712", false, true},
	} {
		t.Run(name, func(t *testing.T) {
			tx, err := w.Pool.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = tx.Rollback(context.Background()) }()
			if _, err := tx.Exec(t.Context(), in(w.q, test.sql)); err != nil {
				t.Fatal(err)
			}
			if n := claims(tx, w.q.ClaimLimited, []string{"one"}); n > 0 != test.claims {
				t.Errorf("ClaimLimited: %d", n)
			}
			if n := claims(tx, w.q.Claim, ""); n > 0 != test.claims {
				t.Errorf("Claim: %d", n)
			}
			for sql, arg := range map[string]any{w.q.WorkerHeartbeat: 10.0, w.q.WorkerState: "draining"} {
				if tag, err := tx.Exec(t.Context(), sql, int64(4711), arg); err != nil || tag.RowsAffected() > 0 == test.ends {
					t.Errorf("%.40s: %v, %v", sql, tag, err)
				}
			}
		})
	}
}
