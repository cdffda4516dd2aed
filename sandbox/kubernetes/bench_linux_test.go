package kubernetes

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stepward/stepward/sandbox"
)

// report gives quantiles of what an iteration took, in milliseconds.
func report(b *testing.B, took []time.Duration) {
	slices.Sort(took)
	for _, q := range []float64{0.5, 0.99} {
		b.ReportMetric(float64(took[int(q*float64(len(took)-1))].Microseconds())/1000, fmt.Sprintf("p%g-ms", 100*q))
	}
}

// BenchmarkStart is from nothing to a sandbox that is connected.
func BenchmarkStart(b *testing.B) {
	backend := newPlace(b, "restricted").backend()
	if _, err := backend.Probe(b.Context()); err != nil {
		b.Fatal(err)
	}
	var took []time.Duration
	for b.Loop() {
		begin := time.Now()
		s, err := sandbox.Start(b.Context(), backend, sandbox.Options{})
		if err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(begin))
		b.StopTimer()
		if err := s.Destroy(b.Context()); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
	report(b, took)
}

// BenchmarkAcquire is what is left to do for a pod that is there already: both
// connections. What a step brings, its environment for one, goes over them.
func BenchmarkAcquire(b *testing.B) {
	p := newPlace(b, "restricted")
	backend := p.backend()
	const id = "acquire"
	if _, err := backend.Create(b.Context(), creation(id)); err != nil {
		b.Fatal(err)
	}
	var took []time.Duration
	for b.Loop() {
		begin := time.Now()
		done := make(chan error, 2)
		for range 2 {
			go func() {
				_, conn, _, err := backend.hello(b.Context(), id, []byte(testToken))
				if err == nil {
					conn.Close()
				}
				done <- err
			}()
		}
		for range 2 {
			if err := <-done; err != nil {
				b.Fatal(err)
			}
		}
		took = append(took, time.Since(begin))
	}
	report(b, took)
}
