package measure

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"
)

func TestParallel(t *testing.T) {
	var n atomic.Int64
	if err := Parallel(t.Context(), 3, 10, func(context.Context) error { n.Add(1); return nil }); err != nil || n.Load() != 10 {
		t.Errorf("%d calls, %v", n.Load(), err)
	}
	broken := errors.New("broken")
	if err := Parallel(t.Context(), 3, 10, func(context.Context) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
}

func TestQuantile(t *testing.T) {
	all := []time.Duration{3 * time.Millisecond, time.Millisecond, 2 * time.Millisecond}
	for q, want := range map[float64]float64{0: 1, 0.5: 2, 0.99: 3, 1: 3} {
		if got := Quantile(all, q); got != want {
			t.Errorf("quantile %v is %v ms, want %v", q, got, want)
		}
	}
}
