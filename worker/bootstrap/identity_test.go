package bootstrap_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stepward/stepward/audit"
	"github.com/stepward/stepward/identity"
	"github.com/stepward/stepward/identity/broker"
	"github.com/stepward/stepward/identity/filestore"
	"github.com/stepward/stepward/internal/testenv"
	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/sandbox/local"
	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/worker/bootstrap"
	"github.com/stepward/stepward/workflow"
)

// envStore is where the file store of the test's broker is.
const envStore = "BOOTSTRAP_TEST_STORE"

// token is what must be seen inside the sandbox, and nowhere else.
const token = "canary-9f4e1c7ab35d2086"

func hashed(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

// ship has a guest and a command that may use a secret. Both say what they were given
// by its hash.
var ship = workflow.DurableWorkflow[string, []string]{Name: "ship"}

var at = workflow.Progress[string]{Name: "at"}

var publish = workflow.NewStep("publish", func(ctx context.Context, what string) (string, error) {
	if what == "wait" {
		if err := at.SetInStep(ctx, "waiting"); err != nil {
			return "", err
		}
		<-ctx.Done()
		return "", ctx.Err()
	}
	if info, _ := workflow.StepInfoFrom(ctx); what == "wait once" && info.Attempt == 1 {
		err := at.SetInStep(ctx, "waiting")
		<-ctx.Done()
		return "", err
	}
	if start, err := os.ReadFile("/proc/self/environ"); bytes.Contains(start, []byte("canary")) || err != nil && !errors.Is(err, os.ErrPermission) {
		return "", fmt.Errorf("what others could see of the environment has the secret: %w", err)
	}
	if _, ok := os.LookupEnv("NOT_THERE"); ok {
		return "", errors.New("a secret that nobody has is there")
	}
	if err := at.SetInStep(ctx, "ghp_"+strings.Repeat("Ab1", 12)); err != nil { // which is nobody's
		return "", err
	}
	return hashed(os.Getenv("DEPLOY_TOKEN")) + " " + os.Getenv("REGION"), nil
}, workflow.StepOptions{Mode: workflow.Identity, Secrets: []string{"DEPLOY_TOKEN", "REGION", "NOT_THERE?"}, Retry: workflow.Retry{MaxAttempts: 1}})

var drive = workflow.NewToolStep("drive", func(ctx context.Context, sb *sandbox.Sandbox, _ string) (string, error) {
	plain, err := sb.Command("sh", "-c", "echo ${DEPLOY_TOKEN-none}").Output(ctx)
	if err != nil || string(plain) != "none\n" {
		return "", fmt.Errorf("a command that asked for nothing has %q: %w", plain, err)
	}
	denied := sb.Command("cat", "/dev/null")
	denied.Secrets = []string{"DEPLOY_TOKEN"}
	if err := denied.Run(ctx); !errors.Is(err, sandbox.ErrSecret) {
		return "", fmt.Errorf("a command that may not have the secret: %w", err)
	}
	shown := sb.Command("sh", "-c", `echo "$DEPLOY_TOKEN"; printf %s "$DEPLOY_TOKEN" | base64`)
	shown.Secrets = []string{"DEPLOY_TOKEN"}
	if out, err := shown.Output(ctx); err != nil || strings.Count(string(out), "[REDACTED:DEPLOY_TOKEN]") != 2 {
		return "", fmt.Errorf("a command that shows what it has: %q, %w", out, err)
	}
	c := sb.Command("sh", "-c", `printf %s "$DEPLOY_TOKEN" | sha256sum`)
	c.Secrets = []string{"DEPLOY_TOKEN"}
	out, err := c.Output(ctx)
	return strings.Fields(string(out) + " none")[0], err
}, workflow.StepOptions{Mode: workflow.Identity, Secrets: []string{"DEPLOY_TOKEN"}, Retry: workflow.Retry{MaxAttempts: 1}})

var shipV1 = workflow.Define(ship, func(ctx workflow.Context, what string) ([]string, error) {
	guest, err := publish.Run(ctx, what)
	if err != nil {
		return nil, err
	}
	tool, err := drive.Run(ctx, what)
	return []string{guest, tool}, err
}, workflow.Options{Steps: []workflow.Declared{publish, drive}})

// words are what the worker's log has.
type said struct {
	mu   sync.Mutex
	b    bytes.Buffer
	more chan struct{} // there is
}

func (l *said) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case l.more <- struct{}{}:
	default:
	}
	return l.b.Write(p)
}

