package workflow_test

import (
	"errors"
	"fmt"
	"iter"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/stepward/stepward/workflow"
)

// numbers yields n inputs with what options says, and counts what was taken.
func numbers(n int, taken *int, options func(i int) workflow.EnqueueOptions) iter.Seq2[int, workflow.EnqueueOptions] {
	return func(yield func(int, workflow.EnqueueOptions) bool) {
		for i := range n {
			*taken++
			if !yield(i, options(i)) {
				return
			}
		}
	}
}

// A call adds as many runs as it is given, and holds no more than a part of them
// at a time; tickets ring for every hundred.
func TestEnqueueMany(t *testing.T) {
	f := newFixture(t)
	const n = 100_000
	var taken, got int
	ids := make(map[workflow.RunID]bool)
	for run, err := range count.EnqueueMany(t.Context(), f.client, numbers(n, &taken, func(i int) workflow.EnqueueOptions {
		return workflow.EnqueueOptions{Tenant: fmt.Sprint(i % 2)}
	})) {
		if err != nil {
			t.Fatal(err)
		}
		ids[run.ID] = true
		if got++; taken-got >= 1000 {
			t.Fatalf("%d items were taken, and %d dealt with", taken, got)
		}
	}
	if len(ids) != n {
		t.Errorf("%d runs", len(ids))
	}
	f.want("100000 run, 100000 ready, 1000 ticket, 0 key, 100000 event")
}

// What is wrong with an item is reported for it; a key that was used before, in
// the same call or not, finds its run.
func TestEnqueueManyResults(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	f.exec("ALTER TABLE stepward.run ADD CHECK (tenant <> 'refused')")
	before := f.enqueue(1, workflow.EnqueueOptions{Key: "before"})
	type item struct {
		in int
		o  workflow.EnqueueOptions
	}
	items := []item{
		{1, workflow.EnqueueOptions{Key: "a"}},
		{1, workflow.EnqueueOptions{Key: "a"}},
		{2, workflow.EnqueueOptions{Key: "a"}},
		{1, workflow.EnqueueOptions{Key: "before"}},
		{2, workflow.EnqueueOptions{Key: "before"}},
		{3, workflow.EnqueueOptions{Key: strings.Repeat("k", 201)}},
		{4, workflow.EnqueueOptions{Tenant: "refused"}},
		{5, workflow.EnqueueOptions{}},
	}
	all := func(yield func(int, workflow.EnqueueOptions) bool) {
		for _, i := range items {
			if !yield(i.in, i.o) {
				return
			}
		}
	}
	check := func(results iter.Seq2[workflow.Run[int], error], refused bool) {
		t.Helper()
		var runs []workflow.Run[int]
		var errs []error
		for run, err := range results {
			runs, errs = append(runs, run), append(errs, err)
		}
		if len(runs) != len(items) {
			t.Fatalf("%d results for %d items: %v", len(runs), len(items), errs)
		}
		var conflict *workflow.KeyConflictError
		var option *workflow.OptionError
		switch {
		case errs[0] != nil || errs[1] != nil || runs[0].ID != runs[1].ID || !runs[1].Existing:
			t.Errorf("one key twice: %v, %v, %v, %v", runs[0].ID, errs[0], runs[1].ID, errs[1])
		case !errors.As(errs[2], &conflict) || conflict.Run != runs[0].ID:
			t.Errorf("one key for another input: %v", errs[2])
		case errs[3] != nil || runs[3].ID != before.ID || !runs[3].Existing:
			t.Errorf("a key from before: %v, %v", runs[3].ID, errs[3])
		case !errors.As(errs[4], &conflict) || conflict.Run != before.ID:
			t.Errorf("a key from before for another input: %v", errs[4])
		case !errors.As(errs[5], &option):
			t.Errorf("a key that is too long: %v", errs[5])
		case refused == (errs[6] == nil):
			t.Errorf("what Postgres refuses: %v", errs[6])
		case errs[7] != nil || runs[7].Existing:
			t.Errorf("the last: %v", errs[7])
		}
	}
	check(count.EnqueueMany(ctx, f.client, all), true)
	f.want("3 run, 3 ready, 3 ticket, 2 key, 3 event")
	f.exec("DELETE FROM stepward.idempotency WHERE key = 'a'")
	items[6].o.Tenant = "acme"
	if err := pgx.BeginFunc(ctx, f.pool, func(tx pgx.Tx) error {
		check(count.EnqueueManyTx(ctx, f.client, tx, all), false)
		return errors.New("no")
	}); err == nil {
		t.Error("committed")
	}
	f.want("3 run, 3 ready, 3 ticket, 1 key, 3 event")
}

// A loop that ends early, or a Postgres that is gone, ends the call.
func TestEnqueueManyEnds(t *testing.T) {
	f := newFixture(t)
	var taken int
	none := func(int) workflow.EnqueueOptions { return workflow.EnqueueOptions{} }
	for range count.EnqueueMany(t.Context(), f.client, numbers(5000, &taken, none)) {
		break
	}
	f.want("1000 run, 1000 ready, 10 ticket, 0 key, 1000 event")
	pool := f.poolOf(1)
	client := f.newClient(pool)
	pool.Close()
	failed, taken := 0, 0
	for run, err := range count.EnqueueMany(t.Context(), client, numbers(5000, &taken, none)) {
		if err == nil || run.ID != 0 {
			t.Fatalf("got %v, %v", run.ID, err)
		}
		failed++
	}
	if failed != 1000 || taken != 1000 {
		t.Errorf("%d items failed, %d were taken", failed, taken)
	}
}
