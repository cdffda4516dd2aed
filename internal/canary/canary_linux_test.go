package canary_test

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/stepward/stepward/identity"
	"github.com/stepward/stepward/identity/filestore"
	"github.com/stepward/stepward/internal/canary"
	"github.com/stepward/stepward/internal/devdb"
	"github.com/stepward/stepward/internal/testenv"
	"github.com/stepward/stepward/workflow"
)

// A mine is what the test works in.
type mine struct {
	t      *testing.T
	dir    string // holds all that workers and the broker write
	pg     string // of the cluster, which is the test's own
	pool   *pgxpool.Pool
	client *workflow.Client
	admin  *identity.Profiles
	setup  setup
	values map[string][]string // by name: what of each is looked for
	search *canary.Searcher
	found  map[string]map[string]bool // by place: the markers that were found
	passed map[string]bool            // what was reported
}

// tenants are the two that have secrets.
var tenants = []string{"acme", "globex"}

// random is a text that is nowhere else, in most encodings not even itself.
func random() string { return "/+" + rand.Text() + `é"<&=?` + rand.Text() + "~&" }

// secret makes one of the i-th shape: the value, and what of it is secret by itself.
func secret(i int) (value string, parts []string) {
	a, b := random(), random()
	switch i {
	case 3:
		return "-----BEGIN KEY-----\n" + rand.Text() + rand.Text() + "\n" + a + "\n" + b + "\n-----END KEY-----\n", []string{a, b}
	case 5:
		doc, _ := json.Marshal(map[string]any{"user": "ada", "password": a, "keys": []string{b}})
		return string(doc), []string{a, b}
	case 6:
		a = rand.Text() + rand.Text()
		return "postgres://ada:" + a + "@db.example.com:5432/app?sslmode=disable", []string{a}
	case 7:
		a = strings.Repeat(random(), 10)
		return a, []string{a}
	case 9: // not text
		return "\x00\xff\xfe" + a + "\x80\x00", []string{a}
	case 1, 8:
		a = rand.Text() + rand.Text()
	}
	return a, []string{a}
}

func newMine(t *testing.T) *mine {
	m := &mine{t: t, dir: t.TempDir(), found: make(map[string]map[string]bool), passed: make(map[string]bool)}
	own, err := devdb.Open(t.Context(), devdb.Config{
		Dir: filepath.Join(os.TempDir(), fmt.Sprintf("canary-%d", os.Getpid())), Ways: []devdb.Way{devdb.WayLocal}, // short: it holds a socket
		Settings: []string{"log_statement=all", "log_min_duration_statement=0", "log_parameter_max_length=-1", "log_parameter_max_length_on_error=-1", "log_error_verbosity=verbose", "full_page_writes=on"},
	})
	if err != nil {
		testenv.Skip(t, testenv.PartPostgres, err.Error())
	}
	t.Cleanup(own.Close)
	if m.pool, err = pgxpool.New(t.Context(), own.URL); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.pool.Close)
	m.pg = m.pool.Config().ConnConfig.Host
	if err := workflow.Migrate(t.Context(), m.pool, workflow.MigrateOptions{}); err != nil {
		t.Fatal(err)
	}
	if m.client, err = workflow.NewClient(workflow.ClientConfig{Pool: m.pool}); err == nil {
		m.admin, err = identity.New(m.pool, identity.Options{})
	}
	if err != nil {
		t.Fatal(err)
	}
	m.plant(own.URL)
	return m
}

