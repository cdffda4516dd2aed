package rivertest

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"

	"github.com/stepward/stepward/workflow"
)

// start is what an application declares to start a run through River alone. It
// is not the type that Stepward itself uses: only kind, queue and JSON bind.
type start struct {
	Workflow string          `json:"workflow"`
	Input    json.RawMessage `json:"input"`
	Tenant   string          `json:"tenant"`
	Key      string          `json:"key,omitempty"`
	Priority int             `json:"priority,omitempty"`
	Timeout  float64         `json:"timeout_seconds,omitempty"`
	Limit    map[string]any  `json:"limit,omitempty"`
}

func (start) Kind() string { return "stepward_start" }

func (start) InsertOpts() river.InsertOpts { return river.InsertOpts{Queue: "stepward"} }

func (f fixture) insert(t *testing.T, args start) *rivertype.JobRow {
	t.Helper()
	res, err := f.river.Insert(t.Context(), args, nil)
	if err != nil {
		t.Fatal(err)
	}
	return res.Job
}

// await returns the job once it has been worked so often.
func (f fixture) await(t *testing.T, id int64, attempt int) *rivertype.JobRow {
	t.Helper()
	var job *rivertype.JobRow
	eventually(t, "River finishes the job", func() bool {
		var err error
		if job, err = f.river.JobGet(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		return job.FinalizedAt != nil && job.Attempt >= attempt
	})
	return job
}

func (f fixture) runs(t *testing.T, tenant string) (runs []workflow.RunStatus) {
	t.Helper()
	for s, err := range f.client.Runs(t.Context(), workflow.RunFilter{Tenant: &tenant}) {
		if err != nil {
			t.Fatal(err)
		}
		runs = append(runs, s)
	}
	return runs
}

func TestJobStartsRun(t *testing.T) {
	f := newFixture(t)
	job := f.insert(t, start{Workflow: "double", Input: json.RawMessage("21"), Tenant: "acme"})
	if got := f.await(t, job.ID, 1); got.State != rivertype.JobStateCompleted {
		t.Fatalf("the job is %s: %+v", got.State, got.Errors)
	}
	runs := f.runs(t, "acme")
	if len(runs) != 1 {
		t.Fatalf("runs: %+v", runs)
	}
	out, err := double.Handle(f.client, runs[0].ID).Result(t.Context())
	if err != nil || out != 42 {
		t.Fatalf("got %d, %v", out, err)
	}
}

// A job says of its run what Enqueue can say.
func TestJobSaysWhatItsRunIs(t *testing.T) {
	f := newFixture(t)
	job := f.insert(t, start{Workflow: "nobody-has-it", Input: json.RawMessage("21"), Tenant: "acme", Priority: 7, Timeout: 1.5 * 3600,
		Limit: map[string]any{"key": "vendor", "concurrency": 2, "rate": 3, "per_seconds": 0.5}})
	if got := f.await(t, job.ID, 1); got.State != rivertype.JobStateCompleted {
		t.Fatalf("the job is %s: %+v", got.State, got.Errors)
	}
	runs := f.runs(t, "acme")
	if len(runs) != 1 || runs[0].Priority != 7 || runs[0].Limit != "vendor" || runs[0].Deadline.Sub(runs[0].ID.Time()).Round(time.Minute) != 90*time.Minute {
		t.Errorf("runs: %+v", runs)
	}
	var concurrency, rate int
	var per float64
	if err := f.pool.QueryRow(t.Context(), "SELECT concurrency, rate, per_s FROM "+f.schema+".run_limit WHERE key = 'vendor'").Scan(&concurrency, &rate, &per); err != nil || concurrency != 2 || rate != 3 || per != 0.5 {
		t.Errorf("the limit: %d, %d, %v, %v", concurrency, rate, per, err)
	}
}

// River works a job again when its worker died before it could say that it was
// done.
func TestJobThatIsWorkedTwiceStartsOneRun(t *testing.T) {
	f := newFixture(t)
	job := f.insert(t, start{Workflow: "double", Input: json.RawMessage("1"), Tenant: "acme"})
	f.await(t, job.ID, 1)
	if _, err := f.river.JobRetry(t.Context(), job.ID); err != nil {
		t.Fatal(err)
	}
	if got := f.await(t, job.ID, 2); got.State != rivertype.JobStateCompleted {
		t.Fatalf("the second time it is %s: %+v", got.State, got.Errors)
	}
	runs := f.runs(t, "acme")
	if len(runs) != 1 {
		t.Fatalf("%d runs, want 1", len(runs))
	}
	if _, err := double.Handle(f.client, runs[0].ID).Result(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := f.calls.Load(); n != 1 {
		t.Errorf("the step was executed %d times", n)
	}

	// The same job once more is another run, unless it brings a key.
	f.await(t, f.insert(t, start{Workflow: "double", Input: json.RawMessage("1"), Tenant: "acme"}).ID, 1)
	if n := len(f.runs(t, "acme")); n != 2 {
		t.Errorf("%d runs after a second job, want 2", n)
	}
}

func TestJobsWithOneKeyStartOneRun(t *testing.T) {
	f := newFixture(t)
	for range 3 {
		job := f.insert(t, start{Workflow: "double", Input: json.RawMessage("1"), Tenant: "acme", Key: "order-7"})
		if got := f.await(t, job.ID, 1); got.State != rivertype.JobStateCompleted {
			t.Fatalf("the job is %s: %+v", got.State, got.Errors)
		}
	}
	if n := len(f.runs(t, "acme")); n != 1 {
		t.Errorf("%d runs, want 1", n)
	}
	// Another input under that key is a mistake, which must show in River.
	job := f.insert(t, start{Workflow: "double", Input: json.RawMessage("2"), Tenant: "acme", Key: "order-7"})
	got := f.await(t, job.ID, 1)
	if got.State != rivertype.JobStateCancelled || len(got.Errors) != 1 {
		t.Errorf("a job with a used key is %s: %+v", got.State, got.Errors)
	}
}

// A job that can start nothing is canceled, with the part of it that is wrong.
func TestBadJobIsCanceled(t *testing.T) {
	f := newFixture(t)
	one, long := json.RawMessage("1"), strings.Repeat("x", 10<<10)
	for want, args := range map[string]start{
		"workflow":             {Input: one},
		"workflow \"no spaces": {Workflow: "no spaces", Input: one},
		"xxx":                  {Workflow: long, Input: one},
		"tenant":               {Workflow: "double", Input: one, Tenant: long},
		"key of":               {Workflow: "double", Input: one, Key: long},
		"priority of":          {Workflow: "double", Input: one, Priority: 1001},
		"timeout_seconds of":   {Workflow: "double", Input: one, Timeout: -1},
		"within 0 and 100":     {Workflow: "double", Input: one, Timeout: 1e300},
		"limit.key of":         {Workflow: "double", Input: one, Limit: map[string]any{"rate": 1}},
		"limit.concurrency of": {Workflow: "double", Input: one, Limit: map[string]any{"key": "k"}},
		"limit.per_seconds of": {Workflow: "double", Input: one, Limit: map[string]any{"key": "k", "rate": 1, "per_seconds": -1}},
		"the limit is 1048576": {Workflow: "double", Input: json.RawMessage(`"` + strings.Repeat("x", 1<<20) + `"`)},
		"input of workflow":    {Workflow: "double", Input: json.RawMessage(`"` + strings.Repeat("x", 2<<20) + `"`)},
	} {
		job := f.insert(t, args)
		if got := f.await(t, job.ID, 1); got.State != rivertype.JobStateCancelled || len(got.Errors) != 1 || !strings.Contains(got.Errors[0].Error, want) {
			t.Errorf("want %q, the job is %s: %+v", want, got.State, got.Errors)
		}
	}
}
