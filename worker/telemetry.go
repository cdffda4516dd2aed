package worker

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/stepward/stepward/internal/engine"
	"github.com/stepward/stepward/internal/tick"
	"github.com/stepward/stepward/workflow"
)

const scope = "github.com/stepward/stepward"

// telemetry holds the worker's instruments. Attributes are few and bounded: no
// run, no tenant.
type telemetry struct {
	tracer       trace.Tracer
	claimLatency metric.Float64Histogram
	leaseSlack   metric.Float64Histogram
	attempts     metric.Float64Histogram
	batchSize    metric.Int64Histogram
	turns        metric.Int64Counter
	recovered    metric.Int64Counter
	deleted      metric.Int64Counter
	ticks        metric.Int64Counter
	lateness     metric.Float64Histogram
	claimable    atomic.Pointer[[]int32] // requirements of what this worker claims, once it knows
	gauges       metric.Registration
}

func newTelemetry(cfg Config, w *worker) (*telemetry, error) {
	m := cfg.MeterProvider.Meter(scope)
	t := &telemetry{tracer: cfg.TracerProvider.Tracer(scope)}
	var errs [16]error
	t.claimLatency, errs[0] = m.Float64Histogram("stepward.claim.latency", metric.WithUnit("s"), metric.WithDescription("time that a run was ready before it was claimed"))
	t.leaseSlack, errs[1] = m.Float64Histogram("stepward.lease.slack", metric.WithUnit("s"), metric.WithDescription("what was left of the lease when it was renewed"))
	t.attempts, errs[2] = m.Float64Histogram("stepward.attempt.duration", metric.WithUnit("s"))
	t.batchSize, errs[3] = m.Int64Histogram("stepward.commit.batch_size", metric.WithUnit("{write}"), metric.WithDescription("writes that shared a commit"))
	t.turns, errs[4] = m.Int64Counter("stepward.turns", metric.WithDescription("turns that ended, by how"))
	t.recovered, errs[5] = m.Int64Counter("stepward.runs.recovered", metric.WithDescription("runs freed from dead workers"))
	t.deleted, errs[11] = m.Int64Counter("stepward.runs.deleted", metric.WithUnit("{run}"), metric.WithDescription("runs that Retention deleted"))
	t.ticks, errs[12] = m.Int64Counter("stepward.schedule.ticks", metric.WithUnit("{tick}"), metric.WithDescription("ticks of schedules, by what became of them: enqueued, overlap, too_late"))
	t.lateness, errs[13] = m.Float64Histogram("stepward.schedule.lateness", metric.WithUnit("s"), metric.WithDescription("time from when a tick was due, jitter included, to its run"))
	backlog, err := m.Int64ObservableGauge("stepward.ready.backlog", metric.WithUnit("{run}"), metric.WithDescription("ready runs that this worker could claim, counted up to 10,000"))
	errs[6] = err
	oldest, err := m.Float64ObservableGauge("stepward.ready.oldest", metric.WithUnit("s"))
	errs[7] = err
	held, err := m.Int64ObservableGauge("stepward.runs.held", metric.WithUnit("{run}"))
	errs[8] = err
	stuck, err := m.Int64ObservableGauge("stepward.steps.stuck", metric.WithDescription("functions that ignore their context"))
	errs[9] = err
	blocked, err := m.Int64ObservableGauge("stepward.bodies.blocked", metric.WithDescription("bodies that wait for what is not durable"))
	errs[14] = err
	revoked, err := m.Int64ObservableGauge("stepward.worker.revoked", metric.WithDescription("1: the worker is revoked, and leaves runs that need secrets to others"))
	errs[15] = err
	t.gauges, errs[10] = m.RegisterCallback(func(ctx context.Context, o metric.Observer) error {
		o.ObserveInt64(held, int64(w.held()))
		o.ObserveInt64(stuck, w.stuck.Load())
		o.ObserveInt64(blocked, w.blocked.Load())
		o.ObserveInt64(revoked, map[bool]int64{true: 1}[w.isRevoked()])
		var n int64
		var age float64
		ids := t.claimable.Load()
		if ids == nil {
			return nil // the worker is about to start
		}
		if err := w.Pool.QueryRow(ctx, w.q.Backlog, *ids).Scan(&n, &age); err != nil {
			return err
		}
		o.ObserveInt64(backlog, n)
		o.ObserveFloat64(oldest, age)
		return nil
	}, backlog, oldest, held, stuck, blocked, revoked)
	if err := errors.Join(errs[:]...); err != nil {
		return nil, fmt.Errorf("worker: metrics: %w", err)
	}
	return t, nil
}

func (t *telemetry) close() {
	_ = t.gauges.Unregister() // it cannot be registered by then only if it never was
}

// ticked counts what became of the ticks of a schedule.
func (t *telemetry) ticked(ctx context.Context, d tick.Done) {
	if d.Problem != "" {
		return
	}
	for _, late := range d.Late {
		t.lateness.Record(ctx, max(late, 0).Seconds())
	}
	for outcome, n := range map[string]int64{"enqueued": int64(len(d.Late)), "overlap": d.Skipped, "too_late": d.Missed} {
		if n > 0 {
			t.ticks.Add(ctx, n, metric.WithAttributes(attribute.String("outcome", outcome)))
		}
	}
}

func endAttribute(k engine.EndKind) metric.AddOption {
	return metric.WithAttributes(attribute.String("end", endNames[k]))
}

func attemptAttributes(m workflow.Mode, err error) metric.RecordOption {
	return metric.WithAttributes(attribute.String("mode", m.String()), attribute.Bool("failed", err != nil))
}
