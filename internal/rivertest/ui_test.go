package rivertest

import (
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"riverqueue.com/riverui"

	"github.com/stepward/stepward/workflow"
)

// River UI finds its way on a schema whose kind and GIN indexes are dropped.
func TestRiverUI(t *testing.T) {
	f := newFixture(t)
	var indexes []string
	if err := f.pool.QueryRow(t.Context(), `SELECT array_agg(indexname::text) FROM pg_indexes WHERE schemaname = $1 AND tablename = 'river_job'`,
		f.river.Schema()).Scan(&indexes); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"river_job_args_index", "river_job_metadata_index", "river_job_kind"} {
		if slices.Contains(indexes, name) {
			t.Errorf("index %s is not dropped: this shows nothing", name)
		}
	}
	run, err := double.Enqueue(t.Context(), f.client, 4, workflow.EnqueueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := run.Result(t.Context()); err != nil {
		t.Fatal(err)
	}
	ui, err := riverui.NewHandler(&riverui.HandlerOpts{
		Endpoints: riverui.NewEndpoints(f.river, nil),
		Logger:    slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := ui.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(ui)
	t.Cleanup(srv.Close)
	get := func(path string) string {
		t.Helper()
		res, err := srv.Client().Get(srv.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		if err != nil || res.StatusCode != http.StatusOK {
			t.Fatalf("GET %s: %s, %v: %.500s", path, res.Status, err, body)
		}
		return string(body)
	}

	page := get("/")
	script := regexp.MustCompile(`src="(/assets/[^"]+\.js)"`).FindStringSubmatch(page)
	if script == nil {
		t.Fatalf("the page names no script: %.500s", page)
	}
	if js := get(script[1]); strings.Contains(js[:min(len(js), 200)], "<html") {
		t.Errorf("%s is a page, not a script", script[1])
	}

	// The completed ticket is in the list, also when it is asked for by its kind.
	var list struct {
		Data []struct {
			Kind  string `json:"kind"`
			Queue string `json:"queue"`
		} `json:"data"`
	}
	for _, query := range []string{"", "&kinds=stepward_ticket", "&queues=stepward"} {
		eventually(t, "the ticket shows under"+query, func() bool {
			if err := json.Unmarshal([]byte(get("/api/jobs?state=completed"+query)), &list); err != nil {
				t.Fatal(err)
			}
			return len(list.Data) == 1
		})
		if j := list.Data[0]; j.Kind != "stepward_ticket" || j.Queue != "stepward" {
			t.Errorf("the ticket shows as %+v", j)
		}
	}

	// What its other pages ask for.
	for _, path := range []string{"/api/states", "/api/features", "/api/health-checks/complete", "/api/queues",
		"/api/autocomplete?facet=job_kind&match=stepward", "/api/autocomplete?facet=queue_name&match=step"} {
		body := get(path)
		if strings.Contains(path, "job_kind") && !strings.Contains(body, "stepward_ticket") {
			t.Errorf("GET %s: %s", path, body)
		}
	}
}
