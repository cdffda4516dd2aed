package db_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/stepward/stepward/audit"
	"github.com/stepward/stepward/internal/db"
	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
)

var shaky = workflow.NewStep("shaky", func(ctx context.Context, n int) (int, error) {
	if info, _ := workflow.StepInfoFrom(ctx); info.Attempt == 1 {
		return 0, errors.New("not yet")
	}
	return n + 1, nil
}, workflow.StepOptions{Retry: workflow.Retry{Backoff: time.Millisecond}})

var count = workflow.DurableWorkflow[int, int]{Name: "count"}

var countV1 = workflow.Define(count, func(ctx workflow.Context, n int) (int, error) {
	for range 3 {
		var err error
		if n, err = shaky.Run(ctx, n); err != nil {
			return 0, err
		}
	}
	return n, nil
}, workflow.Options{Steps: []workflow.Declared{shaky}})

// role makes a role without any rights, and a pool whose every connection is
// made as that role, those that are opened from its configuration included.
func role(t *testing.T, owner *pgxpool.Pool, name string) *pgxpool.Pool {
	t.Helper()
	id := pgx.Identifier{name}.Sanitize()
	if _, err := owner.Exec(t.Context(), "CREATE ROLE "+id); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := owner.Exec(context.Background(), "DROP OWNED BY "+id+"; DROP ROLE "+id); err != nil {
			t.Error(err)
		}
	})
	cfg := owner.Config()
	cfg.ConnConfig.RuntimeParams["role"] = name
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// problems keeps what is logged as a warning or worse.
type problems struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (p *problems) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.b.Write(b)
}

func (p *problems) String() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.b.String()
}

func (p *problems) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(p, &slog.HandlerOptions{Level: slog.LevelWarn}))
}