func (l *said) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// await waits for a text.
func (l *said) await(t *testing.T, text string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for !strings.Contains(l.String(), text) {
		select {
		case <-l.more:
		case <-ctx.Done():
			t.Fatalf("%q was not said:\n%s", text, l)
		}
	}
}

// harbour is a worker with tenants that have something to ship with.
type harbour struct {
	client   *workflow.Client
	cfg      worker.Config
	profiles *identity.Profiles
	log      *said
	stop     func()
}

func newHarbour(t *testing.T, cfg worker.Config) harbour {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "store")
	t.Setenv(envStore, dir)
	s, err := filestore.Open(filestore.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, tenant := range []string{"acme", "globex"} {
		if _, err := s.Put(t.Context(), tenant, "deploy-token", []byte(token+tenant)); err != nil {
			t.Fatal(err)
		}
	}
	h := harbour{log: &said{more: make(chan struct{}, 1)}}
	cfg.Logger = slog.New(slog.NewTextHandler(h.log, nil))
	h.client, h.cfg, h.stop = starts(t, cfg)
	if h.profiles, err = identity.New(h.cfg.Pool, identity.Options{Schema: h.cfg.Schema}); err != nil {
		t.Fatal(err)
	}
	for _, tenant := range []string{"acme", "globex"} {
		err := h.profiles.Put(t.Context(), identity.Profile{Name: "main", Scope: identity.Scope{Tenant: tenant}, Keys: map[string]identity.Key{
			"DEPLOY_TOKEN": {Ref: "file://deploy-token", Commands: []string{"sh"}}, "REGION": {Knob: "eu-" + tenant},
		}})
		if err != nil {
			t.Fatal(err)
		}
	}
	return h
}

// awaitWaiting returns when the guest of a run waits.
func (h harbour) awaitWaiting(t *testing.T, run workflow.RunID) {
	t.Helper()
	testenv.Eventually(t, "the guest waits", func() bool {
		v, _, _ := at.Get(t.Context(), h.client, run) // a run that is not there shows nothing
		return v == "waiting"
	})
}

