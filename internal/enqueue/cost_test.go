package enqueue_test

import (
	"testing"
	"time"

	"github.com/stepward/stepward/identity"
	"github.com/stepward/stepward/internal/enqueue"
)

// An enqueue with secrets beside one without, in turns: ratio is what counts.
func BenchmarkBind(b *testing.B) {
	f := newBinder(b)
	f.put("acme", acme, map[string]identity.Key{"TOKEN": key("t"), "REGION": {Knob: "eu"}})
	f.put("prod", prod, map[string]identity.Key{"TOKEN": key("p")})
	var with, without time.Duration
	for b.Loop() {
		start := time.Now()
		f.add(enqueue.Item{Tenant: "acme", Workflow: "plain"})
		mid := time.Now()
		f.add(enqueue.Item{Tenant: "acme", Workflow: "site"})
		without, with = without+mid.Sub(start), with+time.Since(mid)
	}
	b.ReportMetric(float64(with)/float64(without), "ratio")
}