// work runs a worker until the function that it returns is called.
func work(t *testing.T, cfg worker.Config) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- worker.Run(ctx, cfg) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("worker.Run: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

var (
	word = workflow.NewSignal[int]("word")
	said = workflow.Stream[int]{Name: "said"}
	loud = workflow.Progress[int]{Name: "loud"}
	talk = workflow.DurableWorkflow[int, int]{Name: "talk"}
)

// talkV1 waits for a signal, shows something, calls a child and begins anew: what a plain run
// does not write.
var talkV1 = workflow.Define(talk, func(ctx workflow.Context, n int) (int, error) {
	if n == 0 {
		return count.Run(ctx, 5)
	}
	if _, err := word.Receive(ctx, 0); err != nil {
		return 0, err
	}
	if err := errors.Join(said.Append(ctx, n), loud.Set(ctx, n), ctx.SetAttribute("loud", n)); err != nil {
		return 0, err
	}
	return 0, talk.ContinueAsNew(0)
}, workflow.Options{})

// Each role has the rights for its work and not those for the other's.
func TestGrants(t *testing.T) {
	owner, q := db.Migrated(t)
	ctx := t.Context()
	clients, workers := role(t, owner, q.Schema+` "client"`), role(t, owner, q.Schema+" Worker")

	client, err := workflow.NewClient(workflow.ClientConfig{Pool: clients, Schema: q.Schema})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := count.Enqueue(ctx, client, 1, workflow.EnqueueOptions{}); !refused(err) {
		t.Fatalf("a role without grants enqueues: %v", err)
	}
	o := workflow.MigrateOptions{Schema: q.Schema, ClientRole: q.Schema + ` "client"`, WorkerRole: q.Schema + " Worker"}
	for range 2 { // granting twice is no error
		if err := workflow.Migrate(ctx, owner, o); err != nil {
			t.Fatal(err)
		}
	}

	t.Run("work", func(t *testing.T) {
		if err := client.Check(ctx); err != nil {
			t.Error(err)
		}
		early, err := count.Enqueue(ctx, client, 1, workflow.EnqueueOptions{Tenant: "acme", Key: "early"}) // not defined yet
		if err != nil {
			t.Fatal(err)
		}
		canceled, err := count.Enqueue(ctx, client, 1, workflow.EnqueueOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if err := canceled.Cancel(ctx); err != nil {
			t.Fatal(err)
		}
		var unknown *workflow.DefinitionError
		if err := client.Repin(ctx, early.ID, "1"); !errors.As(err, &unknown) {
			t.Errorf("got %v", err)
		}
		for _, verb := range []func(context.Context, workflow.RunID) error{client.Retry, client.Pause, client.Resume, client.Terminate} {
			if err := verb(ctx, canceled.ID); err != nil {
				t.Error(err)
			}
		}
		parked, err := count.Enqueue(ctx, client, 5, workflow.EnqueueOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := owner.Exec(ctx, q.In("WITH r AS (DELETE FROM stepward.ready WHERE run_id = $1 RETURNING *) INSERT INTO stepward.parked SELECT run_id, requirement_id, 'crashed', '{}' FROM r"), int64(parked.ID)); err != nil {
			t.Fatal(err)
		}
		if err := client.Resume(ctx, parked.ID); err != nil {
			t.Fatal(err)
		}
		var log problems
		stop := work(t, worker.Config{Pool: workers, Schema: q.Schema, Retention: worker.Retention{Completed: time.Hour}, Workflows: []*workflow.Definition{countV1, talkV1}, Logger: log.logger()})
		if out, err := early.Result(ctx); err != nil || out != 4 {
			t.Errorf("got %d, %v", out, err)
		}
		if out, err := parked.Result(ctx); err != nil || out != 8 {
			t.Errorf("got %d, %v", out, err)
		}
		heard, err := talk.Enqueue(ctx, client, 2, workflow.EnqueueOptions{Attributes: map[string]any{"loud": 0}})
		if err != nil {
			t.Fatal(err)
		}
		if err := word.Send(ctx, client, heard.ID, 3); err != nil {
			t.Fatal(err)
		}
		if out, err := heard.Result(ctx); err != nil || out != 8 {
			t.Errorf("got %d, %v", out, err)
		}
		for e, err := range said.Tail(ctx, client, heard.ID, 0) {
			if err != nil || e.Value != 2 {
				t.Errorf("got %+v, %v", e, err)
			}
		}
		if v, _, err := loud.Get(ctx, client, heard.ID); err != nil || v != 2 {
			t.Errorf("got %d, %v", v, err)
		}
		late, err := count.Enqueue(ctx, client, 2, workflow.EnqueueOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if out, err := late.Result(ctx); err != nil || out != 5 {
			t.Errorf("got %d, %v", out, err)
		}
		if again, err := count.Enqueue(ctx, client, 1, workflow.EnqueueOptions{Tenant: "acme", Key: "early"}); err != nil || again.ID != early.ID {
			t.Errorf("got %v, %v", again.ID, err)
		}
		listed := 0
		for _, err := range client.Runs(ctx, workflow.RunFilter{}) {
			if err != nil {
				t.Error(err)
			}
			listed++
		}
		if listed != 6 {
			t.Errorf("listed %d runs", listed)
		}
		if fork, err := client.Fork(ctx, early.ID, workflow.ForkOptions{From: "shaky#3"}); err != nil {
			t.Error(err)
		} else if out, err := count.Handle(client, fork).Result(ctx); err != nil || out != 4 {
			t.Errorf("got %d, %v", out, err)
		}
		// Results go into a run that is just being added, and into no other.
		var copied int
		if err := clients.QueryRow(ctx, q.In("SELECT stepward.fork($1, $2, 9, true, true)"), int64(early.ID), int64(late.ID)).Scan(&copied); err == nil {
			t.Error("a client put results into a run")
		}
		if steps, err := client.Steps(ctx, early.ID, 0); err != nil || len(steps) != 6 {
			t.Errorf("got %+v, %v", steps, err)
		}
		if events, err := audit.Events(ctx, clients, audit.Filter{Schema: q.Schema, Run: early.ID}); err != nil || len(events) < 9 {
			t.Errorf("got %+v, %v", events, err)
		}
		nightly, err := count.Schedule(ctx, client, 1, workflow.ScheduleOptions{Name: "nightly", Cron: "@daily", Overlap: "cancel"})
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range []func(context.Context) error{nightly.Pause, nightly.Resume} {
			if err := f(ctx); err != nil {
				t.Error(err)
			}
		}
		if _, err := nightly.Trigger(ctx); err != nil {
			t.Error(err)
		}
		if n, err := nightly.Backfill(ctx, time.Now().AddDate(0, 0, -2), time.Now()); err != nil || n != 2 {
			t.Errorf("added %d, %v", n, err)
		}
		if _, err := owner.Exec(ctx, q.In("UPDATE stepward.schedule SET tick_at = tick_at - interval '1 day', due_at = clock_timestamp()")); err != nil {
			t.Fatal(err)
		}
		for tick := time.Tick(5 * time.Millisecond); ctx.Err() == nil; <-tick {
			if s, err := nightly.Status(ctx); err != nil || s.Next.After(time.Now()) {
				break // what the worker may not do, it complains of
			}
		}
		if err := nightly.Delete(ctx); err != nil {
			t.Error(err)
		}
		stop()
		if s := log.String(); s != "" { // maintenance, sweeps and River included
			t.Errorf("the worker complained:\n%s", s)
		}
	})

	// Ids: a worker adds the runs that other River clients ask for.
	for who, pool := range map[string]*pgxpool.Pool{"client": clients, "worker": workers} {
		for _, sql := range []string{"SELECT stepward.next_id()", "SELECT nextval('stepward_river.river_job_id_seq')"} {
			if err := attempt(t, pool, q, sql); err != nil {
				t.Errorf("%s: %s: %v", who, sql, err)
			}
		}
	}

	// What only one of them may do; the other is the control.
	onlyWorker := []string{
		"INSERT INTO stepward.step (run_id, started_at, input_hash, seq, done, epoch, elapsed, attempt, mode, key) VALUES (1, now(), 0, 1, 1, 1, 0, 1, 0::\"char\", 'x')",
		"UPDATE stepward.attempt SET sandbox_id = 'x'",
		"INSERT INTO stepward.turn VALUES (1, 1, 1)",
		"INSERT INTO stepward.claim (run_id, epoch, session) VALUES (1, 1, 1)",
		"INSERT INTO stepward.timer VALUES (1, now())",
		"UPDATE stepward.ready SET since = now()",
		"UPDATE stepward.timer SET wake_at = now()",
		"UPDATE stepward.parked SET reason = 'x'",
		"INSERT INTO stepward.worker (session, name, lease_until, lease_s, requirements, backends) VALUES (1, 'x', now(), 10, '{}', '{}')",
		"UPDATE stepward.worker SET lease_until = now()",
		"INSERT INTO stepward.definition (workflow, version, requirement_id, steps) VALUES ('x', '1', 1, '')",
		"INSERT INTO stepward.sandbox (id, run_id, session, backend) VALUES ('x', 1, 1, 'x')",
		"UPDATE stepward.run SET output = ''",
		"UPDATE stepward.run SET input = ''",
		"DELETE FROM stepward.run",
		"DELETE FROM stepward.idempotency",
		"INSERT INTO stepward.wait (run_id, seq, key) VALUES (1, 1, 'x')",
		"UPDATE stepward.signal SET payload = ''",
		"DELETE FROM stepward.notice",
		"INSERT INTO stepward.entry (run_id, attempt, stream, step, payload) VALUES (1, 1, 'x', 'x', '')",
		"UPDATE stepward.progress SET value = ''",
		"UPDATE stepward.attribute SET value = ''",
		"DELETE FROM stepward.shown",
		"UPDATE stepward_river.river_job SET priority = 2",
		"DELETE FROM stepward_river.river_job",
	}
	for _, sql := range onlyWorker {
		if err := attempt(t, clients, q, sql); !refused(err) {
			t.Errorf("client: %s: got %v", sql, err)
		}
		if err := attempt(t, workers, q, sql); err != nil {
			t.Errorf("worker: %s: %v", sql, err)
		}
	}
	// What a fork reproduces is the record's word, and nobody's else.
	for who, pool := range map[string]*pgxpool.Pool{"client": clients, "worker": workers} {
		for _, sql := range []string{"INSERT INTO stepward.binding (run_id, body, pins) VALUES (1, '{}', '{}')", "UPDATE stepward.binding SET pins = NULL"} {
			if err := attempt(t, pool, q, sql); !refused(err) {
				t.Errorf("%s: %s: got %v", who, sql, err)
			}
		}
	}
	// What is administered with a client's role: a worker gives itself no secret.
	for _, sql := range []string{
		"INSERT INTO stepward.profile (tenant, name, project, environment, workflow, step, actor, keys) VALUES ('x', 'x', '', '', '', '', 'x', '{}')",
		"UPDATE stepward.profile SET keys = '{}'",
		"DELETE FROM stepward.profile",
		"INSERT INTO stepward.policy (digest, body) VALUES ('x', 'x')",
		"INSERT INTO stepward.revocation (tenant, epoch, kind, target, version, state, drain, actor, reason) VALUES ('x', 1, 'key', 'x', '1', 0, false, 'x', '')",
		"UPDATE stepward.identity_epoch SET epoch = epoch + 1",
	} {
		if err := attempt(t, workers, q, sql); !refused(err) {
			t.Errorf("worker: %s: got %v", sql, err)
		}
		if err := attempt(t, clients, q, sql); err != nil {
			t.Errorf("client: %s: %v", sql, err)
		}
	}
	// What neither may do: a record is written once, and the schema is its owner's.
	onlyOwner := []string{
		"UPDATE stepward.step SET output = ''",
		"UPDATE stepward.event SET actor = 'x'",
		"DELETE FROM stepward.event",
		"UPDATE stepward.policy SET body = ''",
		"DELETE FROM stepward.policy",
		"UPDATE stepward.claim SET session = 1",
		"DELETE FROM stepward.claim",
		"UPDATE stepward.revocation SET state = 0",
		"DELETE FROM stepward.revocation",
		"INSERT INTO stepward.migration (version) VALUES (99)",
		"DELETE FROM stepward.migration",
		"TRUNCATE stepward.run",
		"DROP TABLE stepward.event CASCADE",
		"CREATE TABLE stepward.extra ()",
		"CREATE TABLE stepward_river.extra ()",
	}
	for _, sql := range onlyOwner {
		for who, pool := range map[string]*pgxpool.Pool{"client": clients, "worker": workers} {
			if err := attempt(t, pool, q, sql); !refused(err) {
				t.Errorf("%s: %s: got %v", who, sql, err)
			}
		}
		if err := attempt(t, owner, q, sql); err != nil {
			t.Errorf("owner: %s: %v", sql, err)
		}
	}
}

// A broker of its own reads what it decides by and records what it issues, and nothing else.
func TestGrantsOfBroker(t *testing.T) {
	owner, q := db.Migrated(t)
	clients, workers, brokers := role(t, owner, q.Schema+"_clients"), role(t, owner, q.Schema+"_workers"), role(t, owner, q.Schema+` "broker"`)
	o := workflow.MigrateOptions{Schema: q.Schema, ClientRole: q.Schema + "_clients", WorkerRole: q.Schema + "_workers", BrokerRole: q.Schema + ` "broker"`}
	if err := workflow.Migrate(t.Context(), owner, o); err != nil {
		t.Fatal(err)
	}
	if err := db.Check(t.Context(), brokers, q); err != nil {
		t.Error(err)
	}
	claim := []any{int64(1), 1, int64(1), 1, 1, "box"}
	for name, sql := range map[string]string{"IssueFacts": q.IssueFacts, "IssueCheck": q.IssueCheck, "IssueOpen": q.IssueOpen, "IssueOpened": q.IssueOpened, "IssueClose": q.IssueClose, "IssueSweep": q.IssueSweep, "IssueLeases": q.IssueLeases, "IssueReleased": q.IssueReleased, "IssuePut": q.IssuePut, "BindingGet": q.BindingGet, "IdentityApply": q.IdentityApply, "PolicyGet": q.PolicyGet, "Installation": q.Installation, "SandboxTenant": q.SandboxTenant} {
		args := claim
		switch name {
		case "IssueCheck":
			args = claim[:3]
		case "IssueOpen":
			args = []any{int64(1), 1, 1, "box"}
		case "IssueOpened", "IssueClose":
			args = slices.Concat(claim, []any{"broker"})
		case "IssuePut":
			args = slices.Concat(claim, []any{[]byte{1}, "L1", int64(0), "[]", []byte{1}, nil, "broker", int64(0), int64(0), ""})
		case "IssueSweep":
			args = []any{"broker"}
		case "IssueReleased":
			args = []any{[]byte{1}, []byte{1}, nil, "revoked", "", "broker", "[]"}
		case "IssueLeases", "Installation":
			args = nil
		case "BindingGet":
			args = []any{int64(1), "publish"}
		case "IdentityApply":
			args = []any{[]string{"acme"}, nil, nil, nil, nil, nil, true}
		case "SandboxTenant":
			args = []any{"box"}
		case "PolicyGet":
			args = []any{[][]byte{{1}}}
		}
		if _, err := brokers.Exec(t.Context(), sql, args...); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, sql := range []string{
		"UPDATE stepward.run SET state = 'failed'",
		"SELECT input FROM stepward.run",
		"SELECT output FROM stepward.step",
		"INSERT INTO stepward.issue (id, run_id, seq, attempt, step, sandbox_id, level, revocation, pins, renewal) VALUES ('x', 1, 1, 1, 'x', 'x', 'L1', 0, '[]', 'x')",
		"UPDATE stepward.issue SET pins = '[]'",
		"DELETE FROM stepward.issue",
		"DELETE FROM stepward.event",
	} {
		if err := attempt(t, brokers, q, sql); !refused(err) {
			t.Errorf("broker: %s: got %v", sql, err)
		}
	}
	for sql, may := range map[string]bool{
		"SELECT pins FROM stepward.issue":                                                             true,
		"SELECT lease_state, lease_tries, lease_error FROM stepward.issue":                            true,
		"SELECT leases FROM stepward.issue":                                                           false,
		"SELECT renewal FROM stepward.issue":                                                          false,
		"UPDATE stepward.issue SET opened_at = NULL":                                                  false,
		"SELECT stepward.put_issue(1, 1, 1, 1, 1, 'x', 'x', 'L1', 0, '[]', 'x', NULL, 'x', 0, 0, '')": false,
	} {
		if err := attempt(t, clients, q, sql); refused(err) == may || may && err != nil {
			t.Errorf("client: %s: got %v", sql, err)
		}
	}
	// A worker's role may write that record only where the worker's child is the broker.
	child := role(t, owner, q.Schema+"_children")
	if err := workflow.Migrate(t.Context(), owner, workflow.MigrateOptions{Schema: q.Schema, WorkerRole: q.Schema + "_children"}); err != nil {
		t.Fatal(err)
	}
	for _, sql := range []string{
		"SELECT stepward.put_issue(1, 1, 1, 1, 1, 'x', 'x', 'L1', 0, '[]', 'x', NULL, 'x', 0, 0, '')",
		"INSERT INTO stepward.issue (id, run_id, seq, attempt, step, sandbox_id, level, revocation, pins, renewal) VALUES ('x', 1, 1, 1, 'x', 'x', 'L1', 0, '[]', 'x')",
		"UPDATE stepward.issue SET pins = '[]'",
		"UPDATE stepward.issue SET opened_at = NULL, closed_at = NULL, leases = NULL, tried_at = NULL",
		"DELETE FROM stepward.issue",
	} {
		if err := attempt(t, workers, q, sql); !refused(err) {
			t.Errorf("worker, beside a broker with a role of its own: %s: got %v", sql, err)
		}
		if err := attempt(t, child, q, sql); err != nil {
			t.Errorf("worker, whose child the broker is: %s: %v", sql, err)
		}
	}
	one := role(t, owner, q.Schema+"_both")
	if err := workflow.Migrate(t.Context(), owner, workflow.MigrateOptions{Schema: q.Schema, WorkerRole: q.Schema + "_both", BrokerRole: q.Schema + "_both"}); err != nil {
		t.Fatal(err)
	}
	if _, err := one.Exec(t.Context(), q.IssuePut, slices.Concat(claim, []any{[]byte{1}, "L1", int64(0), "[]", []byte{1}, nil, "broker", int64(0), int64(0), ""})...); err != nil {
		t.Errorf("one role for both: %v", err)
	}
}

// attempt runs a statement and takes it back.
func attempt(t *testing.T, pool *pgxpool.Pool, q *db.Queries, sql string) error {
	t.Helper()
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.Background())
	_, err = tx.Exec(t.Context(), q.In(sql))
	return err
}

// refused reports whether Postgres found that a right is missing.
func refused(err error) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && pgErr.Code == "42501"
}

func TestGrantToNobody(t *testing.T) {
	owner, q := db.Migrated(t)
	err := workflow.Migrate(t.Context(), owner, workflow.MigrateOptions{Schema: q.Schema, WorkerRole: q.Schema + "_nobody"})
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) || pgErr.Code != "42704" {
		t.Errorf("got %v", err)
	}
}

// The next version's migration changes tables in use. Workers of this version
// go on: no run is lost or fails, and none runs a step twice.
func TestMigrateUnderWorkers(t *testing.T) {
	pool, q := db.Migrated(t)
	ctx := t.Context()
	client, err := workflow.NewClient(workflow.ClientConfig{Pool: pool, Schema: q.Schema})
	if err != nil {
		t.Fatal(err)
	}
	work(t, worker.Config{Pool: pool, Schema: q.Schema, Workflows: []*workflow.Definition{countV1}, MaxRuns: 8})
	var runs []workflow.Run[int]
	enqueue := func() {
		for range 20 {
			run, err := count.Enqueue(ctx, client, len(runs), workflow.EnqueueOptions{})
			if err != nil {
				t.Fatal(err)
			}
			runs = append(runs, run)
		}
	}
	for i, table := range []string{"run", "step", "ready", "turn", "attempt", "worker", "definition", "idempotency"} {
		enqueue()
		sql := fmt.Sprintf("ALTER TABLE stepward.%s ADD COLUMN later int NOT NULL DEFAULT 1; CREATE INDEX ON stepward.%[1]s (later);", table)
		if i == 0 {
			sql = fmt.Sprintf("INSERT INTO stepward.migration (version) VALUES (%d); %s", db.Version+1, sql)
		}
		if err := db.Apply(ctx, pool, q, q.In(sql)); err != nil {
			t.Fatal(err)
		}
	}
	enqueue()
	for i, run := range runs {
		if out, err := run.Result(ctx); err != nil || out != i+3 {
			t.Errorf("run %d: got %d, %v", i, out, err)
		}
	}
	if err := client.Check(ctx); err != nil {
		t.Error(err)
	}
}
