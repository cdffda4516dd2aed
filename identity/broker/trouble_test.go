package broker_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"sync"
	"testing"

	"connectrpc.com/connect"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/stepward/stepward/identity"
	"github.com/stepward/stepward/identity/broker"
	"github.com/stepward/stepward/internal/envelope"
	"github.com/stepward/stepward/internal/rpc"
	"github.com/stepward/stepward/workflow"
)

// A store that goes away takes nothing from who has its secret, and gives nothing to who has not. Revocations
// that cannot be read are no yes to either.
func TestStoreGoesAway(t *testing.T) {
	f := newFixture(t, "DEPLOY_TOKEN")
	f.store.values["x"] = "s3cr3t-canary"
	f.put("DEPLOY_TOKEN", identity.Key{Ref: "mem://x"})
	link := f.serve()
	o, err := get(t.Context(), link, f.claim)
	if err != nil {
		t.Fatal(err)
	}
	later := f.attempt(1, 2, "publish#2")
	away := func(err error) {
		f.store.mu.Lock()
		defer f.store.mu.Unlock()
		f.store.errs["x"] = err
	}
	away(errors.New("dial tcp 192.0.2.1:8200: connection refused"))
	if n, err := renew(t.Context(), link, f.claim, o); err != nil || n.State != envelope.Renewed {
		t.Errorf("a renewal: %+v, %v", n, err)
	}
	if _, err := get(t.Context(), link, later); connect.CodeOf(err) != connect.CodeUnavailable || reason(err) != "" {
		t.Errorf("another attempt: %v", err)
	}
	away(nil)
	f.exec("ALTER TABLE stepward.revocation RENAME TO away")
	if n, err := renew(t.Context(), link, f.claim, o); err == nil || strings.Contains(err.Error(), "s3cr3t") {
		t.Errorf("a renewal without revocations: %+v, %v", n, err)
	}
	if _, err := get(t.Context(), link, later); err == nil || reason(err) == "revoked" {
		t.Errorf("another attempt, without revocations: %v", err)
	}
	f.exec("ALTER TABLE stepward.away RENAME TO revocation")
	if n, err := renew(t.Context(), link, f.claim, o); err != nil || n.State != envelope.Renewed {
		t.Errorf("a renewal: %+v, %v", n, err)
	}
	if _, err := get(t.Context(), link, later); err != nil {
		t.Errorf("another attempt: %v", err)
	}
	if n := f.issued(); n != 2 {
		t.Errorf("%d envelopes are on record", n)
	}
}

// A broker with the role of a worker, where brokers have one of their own, can record nothing and issues nothing: whoever has set
// that up has to mend it, and is told. With its own role it can.
func TestRoleOfBroker(t *testing.T) {
	f := newFixture(t, "DEPLOY_TOKEN")
	f.store.values["x"] = "s3cr3t-canary"
	f.put("DEPLOY_TOKEN", identity.Key{Ref: "mem://x"})
	as := func(name string) *pgxpool.Pool {
		t.Helper()
		f.exec("CREATE ROLE " + name)
		t.Cleanup(func() { f.exec("DROP OWNED BY " + name + "; DROP ROLE " + name) })
		cfg := f.pool.Config()
		cfg.ConnConfig.RuntimeParams["role"] = name
		pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(pool.Close)
		return pool
	}
	workers, brokers := as(f.schema+"_workers"), as(f.schema+"_brokers")
	if err := workflow.Migrate(t.Context(), f.pool, workflow.MigrateOptions{Schema: f.schema, WorkerRole: f.schema + "_workers", BrokerRole: f.schema + "_brokers"}); err != nil {
		t.Fatal(err)
	}
	f.cfg.Pool = workers
	if _, err := get(t.Context(), f.serve(), f.claim); reason(err) != "store" || !strings.Contains(err.Error(), "BrokerRole") {
		t.Errorf("as a worker: %v", err)
	}
	if n := f.issued(); n != 0 {
		t.Errorf("%d envelopes are on record", n)
	}
	f.cfg.Pool = brokers
	link := f.serve()
	o, err := get(t.Context(), link, f.claim)
	if err != nil {
		t.Fatalf("as a broker: %v", err)
	}
	if n, err := renew(t.Context(), link, f.claim, o); err != nil || n.State != envelope.Renewed {
		t.Errorf("a renewal: %+v, %v", n, err)
	}
}

