package workflow_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stepward/stepward/workflow"
)

// While an application's transaction holds a key, enqueues that name it wait, until
// their context ends, and those of the client that name none do not.
func TestEnqueueBesideHeldKey(t *testing.T) {
	f := newFixture(t)
	f.enqueue(1, workflow.EnqueueOptions{}) // its workflow is known from here on
	tx, err := f.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := count.EnqueueTx(t.Context(), f.client, tx, 1, workflow.EnqueueOptions{Key: "k"}); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) }()
	waiting := func() (n int) {
		if err := f.pool.QueryRow(t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE $1::int = ANY (pg_blocking_pids(pid))",
			int(tx.Conn().PgConn().PID())).Scan(&n); err != nil {
			t.Error(err)
		}
		return n
	}
	var all sync.WaitGroup
	all.Go(func() {
		if _, err := count.Enqueue(t.Context(), f.client, 1, workflow.EnqueueOptions{Key: "k"}); err != nil {
			t.Errorf("with the key, after the other's end: %v", err)
		}
	})
	eventually(t, "the first call with the key waits", func() bool { return waiting() == 1 })
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for range 3 { // one batch, behind it
		all.Go(func() {
			if _, err := count.Enqueue(ctx, f.client, 1, workflow.EnqueueOptions{Key: "k"}); !errors.Is(err, context.Canceled) {
				t.Errorf("a call that was canceled: %v", err)
			}
		})
	}
	patient, done := context.WithTimeout(t.Context(), 20*time.Second) // less than what bounds a batch
	defer done()
	for range 20 {
		all.Go(func() {
			if _, err := count.Enqueue(patient, f.client, 1, workflow.EnqueueOptions{}); err != nil {
				t.Errorf("without a key: %v", err)
			}
			cancel()
		})
	}
	<-ctx.Done()
	if err := tx.Rollback(t.Context()); err != nil {
		t.Error(err)
	}
	all.Wait()
}

