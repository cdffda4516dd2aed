package workflow_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

// lives is a workflow whose input says what becomes of a run.
var lives = workflow.DurableWorkflow[string, string]{Name: "lives"}

func livesV1(release <-chan struct{}) *workflow.Definition {
	live := workflow.NewStep("live", func(ctx context.Context, how string) (string, error) {
		switch how {
		case "completed":
			return "well", nil
		case "running":
			select {
			case <-release:
			case <-ctx.Done():
			}
			return "", nil
		case "failed":
			return "", workflow.Permanent(errors.New("badly"))
		default:
			return "", errors.New("later")
		}
	}, workflow.StepOptions{Retry: workflow.Retry{Backoff: time.Hour}})
	undeclared := workflow.NewStep("undeclared", func(context.Context, int) (int, error) { return 0, nil }, workflow.StepOptions{})
	return workflow.Define(lives, func(ctx workflow.Context, how string) (string, error) {
		if how == "parked" {
			_, err := undeclared.Run(ctx, 0)
			return "", err
		}
		return live.Run(ctx, how)
	}, workflow.Options{Version: "1.2", Steps: []workflow.Declared{live}})
}

// Each filter selects what it says, in every state that a run can be in.
func TestRunsFilters(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	release := make(chan struct{})
	f.work(worker.Config{Name: "w1", Workflows: []*workflow.Definition{livesV1(release)}})
	t.Cleanup(func() { close(release) }) // before the worker drains

	ids := make(map[workflow.State]workflow.RunID)
	for _, state := range []workflow.State{workflow.StateCompleted, workflow.StateFailed, workflow.StateWaiting, workflow.StateParked, workflow.StateRunning} {
		run, err := lives.Enqueue(ctx, f.client, string(state), workflow.EnqueueOptions{Tenant: "acme"})
		if err != nil {
			t.Fatal(err)
		}
		ids[state] = run.ID
		eventually(t, string(state), func() bool {
			s, err := f.client.Get(ctx, run.ID)
			if err != nil {
				t.Fatal(err)
			}
			return s.State == state
		})
	}
	ids[workflow.StateReady] = f.enqueue(1, workflow.EnqueueOptions{}).ID // no worker has it
	canceled := f.enqueue(1, workflow.EnqueueOptions{Tenant: "other"})
	if err := canceled.Cancel(ctx); err != nil {
		t.Fatal(err)
	}
	ids[workflow.StateCanceled] = canceled.ID

	list := func(filter workflow.RunFilter) []workflow.RunStatus {
		t.Helper()
		runs := f.runs(filter)
		if !slices.IsSortedFunc(runs, func(a, b workflow.RunStatus) int { return int(b.ID - a.ID) }) {
			t.Errorf("%+v: not newest first", filter)
		}
		return runs
	}
	for state, id := range ids {
		runs := list(workflow.RunFilter{State: state})
		if len(runs) != 1 || runs[0].ID != id || runs[0].State != state {
			t.Fatalf("state %s: got %+v", state, runs)
		}
		s := runs[0]
		ended := state == workflow.StateCompleted || state == workflow.StateFailed || state == workflow.StateCanceled
		if ended == s.Finished.IsZero() {
			t.Errorf("%s: finished %v", state, s.Finished)
		}
		if (state == workflow.StateFailed || state == workflow.StateParked) != (s.Err != nil) {
			t.Errorf("%s: error %v", state, s.Err)
		}
		if (state == workflow.StateParked) != (s.Reason == "undeclared_step") || (state == workflow.StateRunning) != (s.Worker == "w1") {
			t.Errorf("%s: reason %q, worker %q", state, s.Reason, s.Worker)
		}
		if (state == workflow.StateReady || state == workflow.StateWaiting || state == workflow.StateParked) == s.Since.IsZero() {
			t.Errorf("%s: since %v", state, s.Since)
		}
		want := "1.2"
		if state == workflow.StateReady || state == workflow.StateCanceled {
			want = "" // no worker has defined it
		}
		if s.Version != want {
			t.Errorf("%s: version %q, want %q", state, s.Version, want)
		}
	}
	none, acme, other := "", "acme", "other"
	for _, c := range []struct {
		filter workflow.RunFilter
		want   int
	}{
		{workflow.RunFilter{}, 7},
		{workflow.RunFilter{Tenant: &none}, 1},
		{workflow.RunFilter{Tenant: &acme}, 5},
		{workflow.RunFilter{Tenant: &other}, 1},
		{workflow.RunFilter{Workflow: "lives"}, 5},
		{workflow.RunFilter{Workflow: "count"}, 2},
		{workflow.RunFilter{Workflow: "unknown"}, 0},
		{workflow.RunFilter{Workflow: "count", Tenant: &other, State: workflow.StateCanceled}, 1},
		{workflow.RunFilter{Workflow: "count", Tenant: &other, State: workflow.StateReady}, 0},
		{workflow.RunFilter{State: "unknown"}, 0},
		{workflow.RunFilter{Before: ids[workflow.StateFailed]}, 1},
		{workflow.RunFilter{Limit: 3}, 3},
	} {
		if got := list(c.filter); len(got) != c.want {
			t.Errorf("%+v: got %d runs, want %d", c.filter, len(got), c.want)
		}
	}
}