// claimers are the workers that have claimed a run, in order.
func (h harbour) claimers(t *testing.T, run workflow.RunID) (names string) {
	t.Helper()
	err := h.cfg.Pool.QueryRow(t.Context(), `SELECT coalesce(string_agg(w.name, ' ' ORDER BY c.epoch), '') FROM `+h.cfg.Schema+`.claim c JOIN `+h.cfg.Schema+`.worker w USING (session) WHERE c.run_id = $1`,
		int64(run)).Scan(&names)
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// sandboxes is how many a worker has made.
func (h harbour) sandboxes(t *testing.T, worker string) (n int) {
	t.Helper()
	err := h.cfg.Pool.QueryRow(t.Context(), `SELECT count(*) FROM `+h.cfg.Schema+`.sandbox JOIN `+h.cfg.Schema+`.worker w USING (session) WHERE w.name = $1`, worker).Scan(&n)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// Each tenant's guests and commands have that tenant's secrets in the sandbox, with nothing set up
// but a file store; all that is on record of it has none, and neither has the worker's log. What the
// worker has under the same name is not taken.
func TestIdentity(t *testing.T) {
	t.Setenv("DEPLOY_TOKEN", "the worker's own")
	t.Setenv("NOT_THERE", "the worker's own")
	h := newHarbour(t, worker.Config{})
	for _, tenant := range []string{"acme", "globex"} {
		run, err := ship.Enqueue(t.Context(), h.client, "now", workflow.EnqueueOptions{Tenant: tenant})
		if err != nil {
			t.Fatal(err)
		}
		out, err := outcome(t, h.client, run)
		if err != nil {
			t.Fatalf("%v\n%s", err, h.log)
		}
		want := hashed(token + tenant)
		if len(out) != 2 || out[0] != want+" eu-"+tenant || out[1] != want {
			t.Errorf("%s: got %q, want %s", tenant, out, want)
		}
		events, err := audit.Events(t.Context(), h.cfg.Pool, audit.Filter{Schema: h.cfg.Schema, Run: run.ID})
		if err != nil {
			t.Fatal(err)
		}
		seen := make(map[string]int)
		for _, e := range events {
			seen[e.Kind]++
			if e.Kind == "envelope.issued" && (!strings.Contains(string(e.Detail), "L1-dev") || !strings.Contains(string(e.Detail), "DEPLOY_TOKEN")) {
				t.Errorf("got %s", e.Detail)
			}
		}
		if seen["envelope.issued"] != 2 || seen["envelope.opened"] != 2 {
			t.Errorf("got %v", seen)
		}
	}
	h.stop()
	events, err := audit.Events(t.Context(), h.cfg.Pool, audit.Filter{Schema: h.cfg.Schema})
	if err != nil {
		t.Fatal(err)
	}
	gone, of, steps, closed := make(map[string]bool), make(map[string]string), make(map[string]string), 0
	told := map[string][]string{"publish": {`"suspected"`, `"github-token"`}, "drive": {`"redacted"`, `"DEPLOY_TOKEN"`, `"raw"`, `"base64"`}}
	for _, e := range events {
		var about struct{ Sandbox, Envelope string }
		if err := json.Unmarshal(e.Detail, &about); err != nil && e.Detail != nil {
			t.Fatal(err)
		}
		switch e.Kind {
		case "envelope.issued":
			of[about.Envelope], steps[about.Sandbox] = about.Sandbox, e.Step
		case audit.SandboxDestroyed:
			gone[about.Sandbox] = true
			for _, want := range told[steps[about.Sandbox]] {
				if !strings.Contains(string(e.Detail), want) {
					t.Errorf("%s: the end of its sandbox has no %s: %s", steps[about.Sandbox], want, e.Detail)
				}
			}
		case "envelope.closed":
			if closed++; !gone[of[about.Envelope]] {
				t.Errorf("the broker was told that an attempt is over when its sandbox was there: %s of %v", e.Step, e.Run)
			}
		}
	}
	if closed != 4 {
		t.Errorf("%d envelopes were closed", closed)
	}
	if strings.Contains(h.log.String(), "canary") {
		t.Errorf("the log has the secret:\n%s", h.log)
	}
}

// A tenant whose store has not what its profile refers to gets nothing in part, nor what the worker has, and
// its run says what is missing.
func TestIdentityMissing(t *testing.T) {
	t.Setenv("DEPLOY_TOKEN", "the worker's own")
	h := newHarbour(t, worker.Config{})
	err := h.profiles.Put(t.Context(), identity.Profile{Name: "main", Scope: identity.Scope{Tenant: "initech"}, Keys: map[string]identity.Key{
		"DEPLOY_TOKEN": {Ref: "file://deploy-token"}, "REGION": {Knob: "eu"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	run, err := ship.Enqueue(t.Context(), h.client, "now", workflow.EnqueueOptions{Tenant: "initech"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = outcome(t, h.client, run)
	var failed *workflow.RecordedError
	if !errors.As(err, &failed) || failed.Kind != "identity" || errors.Is(err, identity.ErrRevoked) || !failed.Permanent || !strings.Contains(failed.Message, "DEPLOY_TOKEN") {
		t.Errorf("got %+v, %v", failed, err)
	}
}

// What runs with a secret that is revoked hard is stopped, and so is its run.
func TestIdentityRevoked(t *testing.T) {
	h := newHarbour(t, worker.Config{})
	run, err := ship.Enqueue(t.Context(), h.client, "wait", workflow.EnqueueOptions{Tenant: "acme"})
	if err != nil {
		t.Fatal(err)
	}
	h.awaitWaiting(t, run.ID)
	err = h.profiles.Revoke(t.Context(), identity.Revocation{Tenant: "acme", Kind: identity.KindKey, Target: "DEPLOY_TOKEN", State: identity.Hard})
	if err != nil {
		t.Fatal(err)
	}
	_, err = outcome(t, h.client, run)
	var failed *workflow.RecordedError
	if !errors.As(err, &failed) || failed.Kind != "revoked" || !errors.Is(err, identity.ErrRevoked) || !failed.Permanent {
		t.Errorf("got %+v, %v", failed, err)
	}
}

// A worker that is revoked while it has a run with secrets hands it to another, which the step's only attempt does
// not pay for, and takes no other such run. One that is revoked softly hands back what it would begin.
func TestIdentityWorkerRevoked(t *testing.T) {
	first, second := &worker.Health{}, &worker.Health{}
	h := newHarbour(t, worker.Config{Name: "first", Health: first})
	cfg := h.cfg
	revoke := func(name string, state identity.State) {
		t.Helper()
		if err := h.profiles.Revoke(t.Context(), identity.Revocation{Kind: identity.KindWorker, Target: name, State: state}); err != nil {
			t.Fatal(err)
		}
	}
	enqueue := func(what string) workflow.Run[[]string] {
		t.Helper()
		run, err := ship.Enqueue(t.Context(), h.client, what, workflow.EnqueueOptions{Tenant: "acme"})
		if err != nil {
			t.Fatal(err)
		}
		return run
	}
	ends := func(run workflow.Run[[]string], claimers string) {
		t.Helper()
		out, err := outcome(t, h.client, run)
		if want := hashed(token + "acme"); err != nil || len(out) != 2 || out[1] != want {
			t.Fatalf("got %q, %v\n%s", out, err, h.log)
		}
		if got := h.claimers(t, run.ID); got != claimers {
			t.Errorf("it was claimed by %q, want %q", got, claimers)
		}
	}
	run := enqueue("wait once")
	h.awaitWaiting(t, run.ID)
	cfg.Name, cfg.Health = "second", second
	work(t, cfg)
	revoke("first", identity.Hard)
	ends(run, "first second")
	ends(enqueue("now"), "second")
	if r, ok := first.Report(); !ok || !r.Revoked {
		t.Errorf("got %+v", r)
	}
	if r, ok := second.Report(); !ok || r.Revoked {
		t.Errorf("got %+v", r)
	}
	if said := "this worker is revoked"; strings.Count(h.log.String(), said) != 1 {
		t.Errorf("the log has %q not once:\n%s", said, h.log)
	}

	revoke("second", identity.Soft)
	run = enqueue("now")
	becomes(t, h.client, run.ID, "no_worker")
	cfg.Name, cfg.Health = "third", nil
	work(t, cfg)
	ends(run, "second third")
}

// lasting is a backend whose sandboxes others can open.
type lasting struct{ sandbox.Backend }

func (l lasting) Probe(ctx context.Context) (sandbox.Capabilities, error) {
	c, err := l.Backend.Probe(ctx)
	c.Persistent = true
	return c, err
}

// A worker whose broker does not start, or has not the store, hands its runs to those whose broker may do better, and leaves
// more of them alone for a time. Nobody has to resume any. Where no other worker is left, the run is parked. No sandbox
// that has heard of a broker is handed to one with another key.
func TestIdentityElsewhere(t *testing.T) {
	good := filepath.Join(sockets(t), "good")
	h := newHarbour(t, worker.Config{Name: "good", Broker: "unix://" + good, Backends: []sandbox.Backend{lasting{local.New(local.Config{})}}})
	file, err := bootstrap.FileStore(os.Getenv(envStore))(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	file.Pool, file.Schema = h.cfg.Pool, h.cfg.Schema
	serveBroker(t, good, file)
	other := file
	other.Dir = filepath.Join(t.TempDir(), "root")
	other.Stores = map[string]broker.Store{"vault": file.Stores["file"]}
	bad := filepath.Join(sockets(t), "bad")
	serveBroker(t, bad, other)
	none, err := bootstrap.FileStore(filepath.Join(t.TempDir(), "store"))(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	none.Pool, none.Schema, none.Dir = h.cfg.Pool, h.cfg.Schema, filepath.Join(t.TempDir(), "root")
	empty := filepath.Join(sockets(t), "empty")
	serveBroker(t, empty, none)
	t.Setenv(envStore, filepath.Join(os.Args[0], "no directory")) // of brokers that are children

	const said = "is handed to another worker"
	works := func(t *testing.T, cfg worker.Config) func() {
		before := strings.Count(h.log.String(), said)
		cfg.Health = &worker.Health{}
		stop := work(t, cfg)
		lacks := func() string {
			r, _ := cfg.Health.Report()
			return r.Lacks
		}
		if got := lacks(); got != "" { // the control
			t.Errorf("it lacks %q", got)
		}
		for strings.Count(h.log.String(), said) == before { // until it was the one that claims first
			run, err := ship.Enqueue(t.Context(), h.client, "now", workflow.EnqueueOptions{Tenant: "acme"})
			if err != nil {
				t.Fatal(err)
			}
			if out, err := outcome(t, h.client, run); err != nil || len(out) != 2 {
				t.Fatalf("got %q, %v\n%s", out, err, h.log)
			}
			if got := h.claimers(t, run.ID); !strings.HasSuffix(got, "good") {
				t.Errorf("it was claimed by %q", got)
			}
		}
		if got := lacks(); got == "" {
			t.Error("it does not say what it lacks")
		}
		return stop
	}
	cfg := h.cfg
	cfg.Name, cfg.Broker = "no store", "unix://"+bad
	works(t, cfg)()
	cfg.Name, cfg.Broker = "empty store", "unix://"+empty
	works(t, cfg)()
	if goesOn := "going on in the sandbox of another worker"; strings.Contains(h.log.String(), goesOn) {
		t.Errorf("the log has %q:\n%s", goesOn, h.log)
	}
	cfg.Name, cfg.Broker = "no broker", ""
	works(t, cfg)
	for name, made := range map[string]bool{"no store": false, "no broker": false, "empty store": true} { // what a store has is known only when it is asked
		if n := h.sandboxes(t, name); (n > 0) != made {
			t.Errorf("worker %s has made %d sandboxes", name, n)
		}
	}
	parks := func(o workflow.EnqueueOptions, reasons ...string) {
		t.Helper()
		run, err := ship.Enqueue(t.Context(), h.client, "now", o)
		if err != nil {
			t.Fatal(err)
		}
		if why := becomes(t, h.client, run.ID, "parked"); !slices.Contains(reasons, why.Key) {
			t.Errorf("it is parked as %s", why)
		}
	}
	err = h.profiles.Put(t.Context(), identity.Profile{Name: "strict", Scope: identity.Scope{Tenant: "globex", Project: "strict"}, Keys: map[string]identity.Key{"REGION": {MinLevel: identity.L2}}})
	if err != nil {
		t.Fatal(err)
	}
	parks(workflow.EnqueueOptions{Tenant: "globex", Project: "strict"}, "level", "broker") // neither can promise that
	h.stop()
	parks(workflow.EnqueueOptions{Tenant: "acme"}, "broker") // there is no other
}

// What only a full worker has a broker for waits for it, while one that lacks that takes everything else: it makes no sandbox
// for such a run, and asks for it less often each time. As soon as the other has a place, the run goes on there.
func TestIdentityWaitsForFull(t *testing.T) {
	able := filepath.Join(sockets(t), "able")
	h := newHarbour(t, worker.Config{Name: "able", MaxRuns: 1, Broker: "unix://" + able})
	cfg, err := bootstrap.FileStore(os.Getenv(envStore))(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	cfg.Pool, cfg.Schema = h.cfg.Pool, h.cfg.Schema
	serveBroker(t, able, cfg)
	enqueue := func(what string, o workflow.EnqueueOptions) workflow.Run[[]string] {
		t.Helper()
		run, err := ship.Enqueue(t.Context(), h.client, what, o)
		if err != nil {
			t.Fatal(err)
		}
		return run
	}
	long := enqueue("wait", workflow.EnqueueOptions{Tenant: "acme"})
	h.awaitWaiting(t, long.ID)

	lacking := filepath.Join(sockets(t), "lacking")
	cfg.Dir = filepath.Join(t.TempDir(), "root")
	cfg.Stores = map[string]broker.Store{"vault": cfg.Stores["file"]}
	serveBroker(t, lacking, cfg)
	for _, scope := range []identity.Scope{{Tenant: "globex", Project: "own"}, {Tenant: "acme", Project: "own"}} {
		err := h.profiles.Put(t.Context(), identity.Profile{Name: "own", Scope: scope, Keys: map[string]identity.Key{"DEPLOY_TOKEN": {Ref: "vault://deploy-token", Commands: []string{"sh"}}}})
		if err != nil {
			t.Fatal(err)
		}
	}
	other := h.cfg
	other.Name, other.MaxRuns, other.Broker = "lacking", 1, "unix://"+lacking
	work(t, other)
	run := enqueue("now", workflow.EnqueueOptions{Tenant: "acme"})
	h.log.await(t, "is handed to another worker")
	for _, tenant := range []string{"globex", "acme"} {
		own := enqueue("now", workflow.EnqueueOptions{Tenant: tenant, Project: "own"})
		if out, err := own.Result(t.Context()); err != nil || len(out) != 2 || h.claimers(t, own.ID) != "lacking" {
			t.Fatalf("%s: got %q, %v, of %q\n%s", tenant, out, err, h.claimers(t, own.ID), h.log)
		}
	}
	for strings.Count(h.claimers(t, run.ID), "lacking") < 3 {
	}
	var gaps []float64 // seconds between the first claims
	var boxes int
	err = h.cfg.Pool.QueryRow(t.Context(), `SELECT array_agg(gap ORDER BY epoch), (SELECT count(*) FROM `+h.cfg.Schema+`.sandbox WHERE run_id = $1)
		FROM (SELECT epoch, extract(epoch FROM at - lag(at) OVER (ORDER BY epoch))::float8 AS gap FROM `+h.cfg.Schema+`.claim WHERE run_id = $1) c WHERE gap IS NOT NULL`, int64(run.ID)).Scan(&gaps, &boxes)
	if err != nil {
		t.Fatal(err)
	}
	if boxes != 0 || len(gaps) < 2 || gaps[0] < 1 || gaps[1] < 2 {
		t.Errorf("%d sandboxes; it was claimed again after %v s", boxes, gaps)
	}
	if err := h.client.Cancel(t.Context(), long.ID); err != nil {
		t.Fatal(err)
	}
	if out, err := run.Result(t.Context()); err != nil || len(out) != 2 || !strings.HasSuffix(h.claimers(t, run.ID), "lacking able") {
		t.Fatalf("got %q, %v, of %q\n%s", out, err, h.claimers(t, run.ID), h.log)
	}
}

// openable is a store that is empty until it is opened.
type openable struct {
	broker.Store

	open atomic.Bool
}

func (s *openable) Get(ctx context.Context, r broker.Request) (broker.Value, error) {
	if !s.open.Load() {
		return broker.Value{}, broker.ErrEmpty
	}
	return s.Store.Get(ctx, r)
}

// While a worker leaves a run to others, Why says so, until when and for want of what. Once its broker can give what it could not,
// nothing says any more that it lacks that: not its row, which other workers go by, nor its report, nor Why.
func TestIdentityMended(t *testing.T) {
	able := filepath.Join(sockets(t), "able")
	h := newHarbour(t, worker.Config{Name: "able", MaxRuns: 1, Broker: "unix://" + able})
	cfg, err := bootstrap.FileStore(os.Getenv(envStore))(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	cfg.Pool, cfg.Schema = h.cfg.Pool, h.cfg.Schema
	serveBroker(t, able, cfg)
	enqueue := func(what string) workflow.Run[[]string] {
		t.Helper()
		run, err := ship.Enqueue(t.Context(), h.client, what, workflow.EnqueueOptions{Tenant: "acme"})
		if err != nil {
			t.Fatal(err)
		}
		return run
	}
	long := enqueue("wait")
	h.awaitWaiting(t, long.ID)

	store := &openable{Store: cfg.Stores["file"]}
	cfg.Dir, cfg.Stores = filepath.Join(t.TempDir(), "root"), map[string]broker.Store{"file": store}
	lacking := filepath.Join(sockets(t), "lacking")
	serveBroker(t, lacking, cfg)
	other := h.cfg
	other.Name, other.Broker, other.Health = "lacking", "unix://"+lacking, &worker.Health{}
	work(t, other)
	row := func() (lacks, passes string) {
		err := h.cfg.Pool.QueryRow(t.Context(), "SELECT lacks, passes FROM "+h.cfg.Schema+".worker WHERE name = 'lacking'").Scan(&lacks, &passes)
		if err != nil {
			t.Fatal(err)
		}
		return lacks, passes
	}
	run := enqueue("now")
	var why workflow.Why
	testenv.Eventually(t, "the run is left to others", func() bool {
		why, err = h.client.Why(t.Context(), run.ID)
		return err == nil && why.Cause == "full" && strings.Contains(why.String(), "leaves it")
	})
	for _, want := range []string{"it is ready, worker lacking leaves it to others until 2", "Z (its broker has not the store of DEPLOY_TOKEN), and able, with ship@", "hold 1 of 1 runs"} {
		if !strings.Contains(why.String(), want) {
			t.Errorf("%q does not say %q", why, want)
		}
	}
	lacks, passes := row()
	if r, _ := other.Health.Report(); r.Lacks == "" || !strings.Contains(lacks, "store DEPLOY_TOKEN acme") || !strings.Contains(passes, "ship acme") { // the control
		t.Errorf("it lacks %s, reports %q and leaves %s to others", lacks, r.Lacks, passes)
	}
	store.open.Store(true)
	if out, err := run.Result(t.Context()); err != nil || len(out) != 2 || !strings.HasSuffix(h.claimers(t, run.ID), "lacking") {
		t.Fatalf("got %q, %v, of %q\n%s", out, err, h.claimers(t, run.ID), h.log)
	}
	lacks, passes = row()
	if r, _ := other.Health.Report(); r.Lacks != "" || lacks != "{}" || passes != "{}" {
		t.Errorf("it still lacks %s, reports %q and leaves %s to others", lacks, r.Lacks, passes)
	}
}

// sockets returns a directory whose name is short.
func sockets(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "broker")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// serveBroker serves a broker until the test ends, which may be before its workers do.
func serveBroker(t *testing.T, path string, cfg broker.Config) {
	t.Helper()
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- broker.Serve(ctx, ln, cfg) }()
	testenv.Stopper(t, "broker.Serve", stop, done)
}

// A broker that is away uses up no attempt: the step has one, which waits.
func TestIdentityBrokerAway(t *testing.T) {
	dir, err := os.MkdirTemp("", "broker") // short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	h := newHarbour(t, worker.Config{Broker: "unix://" + path})
	run, err := ship.Enqueue(t.Context(), h.client, "now", workflow.EnqueueOptions{Tenant: "acme"})
	if err != nil {
		t.Fatal(err)
	}
	h.log.await(t, "waiting for the broker")
	cfg, err := bootstrap.FileStore(os.Getenv(envStore))(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	cfg.Pool, cfg.Schema = h.cfg.Pool, h.cfg.Schema
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- broker.Serve(ctx, ln, cfg) }()
	stop := testenv.Stopper(t, "broker.Serve", cancel, done)
	out, err := outcome(t, h.client, run)
	if want := hashed(token + "acme"); err != nil || len(out) != 2 || out[1] != want {
		t.Errorf("got %q, %v\n%s", out, err, h.log)
	}
	h.stop()
	stop()
}
