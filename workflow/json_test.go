package workflow_test

import (
	"context"
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/stepward/stepward/workflow"
	"github.com/stepward/stepward/workflow/workflowtest"
)

type hidden struct {
	Shown  int
	secret int
}

type tagged struct {
	Kept    int `json:"k"`
	Dropped int `json:"-"`
}

// carry sends a value through a workflow and a step, as input and as output, and
// returns what arrives.
func carry[T any](t *testing.T, v T) (T, error) {
	t.Helper()
	w := workflow.DurableWorkflow[T, T]{Name: "carry"}
	pass := workflow.NewStep("pass", func(_ context.Context, v T) (T, error) { return v, nil }, workflow.StepOptions{})
	return workflowtest.Run(w, workflow.Define(w, func(ctx workflow.Context, v T) (T, error) { return pass.Run(ctx, v) },
		workflow.Options{Steps: []workflow.Declared{pass}}), v)
}

func arrives[T any](t *testing.T, sent, want T) {
	t.Helper()
	got, err := carry(t, sent)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("sent %#v: got %#v, %v; want %#v", sent, got, err, want)
	}
}

// What the package documentation says of values.
func TestJSONRules(t *testing.T) {
	t.Run("integers keep every digit in a Go integer", func(t *testing.T) {
		arrives[int64](t, math.MaxInt64, math.MaxInt64)
		arrives[int64](t, math.MinInt64, math.MinInt64)
		arrives[uint64](t, math.MaxUint64, math.MaxUint64)
		arrives(t, map[string]int64{"a": 1<<53 + 1}, map[string]int64{"a": 1<<53 + 1})
	})
	t.Run("and lose some in an any", func(t *testing.T) {
		arrives[any](t, int64(1<<53+1), float64(1<<53))
	})
	t.Run("floats keep every bit", func(t *testing.T) {
		arrives(t, math.Pi, math.Pi)
		arrives(t, math.SmallestNonzeroFloat64, math.SmallestNonzeroFloat64)
	})
	t.Run("a time keeps its nanoseconds and offset, not its monotonic clock nor its zone's name", func(t *testing.T) {
		now := time.Now()
		got, err := carry(t, now)
		if err != nil || !got.Equal(now) || strings.Contains(got.String(), "m=") {
			t.Errorf("got %v, %v", got, err)
		}
		berlin := time.FixedZone("CET", 3600)
		got, err = carry(t, time.Date(2026, 1, 2, 3, 4, 5, 123456789, berlin))
		name, offset := got.Zone()
		if err != nil || got.Nanosecond() != 123456789 || offset != 3600 || name == "CET" {
			t.Errorf("got %v, %v", got, err)
		}
		arrives(t, time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC), time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC))
		arrives(t, 90*time.Second, 90*time.Second)
	})
	t.Run("unexported fields and those tagged - are lost", func(t *testing.T) {
		arrives(t, hidden{Shown: 1, secret: 2}, hidden{Shown: 1})
		arrives(t, tagged{Kept: 1, Dropped: 2}, tagged{Kept: 1})
	})
	t.Run("nil and empty are told apart", func(t *testing.T) {
		arrives[[]int](t, nil, nil)
		arrives(t, []int{}, []int{})
		arrives[map[string]int](t, nil, nil)
		arrives[*int](t, nil, nil)
	})
	t.Run("bytes arrive as they are, invalid UTF-8 in a string does not", func(t *testing.T) {
		arrives(t, []byte{0, 0xff}, []byte{0, 0xff})
		arrives(t, "a\x00b", "a\x00b")
		arrives(t, "a\xffb", "a\uFFFDb")
	})
	t.Run("the keys of a map are text or integers", func(t *testing.T) {
		arrives(t, map[int64]string{-1: "a"}, map[int64]string{-1: "a"})
		arrives(t, map[workflow.RunID]int{7: 1}, map[workflow.RunID]int{7: 1})
	})
	t.Run("an interface does not arrive as the type that it held", func(t *testing.T) {
		arrives[any](t, hidden{Shown: 1}, map[string]any{"Shown": 1.0})
	})
	t.Run("NaN and infinities are refused", func(t *testing.T) {
		for _, v := range []float64{math.NaN(), math.Inf(1)} {
			_, err := carry(t, v)
			if bad := (*workflow.ValueError)(nil); !errors.As(err, &bad) || bad.Kind != "encode" || bad.What != "input of workflow carry" {
				t.Errorf("%v: got %v", v, err)
			}
		}
	})
	t.Run("types that nothing of would arrive are refused when a worker starts", func(t *testing.T) {
		refuses(t, make(chan int))
		refuses(t, func() {})
		refuses(t, complex(1, 1))
		refuses(t, map[float64]int{})
		refuses(t, map[struct{ A int }]int{})
		refuses(t, struct{ secret int }{1})
		refuses(t, struct {
			A []struct{ B map[string]chan int }
		}{})
	})
}

func refuses[T any](t *testing.T, v T) {
	t.Helper()
	_, err := carry(t, v)
	if bad := (*workflow.DefinitionError)(nil); !errors.As(err, &bad) {
		t.Errorf("%T: got %v", v, err)
	}
}
