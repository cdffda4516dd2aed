package workflow_test

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stepward/stepward/internal/db"
	"github.com/stepward/stepward/workflow"
)

// Runs are found by what their attributes are, and only by that, together with
// the rest of a filter.
func TestAttributes(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	noon := time.Date(2026, 3, 29, 12, 0, 0, 123456789, time.FixedZone("", 7200))
	runs := []map[string]any{
		{"customer": "acme", "size": 10, "rate": 0.5, "paid": true, "due": noon},
		{"customer": "acme-west", "size": int8(-3), "rate": float32(-2), "paid": false, "due": noon.Add(time.Nanosecond)},
		{"customer": "Ärger", "size": uint16(700), "rate": math.Inf(1), "paid": true, "due": time.Unix(0, 0)},
		{"customer": "", "size": int64(math.MinInt64), "rate": 0},
		nil,
	}
	var ids []workflow.RunID
	for i, attributes := range runs {
		ids = append(ids, f.enqueue(i, workflow.EnqueueOptions{Tenant: fmt.Sprint(i % 2), Attributes: attributes}).ID)
	}
	s, err := f.client.Get(ctx, ids[0])
	want := map[string]any{"customer": "acme", "size": int64(10), "rate": 0.5, "paid": true, "due": noon.UTC()}
	if err != nil || !reflect.DeepEqual(s.Attributes, want) {
		t.Errorf("got %v, %v", s.Attributes, err)
	}
	is := func(name string, v any) workflow.AttributeFilter {
		return workflow.AttributeFilter{Name: name, Equal: v}
	}
	within := func(name string, from, to any) workflow.AttributeFilter {
		return workflow.AttributeFilter{Name: name, From: from, To: to}
	}
	one := "1"
	for _, c := range []struct {
		filter workflow.RunFilter
		want   []int
	}{
		{workflow.RunFilter{Attributes: []workflow.AttributeFilter{is("customer", "acme")}}, []int{0}},
		{workflow.RunFilter{Attributes: []workflow.AttributeFilter{is("customer", "")}}, []int{3}},
		{workflow.RunFilter{Attributes: []workflow.AttributeFilter{is("customer", "acm")}}, nil},
		{workflow.RunFilter{Attributes: []workflow.AttributeFilter{{Name: "customer", Prefix: "acm"}}}, []int{0, 1}},
		{workflow.RunFilter{Attributes: []workflow.AttributeFilter{{Name: "customer", Prefix: "Ä"}}}, []int{2}},
		{workflow.RunFilter{Attributes: []workflow.AttributeFilter{{Name: "customer"}}}, []int{0, 1, 2, 3}},
		{workflow.RunFilter{Attributes: []workflow.AttributeFilter{{Name: "due"}}}, []int{0, 1, 2}},
		{workflow.RunFilter{Attributes: []workflow.AttributeFilter{is("size", 10)}}, []int{0}},
		{workflow.RunFilter{Attributes: []workflow.AttributeFilter{is("size", 10.0)}}, nil}, // another type
		{workflow.RunFilter{Attributes: []workflow.AttributeFilter{within("size", -3, 700)}}, []int{0, 1}},
		{workflow.RunFilter{Attributes: []workflow.AttributeFilter{within("size", nil, 10)}}, []int{1, 3}},
		{workflow.RunFilter{Attributes: []workflow.AttributeFilter{within("size", 10, nil)}}, []int{0, 2}},
		{workflow.RunFilter{Attributes: []workflow.AttributeFilter{within("rate", -3.0, 1.0)}}, []int{0, 1}},
		{workflow.RunFilter{Attributes: []workflow.AttributeFilter{within("rate", 0.5, nil)}}, []int{0, 2}},
		{workflow.RunFilter{Attributes: []workflow.AttributeFilter{within("due", noon, noon.Add(time.Nanosecond))}}, []int{0}},
		{workflow.RunFilter{Attributes: []workflow.AttributeFilter{within("customer", "acme-", "b")}}, []int{1}},
		{workflow.RunFilter{Attributes: []workflow.AttributeFilter{within("size", 0, nil), is("paid", true)}}, []int{0, 2}},
		{workflow.RunFilter{Attributes: []workflow.AttributeFilter{is("paid", true), within("size", 0, nil), is("customer", "Ärger")}}, []int{2}},
		{workflow.RunFilter{Attributes: []workflow.AttributeFilter{is("paid", true), is("paid", false)}}, nil},
		{workflow.RunFilter{Attributes: []workflow.AttributeFilter{{Name: "customer"}}, Tenant: &one}, []int{1, 3}},
		{workflow.RunFilter{Attributes: []workflow.AttributeFilter{{Name: "customer"}}, State: workflow.StateCompleted}, nil},
		{workflow.RunFilter{Attributes: []workflow.AttributeFilter{{Name: "customer"}}, Before: ids[1]}, []int{0}},
	} {
		var got []int
		for _, r := range f.runs(c.filter) {
			got = append(got, slices.Index(ids, r.ID))
		}
		slices.Sort(got)
		if !slices.Equal(got, c.want) {
			t.Errorf("%+v: got %v; want %v", c.filter, got, c.want)
		}
	}
}