// plant has secrets in the store, and markers wherever the search is to find them.
func (m *mine) plant(url string) {
	t, values := m.t, make(map[string][]string)
	m.setup = setup{URL: url, Markers: make(map[string]string)}
	for _, place := range []string{"memory", "log", "files", "metrics", "environ", "cmdline", "plain", "engine"} {
		m.setup.Markers[place] = random()
		values["marker "+place] = []string{m.setup.Markers[place]}
	}
	store, err := filestore.Open(filestore.Config{Dir: filepath.Join(m.dir, "store")})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	for _, tenant := range tenants {
		keys := map[string]identity.Key{plain: {Knob: m.setup.Markers["plain"]}}
		for i, name := range names {
			value, parts := secret(i)
			values[tenant+" "+name] = parts
			if _, err := store.Put(t.Context(), tenant, strings.ToLower(name), []byte(value)); err != nil {
				t.Fatal(err)
			}
			keys[name] = identity.Key{Ref: "file://" + strings.ToLower(name), Commands: []string{"sh", "/workspace/probe"}, File: i == 9}
		}
		value, parts := secret(1)
		values[tenant+" "+injected] = parts
		if _, err := store.Put(t.Context(), tenant, "injected", []byte(value)); err != nil {
			t.Fatal(err)
		}
		keys[injected] = identity.Key{Ref: "file://injected", Commands: keys["S0"].Commands, Inject: &identity.Inject{Hosts: []string{"example.com"}}}
		keys[plain] = identity.Key{Knob: m.setup.Markers["plain"], Commands: []string{"sh", "/workspace/probe"}}
		if err := m.admin.Put(t.Context(), identity.Profile{Name: "main", Scope: identity.Scope{Tenant: tenant}, Keys: keys}); err != nil {
			t.Fatal(err)
		}
	}
	m.values, m.search = values, canary.NewSearcher(values)
	if err := os.Mkdir(filepath.Join(m.dir, "tmp"), 0o700); err != nil {
		t.Fatal(err)
	}
	m.tellSetup()
}

// tellSetup is for workers that start from now on.
func (m *mine) tellSetup() {
	raw, err := json.Marshal(m.setup)
	if err == nil {
		err = os.WriteFile(filepath.Join(m.dir, "setup.json"), raw, 0o600)
	}
	if err != nil {
		m.t.Fatal(err)
	}
}

// work starts a worker, and returns its process.
func (m *mine) work(name string) *exec.Cmd {
	self, err := os.Executable()
	if err != nil {
		m.t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(m.dir, name+".log"))
	if err != nil {
		m.t.Fatal(err)
	}
	defer log.Close()
	c := exec.Command(self, m.setup.Markers["cmdline"])
	c.Stdout, c.Stderr = log, log
	c.Env = append(os.Environ(), envWorker+"="+m.dir, envStore+"="+filepath.Join(m.dir, "store"), envMarker+"="+m.setup.Markers["environ"],
		"TMPDIR="+filepath.Join(m.dir, "tmp"))
	if err := c.Start(); err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() {
		_ = c.Process.Kill()
		_ = c.Wait()
	})
	return c
}

func (m *mine) enqueue(how, tenant string) workflow.Run[string] {
	run, err := load.Enqueue(m.t.Context(), m.client, how, workflow.EnqueueOptions{Tenant: tenant})
	if err != nil {
		m.t.Fatal(err)
	}
	return run
}

// waiting returns runs that have all secrets, and wait.
func (m *mine) waiting(how string, tenants ...string) (runs []workflow.Run[string]) {
	for _, tenant := range tenants {
		runs = append(runs, m.enqueue(how, tenant))
	}
	for _, run := range runs {
		for s := ""; s != "waiting"; <-time.After(20 * time.Millisecond) { // nothing tells of progress
			var err error
			if s, _, err = stage.Get(m.t.Context(), m.client, run.ID); err != nil {
				m.t.Fatal(err)
			}
			if is, err := m.client.Get(m.t.Context(), run.ID); err != nil || is.State != workflow.StateReady && is.State != workflow.StateRunning {
				m.t.Fatalf("it is %s: %v, %v", is.State, is.Err, err)
			}
		}
	}
	return runs
}

