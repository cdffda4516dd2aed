package canary_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"go.opentelemetry.io/otel/attribute"
	otelmetric "go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/sandbox/docker"
	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/worker/bootstrap"
	"github.com/stepward/stepward/workflow"
)

// What the processes find each other by.
const (
	envStore  = "CANARY_STORE"  // of the broker
	envWorker = "CANARY_WORKER" // folder of a worker, with its setup
	envMarker = "CANARY_MARKER" // is for the search alone
)

func TestMain(m *testing.M) {
	bootstrap.Config{Broker: bootstrap.FileStore(os.Getenv(envStore)), User: "root"}.Init(loadV1) // each process has the user that the test gives it
	if dir := os.Getenv(envWorker); dir != "" {
		if err := work(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// setup is what a worker is told.
type setup struct {
	URL     string
	Markers map[string]string // that it is to leave, by place
	Engine  string            // of Docker, where its sandboxes are; empty: they are local
	Probe   string            // the program for these
}

// held is what a worker has in its memory.
var held []string

func work(dir string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	raw, err := os.ReadFile(filepath.Join(dir, "setup.json"))
	if err != nil {
		return err
	}
	var s setup
	if err := json.Unmarshal(raw, &s); err != nil {
		return err
	}
	held = forms(s.Markers["memory"])
	slog.SetDefault(slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})))
	slog.Info("marker", "log", s.Markers["log"])
	if err := os.WriteFile(filepath.Join(os.TempDir(), "marker"), []byte(s.Markers["files"]), 0o600); err != nil {
		return err
	}
	pool, err := pgxpool.New(ctx, s.URL)
	if err != nil {
		return err
	}
	defer pool.Close()
	out, err := os.OpenFile(filepath.Join(dir, "telemetry"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	to := &exporter{to: json.NewEncoder(out)}
	meters := metric.NewMeterProvider(metric.WithReader(metric.NewPeriodicReader(to, metric.WithInterval(250*time.Millisecond))))
	defer meters.Shutdown(ctx)
	mine, err := meters.Meter("canary").Int64Counter("canary")
	if err != nil {
		return err
	}
	mine.Add(ctx, 1, otelmetric.WithAttributes(attribute.String("marker", s.Markers["metrics"])))
	var backends []sandbox.Backend
	if s.Engine != "" {
		engine := docker.New(docker.Config{Host: s.Engine, Program: s.Probe})
		defer engine.Close()
		backends, probe = append(backends, engine), s.Probe
	}
	return worker.Run(ctx, worker.Config{
		Backends: backends,
		Pool:     pool, Workflows: []*workflow.Definition{loadV1}, LeaseTTL: 5 * time.Second,
		TracerProvider: sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans{to})), MeterProvider: meters,
	})
}

// exporter writes down all spans and metrics.
type exporter struct {
	mu sync.Mutex
	to *json.Encoder
}

func (e *exporter) write(v any) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.to.Encode(v)
}

func (e *exporter) Temporality(k metric.InstrumentKind) metricdata.Temporality {
	return metric.DefaultTemporalitySelector(k)
}

func (e *exporter) Aggregation(k metric.InstrumentKind) metric.Aggregation {
	return metric.DefaultAggregationSelector(k)
}

func (e *exporter) Export(_ context.Context, rm *metricdata.ResourceMetrics) error {
	return e.write(map[string]any{"metrics": rm})
}

func (*exporter) ForceFlush(context.Context) error { return nil }
func (*exporter) Shutdown(context.Context) error   { return nil }

type spans struct{ *exporter }

func (s spans) ExportSpans(_ context.Context, all []sdktrace.ReadOnlySpan) error {
	var err error
	for _, span := range tracetest.SpanStubsFromReadOnlySpans(all) {
		err = errors.Join(err, s.write(map[string]any{"span": span.Name, "attributes": fmt.Sprint(span.Attributes), "events": fmt.Sprint(span.Events), "status": span.Status}))
	}
	return err
}