// Pages by attribute, with a filter that drops most of what is looked up,
// neither repeat nor leave out a run.
func TestAttributePages(t *testing.T) {
	f := newFixture(t)
	other := "other"
	var want []workflow.RunID
	for i := range 60 {
		o := workflow.EnqueueOptions{Attributes: map[string]any{"n": i % 3}}
		if i%5 == 0 {
			o.Tenant = other
		}
		if id := f.enqueue(i, o).ID; i%5 == 0 && i%3 == 0 {
			want = append([]workflow.RunID{id}, want...)
		}
	}
	for _, by := range []workflow.AttributeFilter{{Name: "n", Equal: 0}, {Name: "n", To: 1}} {
		var got []workflow.RunID
		filter := workflow.RunFilter{Tenant: &other, Attributes: []workflow.AttributeFilter{by}, Limit: 2}
		for len(got)%2 == 0 {
			runs := f.runs(filter)
			for _, r := range runs {
				got = append(got, r.ID)
			}
			if len(runs) == 0 {
				break
			}
			filter.Before = got[len(got)-1]
		}
		if !slices.Equal(got, want) {
			t.Errorf("%+v: got %v, want %v", by, got, want)
		}
	}
}

// Of 100,000 runs, a page by an equal value reads about what it returns, and a
// narrow range what it matches; the other filters are looked up by key.
func TestAttributesUseTheIndex(t *testing.T) {
	f := newFixture(t)
	q, err := db.New(f.schema)
	if err != nil {
		t.Fatal(err)
	}
	f.exec(`INSERT INTO stepward.attribute (run_id, name, value)
		SELECT i, 'n', 'i'::bytea || int8send((i % 10) # x'8000000000000000'::bit(64)::bigint) FROM generate_series(1, 100000) i
		UNION ALL SELECT i, 'one', 'i'::bytea || int8send(i # x'8000000000000000'::bit(64)::bigint) FROM generate_series(1, 100000) i`)
	f.exec("ANALYZE stepward.attribute")
	value := func(n byte) []byte { return []byte{'i', 0x80, 0, 0, 0, 0, 0, 0, n} }
	for _, c := range []struct {
		what, sql string
		args      []any
		rows      int
		pages     int64
	}{
		{"equal", q.AttributeEqual, []any{"n", value(3), int64(50_000), 100, []string{}, [][]byte{}, [][]byte{}}, 100, 30},
		{"equal and another", q.AttributeEqual, []any{"n", value(3), int64(50_000), 100,
			[]string{"one"}, [][]byte{value(0)}, [][]byte{{'j'}}}, 100, 700},
		{"range", q.AttributeRange, []any{"one", value(1), int64(math.MaxInt64), 1000, []string{}, [][]byte{}, [][]byte{}, value(101)}, 100, 30},
	} {
		var plan []struct {
			Plan struct {
				Rows int   `json:"Actual Rows"`
				Hit  int64 `json:"Shared Hit Blocks"`
				Read int64 `json:"Shared Read Blocks"`
			}
		}
		err := f.pool.QueryRow(t.Context(), "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) "+c.sql, c.args...).Scan(&plan)
		if err != nil {
			t.Fatal(err)
		}
		if p := plan[0].Plan; p.Rows != c.rows || p.Hit+p.Read > c.pages {
			t.Errorf("%s: %d rows from %d pages, more than %d", c.what, p.Rows, p.Hit+p.Read, c.pages)
		}
	}
}

