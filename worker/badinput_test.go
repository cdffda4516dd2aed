package worker_test

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

// parksAs waits until a run is parked for a reason and returns its status.
func (f *fixture) parksAs(id workflow.RunID, reason string) (s workflow.RunStatus) {
	f.t.Helper()
	defer func() {
		if f.t.Failed() {
			f.t.Logf("the run is %s %s (%v)", s.State, s.Reason, s.Err)
		}
	}()
	eventually(f.t, "the run parks as "+reason, func() bool {
		s = f.state(id)
		return s.State == workflow.StateParked && s.Reason == reason
	})
	return s
}

// A worker that starts tries again what is parked, more than one page of it, and each
// run once: what parks again stays.
func TestParkedAreTriedOnce(t *testing.T) {
	t.Parallel()
	const n = 1100
	f := newFixture(t)
	def := defines(func(ctx workflow.Context, n int) (int, error) { return double.Run(ctx, n) }) // which it does not list
	quiet := worker.Config{Logger: slog.New(slog.DiscardHandler), Workflows: []*workflow.Definition{def}}
	items := make(map[int]workflow.EnqueueOptions, n)
	for i := range n {
		items[i] = workflow.EnqueueOptions{}
	}
	for _, err := range changing.EnqueueMany(t.Context(), f.client, maps.All(items)) {
		if err != nil {
			t.Fatal(err)
		}
	}
	parked := func(n int) func() bool {
		return func() bool { return f.count("SELECT count(*) FROM stepward.parked") == n }
	}
	stop := f.start(quiet)
	eventually(t, "all are parked", parked(n))
	stop()
	f.start(quiet)
	resumed := func() int { return f.count("SELECT count(*) FROM stepward.event WHERE kind = 'run.resume'") }
	eventually(t, "all are tried again", func() bool { return resumed() >= n && parked(n)() })
	next := f.enqueue(1)
	f.parksAs(next.ID, "undeclared_step")
	if got := resumed(); got != n {
		t.Errorf("%d runs were tried again %d times", n, got)
	}
}