// TestCanary has workers do all that they do, and fail in all ways, with 20 secrets of two tenants
// in their sandboxes. Not one of them is anywhere outside, in any of 12 encodings and more; a marker that
// went the same ways is found everywhere.
func TestCanary(t *testing.T) {
	m := newMine(t)
	first := m.work("first")
	runs, ends := make(map[string]workflow.Run[string]), map[string]string{"error": "", "panic": "panic", "crash": "exit", "exit": "exit"}
	for i, how := range []string{"result", "tool", "result", "tool", "show", "panic", "retry", "error", "file", "crash", "long", "exit"} {
		tenant := tenants[i/2%2]
		runs[how+" "+tenant] = m.enqueue(how, tenant)
	}
	for what, run := range runs {
		how, _, _ := strings.Cut(what, " ")
		out, err := run.Result(t.Context())
		var failed *workflow.RecordedError
		switch kind, fails := ends[how]; {
		case !fails && err != nil, fails && (!errors.As(err, &failed) || failed.Kind != kind):
			t.Errorf("%s: %.3000v", what, err)
		case how == "result" && !strings.Contains(out, "[REDACTED:S0]"):
			t.Errorf("%s: got %.1000s", what, out)
		}
	}
	resumes, waits := m.enqueue("resume", "globex"), m.waiting("wait", tenants...)
	for is := workflow.StateReady; is != workflow.StateWaiting; <-time.After(20 * time.Millisecond) { // nothing tells that it waits
		now, err := m.client.Get(t.Context(), resumes.ID)
		if is = now.State; err != nil || is == workflow.StateFailed || is == workflow.StateParked {
			t.Fatalf("it is %s: %v, %v", is, now.Err, err)
		}
	}
	m.memory("memory of a worker", first.Process.Pid)
	m.processes()
	if err := first.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	second := m.work("second")
	for _, run := range waits {
		if _, err := run.Result(t.Context()); err != nil {
			t.Errorf("after its worker was killed: %v", err)
		}
	}
	holds := m.waiting("hold", "globex")[0]
	if err := m.broker(second).Kill(); err != nil { // the next one has to know all that it did
		t.Fatal(err)
	}
	if err := m.admin.Revoke(t.Context(), identity.Revocation{Tenant: "globex", Kind: identity.KindKey, Target: "S0", State: identity.Hard}); err != nil {
		t.Fatal(err)
	}
	var failed *workflow.RecordedError
	if _, err := holds.Result(t.Context()); !errors.As(err, &failed) || failed.Kind != "revoked" {
		t.Errorf("after a revoke: %v", err)
	}
	// What is done needs no secret, whatever has become of it.
	if err := goOn.Send(t.Context(), m.client, resumes.ID, "now"); err != nil {
		t.Fatal(err)
	}
	if out, err := resumes.Result(t.Context()); err != nil || out != m.setup.Markers["plain"] {
		t.Errorf("a step that was done: %q, %v", out, err)
	}
	m.memory("memory of the other worker", second.Process.Pid)
	m.processes()
	if err := second.Process.Signal(syscall.SIGQUIT); err != nil { // it prints all goroutines
		t.Fatal(err)
	}
	_ = second.Wait()
	if text, err := os.ReadFile(filepath.Join(m.dir, "second.log")); err != nil || !strings.Contains(string(text), "SIGQUIT") {
		t.Errorf("it did not print its goroutines: %v", err)
	}
	m.database()
	m.files("Postgres log", m.pg, func(path string) bool { return path == filepath.Join(m.pg, "log") })
	m.files("WAL", m.pg, func(path string) bool { return strings.Contains(path, "/pg_wal/") })
	m.files("database files", m.pg, func(path string) bool { return strings.Contains(path, "/base/") })
	m.files("log of workers", m.dir, func(path string) bool { return strings.HasSuffix(path, ".log") })
	m.files("telemetry", m.dir, func(path string) bool { return filepath.Base(path) == "telemetry" })
	m.files("files", m.dir, func(path string) bool { return filepath.Base(path) != "setup.json" })
	for place, want := range map[string][]string{
		"memory of a worker": {"memory", "environ", "cmdline", "plain"}, "memory of the other worker": {"memory", "environ", "cmdline", "plain"},
		"processes": {"environ", "cmdline"}, "rows": {"plain"}, "audit": {"plain"}, "Postgres log": {"plain"}, "WAL": {"plain"}, "database files": {"plain"},
		"log of workers": {"log", "plain"}, "telemetry": {"metrics", "plain"}, "files": {"files"},
	} {
		for _, marker := range want {
			if !m.found[place]["marker "+marker] {
				t.Errorf("the search of %s cannot see: it found %v", place, slices.Sorted(maps.Keys(m.found[place])))
			}
		}
	}
}