// Whether the database's clock is 10 minutes before the broker's or behind it, or jumps in between, an attempt
// gets its secrets, keeps them, and is revoked.
func TestClocksApart(t *testing.T) {
	f := newFixture(t, "DEPLOY_TOKEN")
	f.store.values["x"] = "s3cr3t-canary"
	f.put("DEPLOY_TOKEN", identity.Key{Ref: "mem://x"})
	f.exec("CREATE TABLE stepward.ahead AS SELECT interval '0' AS by") // functions that stand before those of Postgres
	for _, name := range []string{"clock_timestamp", "statement_timestamp", "transaction_timestamp", "now"} {
		f.exec("CREATE FUNCTION stepward." + name + "() RETURNS timestamptz LANGUAGE sql STABLE AS $$ SELECT pg_catalog." + name + "() + by FROM stepward.ahead $$")
	}
	cfg := f.pool.Config()
	cfg.ConnConfig.RuntimeParams["search_path"] = f.schema + ", pg_catalog"
	var err error
	if f.cfg.Pool, err = pgxpool.NewWithConfig(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.cfg.Pool.Close)
	link := f.serve()
	client, err := link.Client(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	clock := func(by string) { f.exec("UPDATE stepward.ahead SET by = $1::text::interval", by) }
	for i, steps := range [][2]string{{"10 min", "10 min"}, {"-10 min", "-10 min"}, {"10 min", "-10 min"}, {"-10 min", "10 min"}} {
		clock(steps[0])
		c := f.attempt(10+i, 1, "publish#2")
		o, err := get(t.Context(), link, c)
		if err != nil {
			t.Fatalf("%v: %v", steps, err)
		}
		if _, err := client.Opened(t.Context(), connect.NewRequest(&rpc.OpenedRequest{Claim: c})); err != nil {
			t.Errorf("%v: opened: %v", steps, err)
		}
		clock(steps[1])
		if n, err := renew(t.Context(), link, c, o); err != nil || n.State != envelope.Renewed {
			t.Errorf("%v: a renewal: %+v, %v", steps, n, err)
		}
		err = f.profiles.Revoke(t.Context(), identity.Revocation{Tenant: "acme", Kind: identity.KindTenant, State: identity.Hard})
		if err != nil {
			t.Fatal(err)
		}
		if n, err := renew(t.Context(), link, c, o); err != nil || n.State != envelope.Revoked {
			t.Errorf("%v: a renewal after a revoke: %+v, %v", steps, n, err)
		}
		f.exec("DELETE FROM stepward.revocation")
		if _, err := client.Close(t.Context(), connect.NewRequest(&rpc.CloseRequest{Claim: c})); err != nil {
			t.Errorf("%v: closed: %v", steps, err)
		}
	}
	if n := f.count("SELECT count(*)::int FROM stepward.issue WHERE closed_at NOT BETWEEN now() - interval '5 min' AND now() + interval '5 min'"); n != 4 {
		t.Errorf("the clock that was set counted for %d", n)
	}
}

// loud is a store that says too much.
type loud map[string]func(value []byte) error

func (l loud) Revoke(_ context.Context, lease string) error { return l["revoke"]([]byte(lease)) }

// journal is a log that can be read while it is written.
type journal struct {
	mu sync.Mutex
	b  strings.Builder
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.b.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.b.String()
}

func (l loud) Get(_ context.Context, r broker.Request) (broker.Value, error) {
	v := broker.Value{Bytes: []byte("s3cr3t-canary of " + r.Path), Lease: "s3cr3t-lease of " + r.Path}
	if r.Path == "short" {
		v.Bytes = []byte("zq7#")
	}
	return v, l[r.Path](v.Bytes)
}

// Case 57: whatever a store's error has in it, of values and of what the broker shows to be let in, is neither in what the
// worker hears, nor on record, nor in the broker's log; what the error is about is.
func TestStoreSaysTooMuch(t *testing.T) {
	f := newFixture(t, "DEPLOY_TOKEN")
	token := "hvs." + strings.Repeat("CanaryCanary", 3)
	log := &journal{}
	f.cfg.Logger = slog.New(slog.NewTextHandler(log, nil))
	store := loud{
		"value": func(v []byte) error { return fmt.Errorf("cannot decode %q", v) },
		"base64": func(v []byte) error {
			return fmt.Errorf("%w: got %s", broker.ErrCorrupt, base64.StdEncoding.EncodeToString(v))
		},
		"short": func(v []byte) error { return fmt.Errorf("%w: %s", broker.ErrDenied, v) },
		"token": func([]byte) error { return fmt.Errorf("GET /v1/x with X-Vault-Token: %s", token) },
		"url": func([]byte) error {
			return &url.Error{Op: "Get", URL: "https://ada:hunter2@vault.example.com/x?key=canary123", Err: errors.New("refused")}
		},
		"connect": func(v []byte) error { return connect.NewError(connect.CodeUnauthenticated, fmt.Errorf("not %s", v)) },
		"revoke":  func(v []byte) error { panic("no lease " + string(v)) },
		"panic":   func(v []byte) error { panic(string(v)) },
	}
	f.cfg.Stores = map[string]broker.Store{"mem": store}
	link := f.serve()
	for path, want := range map[string]struct{ reason, says string }{
		"value": {"", "cannot decode"}, "base64": {"store", "corrupt"}, "short": {"denied", "kept back"}, "token": {"", "vault-token"}, "url": {"", "vault.example.com/x?…"},
		"connect": {"", "not [REDACTED:value]"}, "panic": {"", "panicked with a string"},
	} {
		f.put("DEPLOY_TOKEN", identity.Key{Ref: "mem://" + path})
		_, err := get(t.Context(), link, f.claim)
		if err == nil || reason(err) != want.reason || !strings.Contains(err.Error(), want.says) || !strings.Contains(err.Error(), "DEPLOY_TOKEN") {
			t.Errorf("%s: got %v, reason %q", path, err, reason(err))
		}
		var said string
		if err := f.pool.QueryRow(t.Context(), f.in("SELECT coalesce(string_agg(convert_from(detail, 'UTF8'), ''), '') FROM stepward.event WHERE kind = 'envelope.refused'")).Scan(&said); err != nil {
			t.Fatal(err)
		}
		said += fmt.Sprint(err) + log.String()
		for _, secret := range []string{"s3cr3t", "zq7#", "Canary", "hunter2", "canary123", base64.StdEncoding.EncodeToString([]byte("s3cr3t-canary"))[:12]} {
			if strings.Contains(said, secret) {
				t.Errorf("%s: %q is said: %s", path, secret, said)
			}
		}
		f.exec("DELETE FROM stepward.profile")
	}
	if n := f.issued(); n != 0 || !strings.Contains(log.String(), "panicked with a string") {
		t.Errorf("%d envelopes are on record, and the log is %s", n, log)
	}
}