// A run that is enqueued in a transaction of the application is part of it.
func TestEnqueueTx(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	tx, err := f.pool.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	run, err := count.EnqueueTx(ctx, f.client, tx, 1, workflow.EnqueueOptions{Key: "k"})
	if err != nil {
		t.Fatal(err)
	}
	f.want("0 run, 0 ready, 0 ticket, 0 key, 0 event")
	if err := tx.Rollback(ctx); err != nil {
		t.Fatal(err)
	}
	f.want("0 run, 0 ready, 0 ticket, 0 key, 0 event")
	if _, err := f.client.Get(ctx, run.ID); !errors.Is(err, workflow.ErrNotFound) {
		t.Errorf("after a rollback: got %v", err)
	}
	err = pgx.BeginFunc(ctx, f.pool, func(tx pgx.Tx) error {
		run, err = count.EnqueueTx(ctx, f.client, tx, 1, workflow.EnqueueOptions{Key: "k"})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	f.want("1 run, 1 ready, 1 ticket, 1 key, 1 event")
	if s, err := f.client.Get(ctx, run.ID); err != nil || s.State != workflow.StateReady {
		t.Errorf("got %+v, %v", s, err)
	}
}

type cycle struct{ Next *cycle }

type explosive struct{ N int }

func (explosive) MarshalJSON() ([]byte, error) { panic("boom") }

// refusals enqueues what cannot be enqueued. Each is checked for its type and
// for the name of the culprit.
func refusals(ctx context.Context, c *workflow.Client, tx pgx.Tx) []error {
	var errs []error
	loop := &cycle{}
	loop.Next = loop
	var (
		value    *workflow.ValueError
		option   *workflow.OptionError
		name     *workflow.DefinitionError
		conflict *workflow.KeyConflictError
	)
	check := func(err error, target any, culprit string) {
		if err == nil || !errors.As(err, target) || !strings.Contains(err.Error(), culprit) {
			errs = append(errs, fmt.Errorf("want a %T that names %q, got %w", target, culprit, err))
		}
	}
	check(enqueueAny(ctx, c, tx, "w1", make(chan int), workflow.EnqueueOptions{}), &value, "encode input of workflow w1: json: unsupported type: chan int")
	check(enqueueAny(ctx, c, tx, "w2", func() {}, workflow.EnqueueOptions{}), &value, "encode input of workflow w2: json: unsupported type: func()")
	check(enqueueAny(ctx, c, tx, "w3", math.NaN(), workflow.EnqueueOptions{}), &value, "encode input of workflow w3: json: unsupported value: NaN")
	check(enqueueAny(ctx, c, tx, "w4", loop, workflow.EnqueueOptions{}), &value, "encode input of workflow w4: json: unsupported value: encountered a cycle")
	check(enqueueAny(ctx, c, tx, "w5", explosive{}, workflow.EnqueueOptions{}), &value, "encode input of workflow w5: panic: boom")
	check(enqueueAny(ctx, c, tx, "w6", strings.Repeat("x", 1<<20), workflow.EnqueueOptions{}), &value, "input of workflow w6 is 1048578 bytes, the limit is")
	check(enqueueAny(ctx, c, tx, "w7", 1, workflow.EnqueueOptions{Tenant: "a\x00b"}), &option, "EnqueueOptions.Tenant")
	check(enqueueAny(ctx, c, tx, "w7", 1, workflow.EnqueueOptions{Tenant: "\xff"}), &option, "EnqueueOptions.Tenant")
	check(enqueueAny(ctx, c, tx, "w7", 1, workflow.EnqueueOptions{Key: "a\x00b"}), &option, "EnqueueOptions.Key")
	check(enqueueAny(ctx, c, tx, "w7", 1, workflow.EnqueueOptions{Key: strings.Repeat("k", 201)}), &option, "EnqueueOptions.Key")
	check(enqueueAny(ctx, c, tx, "w7", 1, workflow.EnqueueOptions{Priority: 1001}), &option, "EnqueueOptions.Priority")
	for _, l := range []workflow.Limit{
		{Concurrency: 1}, {Key: "k"}, {Key: "k", Concurrency: -1}, {Key: "k", Rate: -1}, {Key: "k", Rate: 1_000_001},
		{Key: "k", Rate: 1, Per: -1}, {Key: "a\x00b", Rate: 1}, {Key: "a\x01b", Rate: 1}, {Key: strings.Repeat("k", 201), Rate: 1},
	} {
		check(enqueueAny(ctx, c, tx, "w7", 1, workflow.EnqueueOptions{Limit: l}), &option, "EnqueueOptions.Limit.")
	}
	check(enqueueAny(ctx, c, tx, "", 1, workflow.EnqueueOptions{}), &name, "bad name")
	check(enqueueAny(ctx, c, tx, "a\x00b", 1, workflow.EnqueueOptions{}), &name, "bad name")
	check(enqueueAny(ctx, c, tx, "agentic", 1, workflow.EnqueueOptions{}), &name, `"agentic": mode agent `)
	check(enqueueAny(ctx, c, tx, "taken", 2, workflow.EnqueueOptions{Tenant: "acme", Key: "taken"}), &conflict, `key "taken" of tenant "acme"`)
	check(enqueueAny(ctx, c, tx, "other", 1, workflow.EnqueueOptions{Tenant: "acme", Key: "taken"}), &conflict, `key "taken" of tenant "acme"`)
	return errs
}

// enqueueAny enqueues in tx, or without one.
func enqueueAny[In any](ctx context.Context, c *workflow.Client, tx pgx.Tx, name string, in In, o workflow.EnqueueOptions) error {
	w := workflow.DurableWorkflow[In, int]{Name: name}
	var err error
	if tx == nil {
		_, err = w.Enqueue(ctx, c, in, o)
	} else {
		_, err = w.EnqueueTx(ctx, c, tx, in, o)
	}
	return err
}

// prepare makes what refusals runs into: a key that is taken, and a workflow
// with a mode that nothing can execute.
func (f *fixture) prepare() {
	f.t.Helper()
	if err := enqueueAny(f.t.Context(), f.client, nil, "taken", 1, workflow.EnqueueOptions{Tenant: "acme", Key: "taken"}); err != nil {
		f.t.Fatal(err)
	}
	f.exec(`WITH r AS (INSERT INTO stepward.requirement (hash, workflow, version, modes) VALUES ('x', 'agentic', '1', '{bare,agent}') RETURNING id)
		INSERT INTO stepward.definition (workflow, version, requirement_id, steps) SELECT 'agentic', '1', id, '[]' FROM r`)
}

// What is refused leaves nothing behind, and a transaction of the application
// as it was.
func TestEnqueueRefuses(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	f.prepare()
	for _, err := range refusals(ctx, f.client, nil) {
		t.Error(err)
	}
	f.want("1 run, 1 ready, 1 ticket, 1 key, 1 event")
	err := pgx.BeginFunc(ctx, f.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, f.sql("CREATE TABLE stepward.own ()")); err != nil {
			return err
		}
		for _, err := range refusals(ctx, f.client, tx) {
			t.Error(err)
		}
		_, err := count.EnqueueTx(ctx, f.client, tx, 1, workflow.EnqueueOptions{})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	f.exec("SELECT FROM stepward.own")
	f.want("2 run, 2 ready, 2 ticket, 1 key, 2 event")
}

// What Postgres keeps as text cannot hold a NUL; an input can, as it is kept as
// bytes.
func TestEnqueueNUL(t *testing.T) {
	f := newFixture(t)
	if err := enqueueAny(t.Context(), f.client, nil, "w", "a\x00b", workflow.EnqueueOptions{}); err != nil {
		t.Fatal(err)
	}
	var input []byte
	if err := f.pool.QueryRow(t.Context(), f.sql("SELECT input FROM stepward.run")).Scan(&input); err != nil || string(input) != `"a\u0000b"` {
		t.Errorf("got %s, %v", input, err)
	}
}

// Bad calls in a batch do not fail the good ones.
func TestEnqueueBadInBatch(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	f.prepare()
	// What only Postgres refuses, and so fails the batch as a whole.
	f.exec("ALTER TABLE stepward.run ADD CHECK (tenant <> 'refused')")
	// One connection, which is taken: all calls but one queue for the next batch.
	pool := f.poolOf(1)
	client := f.newClient(pool)
	held, err := pool.Acquire(ctx)
	if err != nil {
		t.Fatal(err)
	}
	good, bad := make(chan error, 100), make(chan error, 100)
	var started sync.WaitGroup
	for i := range 10 {
		started.Add(1)
		go func() {
			started.Done()
			good <- enqueueAny(ctx, client, nil, "good", i, workflow.EnqueueOptions{Tenant: "acme"})
		}()
		for _, call := range []func() error{
			func() error {
				err := enqueueAny(ctx, client, nil, "taken", 2, workflow.EnqueueOptions{Tenant: "acme", Key: "taken"})
				if conflict := (*workflow.KeyConflictError)(nil); !errors.As(err, &conflict) {
					return fmt.Errorf("a taken key: got %w", err)
				}
				return nil
			},
			func() error {
				err := enqueueAny(ctx, client, nil, "agentic", 2, workflow.EnqueueOptions{})
				if mode := (*workflow.DefinitionError)(nil); !errors.As(err, &mode) || !strings.Contains(mode.Reason, "mode agent ") {
					return fmt.Errorf("a mode: got %w", err)
				}
				return nil
			},
			func() error {
				err := enqueueAny(ctx, client, nil, "good", i, workflow.EnqueueOptions{Tenant: "refused"})
				if err == nil || !strings.Contains(err.Error(), "23514") {
					return fmt.Errorf("a row that Postgres refuses: got %w", err)
				}
				return nil
			},
		} {
			started.Add(1)
			go func() { started.Done(); bad <- call() }()
		}
	}
	started.Wait()
	held.Release()
	for range 10 {
		if err := <-good; err != nil {
			t.Errorf("a good call: %v", err)
		}
	}
	for range 30 {
		if err := <-bad; err != nil {
			t.Error(err)
		}
	}
	if runs := f.runs(workflow.RunFilter{Workflow: "good"}); len(runs) != 10 {
		t.Errorf("%d runs", len(runs))
	}
}

// A key makes one run of many calls, however they arrive.
func TestEnqueueKey(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	clients := []*workflow.Client{f.client, f.newClient(f.pool), f.newClient(f.pool)}
	ids := make(chan workflow.RunID, 50)
	for i := range 50 {
		go func() {
			run, err := count.Enqueue(ctx, clients[i%len(clients)], 1, workflow.EnqueueOptions{Tenant: "acme", Key: "k"})
			if err != nil {
				t.Error(err)
			}
			ids <- run.ID
		}()
	}
	first := <-ids
	for range 49 {
		if id := <-ids; id != first {
			t.Errorf("got runs %v and %v", first, id)
		}
	}
	f.want("1 run, 1 ready, 1 ticket, 1 key, 1 event")
	if run := f.enqueue(1, workflow.EnqueueOptions{Tenant: "other", Key: "k"}); run.ID == first {
		t.Error("two tenants share a key")
	}
	if a, b := f.enqueue(1, workflow.EnqueueOptions{}), f.enqueue(1, workflow.EnqueueOptions{}); a.ID == b.ID {
		t.Error("two calls without a key share a run")
	}
	_, err := count.Enqueue(ctx, f.client, 2, workflow.EnqueueOptions{Tenant: "acme", Key: "k"})
	if conflict := (*workflow.KeyConflictError)(nil); !errors.As(err, &conflict) || conflict.Run != first || conflict.Key != "k" || conflict.Tenant != "acme" {
		t.Errorf("got %v", err)
	}
}

// An enqueue that Postgres ends in favour of another transaction is repeated.
func TestEnqueueConflict(t *testing.T) {
	for _, code := range []string{"40P01", "40001"} {
		f := newFixture(t)
		f.exec(`CREATE SEQUENCE stepward.tries;
			CREATE FUNCTION stepward.give_way() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
				IF nextval('stepward.tries') < 3 THEN RAISE 'give way' USING ERRCODE = '` + code + `'; END IF; RETURN NEW;
			END $$;
			CREATE TRIGGER give_way BEFORE INSERT ON stepward.run FOR EACH ROW EXECUTE FUNCTION stepward.give_way()`)
		f.enqueue(1, workflow.EnqueueOptions{Key: "k"})
		f.want("1 run, 1 ready, 1 ticket, 1 key, 1 event")
	}
}

// Of calls with one key and two inputs that race, in batches and in transactions
// of the application, one input wins, and the other gets the typed error.
func TestEnqueueKeyRace(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	type result struct {
		in  int
		run workflow.Run[int]
		err error
	}
	const calls = 24
	results := make(chan result, calls)
	for i := range calls {
		r := result{in: i % 2}
		o := workflow.EnqueueOptions{Key: "k"}
		go func() {
			if i%3 == 0 {
				err := pgx.BeginFunc(ctx, f.pool, func(tx pgx.Tx) error {
					r.run, r.err = count.EnqueueTx(ctx, f.client, tx, r.in, o)
					_, err := tx.Exec(ctx, "SELECT") // it goes on
					return err
				})
				if err != nil {
					t.Error(err)
				}
			} else {
				r.run, r.err = count.Enqueue(ctx, f.client, r.in, o)
			}
			results <- r
		}()
	}
	won := make(map[int]workflow.RunID)
	var lost []result
	added := 0
	for range calls {
		r := <-results
		if r.err != nil {
			lost = append(lost, r)
			continue
		}
		won[r.in] = r.run.ID
		if !r.run.Existing {
			added++
		}
	}
	if len(won) != 1 || len(lost) != calls/2 || added != 1 {
		t.Fatalf("won: %v; %d lost; %d added one", won, len(lost), added)
	}
	for _, r := range lost {
		var conflict *workflow.KeyConflictError
		if !errors.As(r.err, &conflict) || conflict.Run != won[1-r.in] {
			t.Errorf("got %v, want a conflict with %v", r.err, won)
		}
	}
	f.want("1 run, 1 ready, 1 ticket, 1 key, 1 event")
}

// A large value is written by the transaction that it is sent in: with that, it comes
// and goes, and the pool has to have no other connection.
func TestLargeValuesInTx(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	pool := f.poolOf(1)
	client, err := workflow.NewClient(workflow.ClientConfig{Pool: pool, Schema: f.schema})
	if err != nil {
		t.Fatal(err)
	}
	large := strings.Repeat("x", 100<<10)
	w, mail := workflow.DurableWorkflow[string, string]{Name: "large"}, workflow.NewSignal[string]("mail")
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	blobs := func() (n int) {
		t.Helper()
		if err := f.pool.QueryRow(ctx, "SELECT count(*) FROM "+f.schema+".blob").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	for _, commit := range []bool{false, true} {
		tx, err := pool.Begin(ctx)
		if err != nil {
			t.Fatal(err)
		}
		run, err := w.EnqueueTx(ctx, client, tx, large, workflow.EnqueueOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if err := mail.SendTx(ctx, client, tx, run.ID, large); err != nil {
			t.Fatal(err)
		}
		for _, err := range w.EnqueueManyTx(ctx, client, tx, maps.All(map[string]workflow.EnqueueOptions{large: {}})) {
			if err != nil {
				t.Fatal(err)
			}
		}
		if n := blobs(); n != 0 {
			t.Errorf("%d blobs are there before the commit", n)
		}
		if !commit {
			err = tx.Rollback(ctx)
		} else {
			err = tx.Commit(ctx)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if n := blobs(); n != 3 {
		t.Errorf("%d blobs", n)
	}
}