// A filter that no run can pass because of a mistake selects none, and says so.
func TestRunsRefuses(t *testing.T) {
	f := newFixture(t)
	bad := "a\x00"
	for option, filter := range map[string]workflow.RunFilter{
		"Limit":    {Limit: -1},
		"Tenant":   {Tenant: &bad},
		"Workflow": {Workflow: bad},
		"Version":  {Version: "\xff"},
		"State":    {State: workflow.State(bad)},
		"Reason":   {Reason: bad},
	} {
		n, err := f.client.Each(t.Context(), filter, f.client.Terminate)
		if refused, ok := errors.AsType[*workflow.OptionError](err); n != 0 || !ok || refused.Option != "RunFilter."+option {
			t.Errorf("%s: got %v", option, err)
		}
	}
	s := f.client.Schedule(bad)
	if err := s.Pause(t.Context()); !errors.Is(err, workflow.ErrNotFound) {
		t.Errorf("pause: got %v", err)
	}
	if _, err := s.Status(t.Context()); !errors.Is(err, workflow.ErrNotFound) {
		t.Errorf("status: got %v", err)
	}
}

// A listing that is continued shows each run once, while others are added.
func TestRunsPages(t *testing.T) {
	f := newFixture(t)
	var want, got []workflow.RunID
	items := func(yield func(int, workflow.EnqueueOptions) bool) {
		for i := 0; i < 350 && yield(i, workflow.EnqueueOptions{}); i++ {
		}
	}
	for run, err := range count.EnqueueMany(t.Context(), f.client, items) {
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, run.ID)
	}
	slices.Reverse(want)
	for s, err := range f.client.Runs(t.Context(), workflow.RunFilter{}) {
		if err != nil {
			t.Fatal(err)
		}
		if got = append(got, s.ID); len(got)%50 == 0 {
			f.enqueue(100, workflow.EnqueueOptions{})
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("in one go: got %v, want %v", got, want)
	}
	got = nil
	for filter := (workflow.RunFilter{Before: want[0] + 1, Limit: 110}); len(got) == 0 || len(got)%110 == 0; filter.Before = got[len(got)-1] {
		for _, s := range f.runs(filter) {
			got = append(got, s.ID)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("page by page: got %v, want %v", got, want)
	}
}

func TestSteps(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	flaky := workflow.NewStep("flaky", func(ctx context.Context, n int) (int, error) {
		if info, _ := workflow.StepInfoFrom(ctx); info.Attempt < 3 {
			return 0, fmt.Errorf("attempt %d", info.Attempt)
		}
		return n * n, nil
	}, workflow.StepOptions{Retry: workflow.Retry{Backoff: time.Millisecond}})
	squares := workflow.DurableWorkflow[[]int, []int]{Name: "squares"}
	def := workflow.Define(squares, func(ctx workflow.Context, ns []int) ([]int, error) {
		return workflow.Map(ctx, ns, flaky, workflow.MapOptions{})
	}, workflow.Options{Steps: []workflow.Declared{flaky}})
	f.work(worker.Config{Name: "w1", Workflows: []*workflow.Definition{def}})
	run, err := squares.Enqueue(ctx, f.client, []int{2, 3}, workflow.EnqueueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if out, err := run.Result(ctx); err != nil || !slices.Equal(out, []int{4, 9}) {
		t.Fatalf("got %v, %v", out, err)
	}
	var got []string
	steps, err := f.client.Steps(ctx, run.ID, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range steps {
		line := fmt.Sprintf("%d %s %v attempt %d by %s: %s", s.Seq, s.Step, s.Mode, s.Attempt, s.Worker, s.Output)
		if s.Err != nil {
			line += s.Err.Message
		}
		got = append(got, line)
		if s.Started.IsZero() || s.Recorded != (s.Err == nil) || s.Recorded != s.RetryAt.IsZero() {
			t.Errorf("incomplete: %+v", s)
		}
	}
	want := []string{
		"1 flaky[0] bare attempt 1 by w1: attempt 1",
		"1 flaky[0] bare attempt 2 by w1: attempt 2",
		"1 flaky[0] bare attempt 3 by w1: 4",
		"2 flaky[1] bare attempt 1 by w1: attempt 1",
		"2 flaky[1] bare attempt 2 by w1: attempt 2",
		"2 flaky[1] bare attempt 3 by w1: 9",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
	if rest, err := f.client.Steps(ctx, run.ID, 1); err != nil || len(rest) != 3 || rest[0].Seq != 2 {
		t.Errorf("after the first: %+v, %v", rest, err)
	}
}

// What is asked about a run that does not exist, or has ended, has a typed
// answer.
func TestUnknownAndFinished(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	const unknown = workflow.RunID(12345)
	_, err := f.client.Get(ctx, unknown)
	_, stepsErr := f.client.Steps(ctx, unknown, 0)
	_, progressErr := f.client.Progress(ctx, unknown)
	_, _, readErr := workflow.Stream[int]{Name: "s"}.Read(ctx, f.client, unknown, 0, 0)
	_, whyErr := f.client.Why(ctx, unknown)
	_, resultErr := count.Handle(f.client, unknown).Result(ctx)
	for what, err := range map[string]error{
		"Get": err, "Result": resultErr, "Cancel": f.client.Cancel(ctx, unknown), "Resume": f.client.Resume(ctx, unknown),
		"Steps": stepsErr, "Progress": progressErr, "Read": readErr, "Why": whyErr,
	} {
		if !errors.Is(err, workflow.ErrNotFound) {
			t.Errorf("%s of an unknown run: got %v", what, err)
		}
	}
	if _, err := f.client.Get(ctx, 0); !errors.Is(err, workflow.ErrNotFound) {
		t.Errorf("Get of no run: got %v", err)
	}
	waiting := f.enqueue(1, workflow.EnqueueOptions{})
	if steps, err := f.client.Steps(ctx, waiting.ID, 0); err != nil || len(steps) != 0 {
		t.Errorf("Steps of a run that has none: got %v, %v", steps, err)
	}
	if err := f.client.Resume(ctx, waiting.ID); !elsewhere(err, workflow.StateParked) {
		t.Errorf("Resume of a ready run: got %v", err)
	}
	short, cancel := context.WithCancelCause(ctx)
	gaveUp := errors.New("gave up")
	cancel(gaveUp)
	if _, err := waiting.Result(short); !errors.Is(err, gaveUp) {
		t.Errorf("Result with a context that is done: got %v", err)
	}
	if err := waiting.Cancel(ctx); err != nil {
		t.Fatal(err)
	}
	_, err = waiting.Result(ctx)
	if failed := (*workflow.RecordedError)(nil); !errors.As(err, &failed) || !errors.Is(err, workflow.ErrCanceled) || !strings.Contains(err.Error(), waiting.ID.String()) {
		t.Errorf("Result of a canceled run: got %v", err)
	}
	f.work(worker.Config{Workflows: []*workflow.Definition{countV1}})
	done := f.enqueue(1, workflow.EnqueueOptions{})
	if _, err := done.Result(ctx); err != nil {
		t.Fatal(err)
	}
	for _, id := range []workflow.RunID{done.ID, waiting.ID} {
		if err := f.client.Cancel(ctx, id); !finished(err) {
			t.Errorf("Cancel: got %v", err)
		}
		if err := f.client.Resume(ctx, id); !finished(err) {
			t.Errorf("Resume: got %v", err)
		}
	}
	if out, err := done.Result(ctx); err != nil || out != 3 {
		t.Errorf("a refused Cancel changed the run: %d, %v", out, err)
	}
}
