package bootstrap_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/stepward/stepward/audit"
	"github.com/stepward/stepward/internal/testenv"
	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/worker/bootstrap"
	"github.com/stepward/stepward/workflow"
	"github.com/stepward/stepward/workflow/sealed"
)

func TestMain(m *testing.M) {
	user, ok := os.LookupEnv(envUser)
	if !ok {
		user = "root" // tests are
	}
	bootstrap.Config{Broker: bootstrap.FileStore(os.Getenv(envStore)), User: user}.Init(wordsV1, showsV1, shipV1, callV1)
	if database := os.Getenv(envDatabase); database != "" {
		if err := alone(database, os.Getenv(envSchema)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// A word that is shouted in a guest and read back by a command.
var words = workflow.DurableWorkflow[string, string]{Name: "words"}

var shout = workflow.NewStep("shout", func(ctx context.Context, s string) (string, error) {
	switch s {
	case "panic":
		panic("boom")
	case "exit":
		os.Exit(3)
	case "permanent":
		return "", workflow.Permanent(errors.New("never"))
	case "fatal":
		return "", fmt.Errorf("look up: %w", errFatal)
	case "busy":
		return "", workflow.RetryAfter(errors.New("too many requests"), 2*time.Hour)
	}
	info, ok := workflow.StepInfoFrom(ctx)
	if s == "heartbeat" {
		var at int
		if ok, err := info.Details(&at); ok || err != nil {
			return fmt.Sprint("went on at ", at), err
		}
		for i := range 1000 {
			if err := workflow.Heartbeat(ctx, i); err != nil {
				return "", err
			}
		}
		return "", errors.New("a guest that fails")
	}
	if !ok || info.Step != "shout" || info.Attempt != 1 {
		return "", errors.New("no step info in the guest")
	}
	return strings.ToUpper(s), nil
}, workflow.StepOptions{Mode: workflow.Sandboxed, Retry: workflow.Retry{MaxAttempts: 2, If: func(err error) bool {
	var recorded *workflow.RecordedError
	return !errors.Is(err, errFatal) && !errors.As(err, &recorded)
}}})

var errFatal = errors.New("no such word")

var echo = workflow.NewToolStep("echo", func(ctx context.Context, sb *sandbox.Sandbox, s string) (string, error) {
	if err := sb.WriteFile(ctx, "word", []byte(s), 0o600); err != nil {
		return "", err
	}
	out, err := sb.Command("cat", "word").Output(ctx)
	return string(out), err
}, workflow.StepOptions{Mode: workflow.Sandboxed})

var measure = workflow.NewStep("measure", func(_ context.Context, s string) (float64, error) {
	return math.NaN(), nil
}, workflow.StepOptions{Mode: workflow.Sandboxed})

var wordsV1 = workflow.Define(words, func(ctx workflow.Context, s string) (string, error) {
	if s == "nan" {
		_, err := measure.Run(ctx, s)
		return "", err
	}
	loud, err := shout.Run(ctx, s)
	if err != nil {
		return "", err
	}
	return echo.Run(ctx, loud)
}, workflow.Options{Steps: []workflow.Declared{shout, echo, measure}})

// start runs a worker for the test and returns a client.
func start(t *testing.T, cfg worker.Config) (*workflow.Client, worker.Config) {
	t.Helper()
	client, cfg, _ := starts(t, cfg)
	return client, cfg
}

// starts returns also what stops the worker.
func starts(t *testing.T, cfg worker.Config) (*workflow.Client, worker.Config, func()) {
	t.Helper()
	cfg.Pool, cfg.Schema = testenv.Postgres(t)
	if err := workflow.Migrate(t.Context(), cfg.Pool, workflow.MigrateOptions{Schema: cfg.Schema}); err != nil {
		t.Fatal(err)
	}
	client, err := workflow.NewClient(workflow.ClientConfig{Pool: cfg.Pool, Schema: cfg.Schema, Codec: cfg.Codec, TracerProvider: cfg.TracerProvider})
	if err != nil {
		t.Fatal(err)
	}
	cfg.Workflows = append(cfg.Workflows, wordsV1, showsV1, shipV1)
	return client, cfg, work(t, cfg)
}

// work runs a worker until the function that it returns is called, or the test ends.
func work(t *testing.T, cfg worker.Config) (stop func()) {
	return workIn(context.Background(), t, cfg)
}

func workIn(ctx context.Context, t *testing.T, cfg worker.Config) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- worker.Run(ctx, cfg) }()
	return testenv.Stopper(t, "worker.Run", cancel, done)
}

const patience = testenv.Patience

// becomes waits until that is why a run does not move.
func becomes(t *testing.T, c *workflow.Client, run workflow.RunID, cause string) (why workflow.Why) {
	t.Helper()
	testenv.Eventually(t, "the run is "+cause, func() bool {
		var err error
		if why, err = c.Why(t.Context(), run); err != nil {
			t.Fatal(err)
		}
		return why.Cause == cause
	})
	return why
}

// outcome is the run's Result. A run that does not end, as one that parks does not, fails
// the test, which says why it does not: Result would wait for ever.
func outcome[Out any](t *testing.T, c *workflow.Client, run workflow.Run[Out]) (Out, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	out, err := run.Result(ctx)
	if err != nil && ctx.Err() != nil && t.Context().Err() == nil {
		why, werr := c.Why(t.Context(), run.ID)
		if werr != nil {
			t.Error(werr)
		}
		t.Errorf("run %v has not ended in %v: %v", run.ID, patience, why)
	}
	return out, err
}

// With a codec a guest gets the values themselves.
func TestGuestBehindCodec(t *testing.T) {
	ring, err := sealed.New(sealed.Key{ID: "k", Secret: make([]byte, 32)})
	if err != nil {
		t.Fatal(err)
	}
	client, _ := start(t, worker.Config{Codec: ring})
	run, err := words.Enqueue(t.Context(), client, "ada", workflow.EnqueueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if out, err := outcome(t, client, run); err != nil || out != "ADA" {
		t.Fatalf("got %q, %v", out, err)
	}
}

// TestSpansNest follows a run from enqueue to the command in its sandbox.
func TestSpansNest(t *testing.T) {
	exported := tracetest.NewInMemoryExporter()
	reader := metric.NewManualReader()
	client, cfg, stop := starts(t, worker.Config{
		TracerProvider: sdktrace.NewTracerProvider(sdktrace.WithSyncer(exported)),
		MeterProvider:  metric.NewMeterProvider(metric.WithReader(reader)),
	})
	run, err := words.Enqueue(t.Context(), client, "ada", workflow.EnqueueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if out, err := outcome(t, client, run); err != nil || out != "ADA" {
		t.Fatalf("got %q, %v", out, err)
	}
	have := make(map[string]bool)
	collect := func() {
		t.Helper()
		var rm metricdata.ResourceMetrics
		if err := reader.Collect(t.Context(), &rm); err != nil {
			t.Fatal(err)
		}
		for _, s := range rm.ScopeMetrics {
			for _, m := range s.Metrics {
				have[m.Name] = true
			}
		}
	}
	collect()
	stop() // the last spans end after the result is there
	collect()
	spans := exported.GetSpans()
	byID := make(map[string]tracetest.SpanStub)
	for _, s := range spans {
		byID[s.SpanContext.SpanID().String()] = s
	}
	parents := make(map[string]string)
	for _, s := range spans {
		parents[s.Name] = byID[s.Parent.SpanID().String()].Name
	}
	for child, parent := range map[string]string{
		"stepward.exec": "stepward.sandbox", "stepward.sandbox": "stepward.step", "stepward.step": "stepward.turn", "stepward.turn": "stepward.run",
	} {
		if parents[child] != parent {
			t.Errorf("parent of %s is %q, want %s", child, parents[child], parent)
		}
	}
	for _, name := range []string{"stepward.ready.backlog", "stepward.ready.oldest", "stepward.claim.latency", "stepward.commit.batch_size", "stepward.attempt.duration"} {
		if !have[name] {
			t.Errorf("no metric %s", name)
		}
	}

	events, err := audit.Events(t.Context(), cfg.Pool, audit.Filter{Schema: cfg.Schema, Run: run.ID, Kinds: []string{audit.SandboxCreated, audit.SandboxDestroyed}})
	if err != nil || len(events) != 4 {
		t.Errorf("events of two sandboxes: %v, %v", events, err)
	}
	for _, e := range events {
		var used struct {
			Commands int
			Each     []struct {
				CPU float64 `json:"cpu_ms"`
			}
		}
		if e.Kind != audit.SandboxDestroyed {
			continue
		}
		if err := json.Unmarshal(e.Detail, &used); err != nil || used.Commands == 0 || len(used.Each) != used.Commands || used.Each[0].CPU <= 0 {
			t.Errorf("what a sandbox's commands used is not on record: %s, %v", e.Detail, err)
		}
	}
}

// TestGuestFailures: what a guest does to its process is an error of its
// attempt, with the reason.
func TestGuestFailures(t *testing.T) {
	client, _ := start(t, worker.Config{})
	for input, want := range map[string]struct {
		kind, message string
		stack         bool
	}{
		"panic":     {"panic", "boom", true},
		"exit":      {"exit", "exit status 3", false},
		"permanent": {"", "never", false},
		"fatal":     {"", "look up: no such word", false},
		"nan":       {"encode", "workflow: encode output of step measure: json: unsupported value: NaN", false},
	} {
		run, err := words.Enqueue(t.Context(), client, input, workflow.EnqueueOptions{})
		if err != nil {
			t.Fatal(err)
		}
		_, err = outcome(t, client, run)
		var failed *workflow.RecordedError
		if !errors.As(err, &failed) || failed.Kind != want.kind || !strings.Contains(failed.Message, want.message) || (failed.Stack != "") != want.stack || failed.Attempt != 1 {
			t.Errorf("%s: got %+v", input, failed)
		}
	}
}

// TestGuestRetryAfter: a guest passes on the wait that its server asked for.
func TestGuestRetryAfter(t *testing.T) {
	client, _ := start(t, worker.Config{})
	run, err := words.Enqueue(t.Context(), client, "busy", workflow.EnqueueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, "the attempt fails", func() bool {
		steps, err := client.Steps(t.Context(), run.ID, 0)
		if err != nil {
			t.Fatal(err)
		}
		failed := len(steps) == 1 && steps[0].Err != nil
		if failed {
			if s := steps[0]; s.RetryAt.Sub(s.Started) < 2*time.Hour || s.Err.Type != "*errors.errorString" {
				t.Errorf("got %+v", s)
			}
		}
		return failed
	})
}

// TestGuestHeartbeat: what a guest reports last reaches the next attempt's sandbox.
func TestGuestHeartbeat(t *testing.T) {
	client, _ := start(t, worker.Config{})
	run, err := words.Enqueue(t.Context(), client, "heartbeat", workflow.EnqueueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if out, err := outcome(t, client, run); err != nil || out != "went on at 999" {
		t.Errorf("got %q, %v", out, err)
	}
	steps, err := client.Steps(t.Context(), run.ID, 0)
	if err != nil || len(steps) < 2 || string(steps[0].Details) != "999" {
		t.Errorf("steps: %+v, %v", steps, err)
	}
}