// What cannot be an attribute, or a filter, is refused with its name, and the
// run is not added.
func TestAttributesRefused(t *testing.T) {
	f := newFixture(t)
	before := f.traces()
	many := make(map[string]any)
	for i := range 17 {
		many[fmt.Sprint(i)] = i
	}
	for what, attributes := range map[string]map[string]any{
		`["a\x00"]`:                    {"a\x00": 1},
		`["` + strings.Repeat("n", 38): {strings.Repeat("n", 10_000): 1},
		`["nil"]`:                      {"nil": nil},
		`["nul"]`:                      {"nul": "a\x00b"},
		`["utf8"]`:                     {"utf8": "\xff"},
		`["long"]`:                     {"long": strings.Repeat("x", 201)},
		`["nan"]`:                      {"nan": math.NaN()},
		`["big"]`:                      {"big": uint64(math.MaxUint64)},
		`["old"]`:                      {"old": time.Date(1066, 10, 14, 0, 0, 0, 0, time.UTC)},
		`["bytes"]`:                    {"bytes": []byte("x")},
		`17 of them`:                   many,
	} {
		_, err := count.Enqueue(t.Context(), f.client, 1, workflow.EnqueueOptions{Attributes: attributes})
		var option *workflow.OptionError
		if !errors.As(err, &option) || !strings.HasPrefix(option.Option, "EnqueueOptions.Attributes") || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: got %v", what, err)
		}
	}
	f.want(before)
	for i, bad := range []workflow.AttributeFilter{
		{}, {Name: "a\x00"}, {Name: "a", Equal: 1, From: 1}, {Name: "a", Equal: "x", Prefix: "x"}, {Name: "a", From: "x", Prefix: "x"},
		{Name: "a", From: 1, To: 1.5}, {Name: "a", Equal: math.NaN()}, {Name: "a", Prefix: "\x00"}, {Name: "a", To: struct{}{}},
	} {
		for s, err := range f.client.Runs(t.Context(), workflow.RunFilter{Attributes: []workflow.AttributeFilter{bad}}) {
			var option *workflow.OptionError
			if !errors.As(err, &option) || !strings.Contains(option.Option, "RunFilter.Attributes[0]") {
				t.Errorf("filter %d: got %v, %v", i, s.ID, err)
			}
		}
	}
}

// A key finds the earlier run, with the attributes that it has; in a batch each
// run gets its own.
func TestAttributesAndKeys(t *testing.T) {
	f := newFixture(t)
	first := f.enqueue(1, workflow.EnqueueOptions{Key: "k", Attributes: map[string]any{"a": 1}})
	again := f.enqueue(1, workflow.EnqueueOptions{Key: "k", Attributes: map[string]any{"a": 2, "b": 2}})
	s, err := f.client.Get(t.Context(), first.ID)
	if err != nil || again.ID != first.ID || !reflect.DeepEqual(s.Attributes, map[string]any{"a": int64(1)}) {
		t.Errorf("got %+v, %v", s, err)
	}
	const n = 50
	errs := make(chan error, n)
	for i := range n {
		go func() {
			_, err := count.Enqueue(t.Context(), f.client, i, workflow.EnqueueOptions{Tenant: fmt.Sprint(i), Attributes: map[string]any{"i": i}})
			errs <- err
		}()
	}
	for range n {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	for i := range n {
		runs := f.runs(workflow.RunFilter{Attributes: []workflow.AttributeFilter{{Name: "i", Equal: i}}})
		if len(runs) != 1 || runs[0].Tenant != fmt.Sprint(i) {
			t.Errorf("%d: got %+v", i, runs)
		}
	}
}