// A step that the definition forgot parks the run; a deploy that lists it
// brings it to its end.
func TestUndeclaredStepParksUntilDeploy(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	w := workflow.DurableWorkflow[int, int]{Name: "forgetful"}
	body := func(ctx workflow.Context, n int) (int, error) { return double.Run(ctx, n) }
	stop := f.start(worker.Config{Workflows: []*workflow.Definition{workflow.Define(w, body, workflow.Options{})}})
	run, err := w.Enqueue(t.Context(), f.client, 21, workflow.EnqueueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if s := f.parksAs(run.ID, "undeclared_step"); !strings.Contains(s.Err.Message, `"double"`) {
		t.Errorf("the step is not named: %v", s.Err)
	}
	stop()
	f.start(worker.Config{Workflows: []*workflow.Definition{workflow.Define(w, body, workflow.Options{Steps: []workflow.Declared{double}})}})
	if out, err := outcome(t, f.client, run); err != nil || out != 42 {
		t.Fatalf("got %d, %v", out, err)
	}
}

// A body that panics parks, and Resume tries again.
func TestPanicParksUntilResumed(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	w := workflow.DurableWorkflow[int, int]{Name: "panics"}
	calls := make(chan int, 1)
	calls <- 0
	def := workflow.Define(w, func(ctx workflow.Context, n int) (int, error) {
		if c := <-calls; c == 0 {
			calls <- 1
			panic("boom")
		}
		return n, nil
	}, workflow.Options{})
	f.start(worker.Config{Workflows: []*workflow.Definition{def}})
	run, err := w.Enqueue(t.Context(), f.client, 7, workflow.EnqueueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if s := f.parksAs(run.ID, "panic"); s.Err.Stack == "" || !strings.Contains(s.Err.Message, "boom") {
		t.Errorf("no stack or no message: %+v", s.Err)
	}
	if err := f.client.Resume(t.Context(), run.ID); err != nil {
		t.Fatal(err)
	}
	if out, err := outcome(t, f.client, run); err != nil || out != 7 {
		t.Fatalf("got %d, %v", out, err)
	}
	if err := f.client.Resume(t.Context(), run.ID); !finished(err) {
		t.Errorf("resuming what has ended: %v", err)
	}
}

// A run of a workflow that nobody has defined waits, visibly, and starts when
// somebody does.
func TestUnknownWorkflowWaits(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	run, err := chain.Enqueue(t.Context(), f.client, 3, workflow.EnqueueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if s, err := f.client.Get(t.Context(), run.ID); err != nil || s.State != workflow.StateReady || s.Version != "" {
		t.Fatalf("status: %+v, %v", s, err)
	}
	f.start(worker.Config{Workflows: []*workflow.Definition{chainV1}})
	if out, err := outcome(t, f.client, run); err != nil || out != 8 {
		t.Fatalf("got %d, %v", out, err)
	}
}

func TestIdempotencyKey(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	first, err := chain.Enqueue(t.Context(), f.client, 3, workflow.EnqueueOptions{Tenant: "a", Key: "k"})
	if err != nil {
		t.Fatal(err)
	}
	again, err := chain.Enqueue(t.Context(), f.client, 3, workflow.EnqueueOptions{Tenant: "a", Key: "k"})
	if err != nil || again.ID != first.ID {
		t.Errorf("same key: %v, %v", again.ID, err)
	}
	other, err := chain.Enqueue(t.Context(), f.client, 3, workflow.EnqueueOptions{Tenant: "b", Key: "k"})
	if err != nil || other.ID == first.ID {
		t.Errorf("another tenant's key: %v, %v", other.ID, err)
	}
	var conflict *workflow.KeyConflictError
	if _, err := chain.Enqueue(t.Context(), f.client, 4, workflow.EnqueueOptions{Tenant: "a", Key: "k"}); !errors.As(err, &conflict) || conflict.Run != first.ID {
		t.Errorf("another input: %v", err)
	}
}

// All that is wrong with definitions is said at once.
func TestDefinitionErrors(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	twin := workflow.NewStep("double", func(context.Context, int) (int, error) { return 0, nil }, workflow.StepOptions{})
	odd := workflow.NewStep("no good", func(context.Context, chan int) (int, error) { return 0, nil }, workflow.StepOptions{Mode: 9, Continue: true})
	torn := workflow.NewToolStep("torn", func(context.Context, *sandbox.Sandbox, int) (int, error) { return 0, nil },
		workflow.StepOptions{Mode: workflow.Sandboxed, Continue: true, Sandbox: sandbox.Spec{Share: true}})
	negative := workflow.NewStep("negative", keepIt, workflow.StepOptions{HeartbeatTimeout: -1, Deadline: -1, Retry: workflow.Retry{MaxAttempts: -1, Backoff: -1, MaxBackoff: -1}})
	boxed := workflow.NewStep("boxed", keepIt, workflow.StepOptions{Mode: workflow.Sandboxed, Sandbox: sandbox.Spec{Limits: sandbox.Limits{PIDs: -1}}})
	idle := workflow.NewStep[int, int]("idle", nil, workflow.StepOptions{})
	w := workflow.DurableWorkflow[int, int]{Name: "wrong"}
	def := workflow.Define(w, nil, workflow.Options{Steps: []workflow.Declared{double, twin, odd, torn, &workflow.Step[int, int]{}, negative, idle, nil, boxed}})
	err := worker.Run(t.Context(), worker.Config{Pool: f.pool, Schema: f.schema, Workflows: []*workflow.Definition{def, {}}})
	for _, want := range []string{"no body", "it was not made by Define", "step 4 of Options.Steps was not made by NewStep", "two steps have this name", "bad name", "chan int", "no such mode", "only a tool step has Continue", "has no Continue",
		"Retry.MaxAttempts is negative", "Retry.Backoff is negative", "Retry.MaxBackoff is negative", "Deadline is negative", "HeartbeatTimeout is negative", `step "idle": no function`, "step 7 of Options.Steps is nil"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in: %v", want, err)
		}
	}
	var spec *sandbox.SpecError
	if !errors.As(err, &spec) || spec.Field != "Limits.PIDs" {
		t.Errorf("no SpecError of Limits.PIDs is in: %v", err)
	}
}

func TestModeThatNothingExecutes(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	secret := workflow.NewStep("secret", func(context.Context, int) (int, error) { return 0, nil }, workflow.StepOptions{Mode: workflow.Agent})
	w := workflow.DurableWorkflow[int, int]{Name: "secretive"}
	def := workflow.Define(w, func(ctx workflow.Context, n int) (int, error) { return secret.Run(ctx, n) }, workflow.Options{Steps: []workflow.Declared{secret}})
	var health worker.Health
	f.start(worker.Config{Health: &health, Workflows: []*workflow.Definition{def}})
	eventually(t, "the worker starts", func() bool { _, ok := health.Report(); return ok })
	var refused *workflow.DefinitionError
	if _, err := w.Enqueue(t.Context(), f.client, 1, workflow.EnqueueOptions{}); !errors.As(err, &refused) || !strings.Contains(refused.Reason, "mode agent cannot") {
		t.Errorf("got %v", err)
	}
}

func TestSchemaVersion(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	cfg := worker.Config{Pool: f.pool, Schema: f.schema + "x", Workflows: []*workflow.Definition{chainV1}}
	var version *workflow.SchemaError
	if err := worker.Run(t.Context(), cfg); !errors.As(err, &version) || version.Have != 0 {
		t.Errorf("without migrations: %v", err)
	}
	if _, err := f.pool.Exec(t.Context(), "INSERT INTO "+f.schema+".migration (version) VALUES (2)"); err != nil {
		t.Fatal(err)
	}
	if err := f.client.Check(t.Context()); err != nil {
		t.Errorf("one version newer: %v", err)
	}
	if _, err := f.pool.Exec(t.Context(), "INSERT INTO "+f.schema+".migration (version) VALUES (3)"); err != nil {
		t.Fatal(err)
	}
	cfg.Schema = f.schema
	if err := worker.Run(t.Context(), cfg); !errors.As(err, &version) || version.Have != 3 {
		t.Errorf("two versions newer: %v", err)
	}
}

func TestPostgresAbsentAtStart(t *testing.T) {
	f := newFixture(t)
	f.pool.Close() // the same to a worker as a server that does not answer
	err := worker.Run(t.Context(), worker.Config{Pool: f.pool, Schema: f.schema, StartTimeout: 200 * time.Millisecond, Workflows: []*workflow.Definition{chainV1}})
	var absent *worker.StartError
	if !errors.As(err, &absent) {
		t.Errorf("got %v", err)
	}
}

// A run is canceled wherever it is.
func TestCancel(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	began := make(chan struct{}, 1)
	wait := workflow.NewStep("wait", func(ctx context.Context, _ int) (int, error) {
		began <- struct{}{}
		<-ctx.Done()
		return 0, context.Cause(ctx)
	}, workflow.StepOptions{})
	w := workflow.DurableWorkflow[int, int]{Name: "waits"}
	def := workflow.Define(w, func(ctx workflow.Context, n int) (int, error) { return wait.Run(ctx, n) }, workflow.Options{Steps: []workflow.Declared{wait}})
	ready, err := w.Enqueue(t.Context(), f.client, 1, workflow.EnqueueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := ready.Cancel(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := outcome(t, f.client, ready); !errors.Is(err, workflow.ErrCanceled) {
		t.Errorf("canceled while ready: %v", err)
	}
	if err := ready.Cancel(t.Context()); !finished(err) {
		t.Errorf("canceled after its end: %v", err)
	}
	f.start(worker.Config{Workflows: []*workflow.Definition{def}})
	running, err := w.Enqueue(t.Context(), f.client, 2, workflow.EnqueueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	arrives(t, began)
	if err := running.Cancel(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := outcome(t, f.client, running); !errors.Is(err, workflow.ErrCanceled) {
		t.Errorf("canceled while running: %v", err)
	}
	if err := f.client.Cancel(t.Context(), 1); !errors.Is(err, workflow.ErrNotFound) {
		t.Errorf("no such run: %v", err)
	}
}

// A cancelation reaches the items of a Map that wait for a place, too.
func TestCancelMap(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	began := make(chan struct{}, 3)
	wait := workflow.NewStep("wait", func(ctx context.Context, _ int) (int, error) {
		began <- struct{}{}
		<-ctx.Done()
		return 0, context.Cause(ctx)
	}, workflow.StepOptions{})
	w := workflow.DurableWorkflow[int, int]{Name: "waits"}
	f.start(worker.Config{Workflows: []*workflow.Definition{workflow.Define(w, func(ctx workflow.Context, n int) (int, error) {
		_, err := workflow.Map(ctx, []int{1, 2, 3}, wait, workflow.MapOptions{Limit: 1})
		return n, err
	}, workflow.Options{Steps: []workflow.Declared{wait}})}})
	run, err := w.Enqueue(t.Context(), f.client, 2, workflow.EnqueueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	arrives(t, began)
	if err := run.Cancel(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := outcome(t, f.client, run); !errors.Is(err, workflow.ErrCanceled) {
		t.Errorf("canceled in a Map: %v", err)
	}
}

// What cannot be in a Config is said before anything is asked of Postgres.
func TestBadConfig(t *testing.T) {
	f := newFixture(t)
	for want, cfg := range map[string]worker.Config{
		"Config.Name":      {Name: "a\x00b"},
		"Config.Name: 201": {Name: strings.Repeat("x", 201)},
		"Config.MaxRuns is 1000001, at most 1000000": {MaxRuns: 1_000_001},
		"Config.MaxSteps is negative":                {MaxSteps: -1},
		"Config.LeaseTTL is 999ms":                   {LeaseTTL: 999 * time.Millisecond},
		"Config.LeaseTTL is 2562047h":                {LeaseTTL: math.MaxInt64},
		"Config.StartTimeout is negative":            {StartTimeout: -1},
		"Config.DrainTimeout is negative":            {DrainTimeout: -1},
		"Config.Retention.Completed is negative":     {Retention: worker.Retention{Completed: -1}},
		"Config.Retention.Failed is negative":        {Retention: worker.Retention{Failed: -1}},
		"Config.Retention.Canceled is negative":      {Retention: worker.Retention{Canceled: -1}},
		"Config.Warm.Idle is negative":               {Warm: worker.Warm{Idle: -1}},
		"Config.Warm has Min -1":                     {Warm: worker.Warm{Min: -1}},
		"Config.Warm has Min 2 and Max 1":            {Warm: worker.Warm{Min: 2, Max: 1}},
		"Config.Warm has Min 0 and Max 1000001":      {Warm: worker.Warm{Max: 1_000_001}},
	} {
		cfg.Pool, cfg.Schema, cfg.Workflows = f.pool, f.schema, []*workflow.Definition{chainV1}
		if err := worker.Run(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v; %q is wanted in it", err, want)
		}
	}
}
