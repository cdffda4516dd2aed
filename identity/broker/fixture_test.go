package broker_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"connectrpc.com/connect"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/stepward/stepward/identity"
	"github.com/stepward/stepward/identity/broker"
	"github.com/stepward/stepward/identity/cedar"
	"github.com/stepward/stepward/internal/binding"
	"github.com/stepward/stepward/internal/brokerlink"
	"github.com/stepward/stepward/internal/db"
	"github.com/stepward/stepward/internal/envelope"
	"github.com/stepward/stepward/internal/envelope/open"
	"github.com/stepward/stepward/internal/rpc"
	"github.com/stepward/stepward/internal/rpc/rpcconnect"
	"github.com/stepward/stepward/internal/testenv"
	"github.com/stepward/stepward/workflow"
)

// memory is a store in memory. Values and errors are by path.
type memory struct {
	mu      sync.Mutex
	values  map[string]string
	now     map[string]string // versions; "v1" without, "-" is none
	errs    map[string]error
	asked   []broker.Request
	leases  bool
	ended   []string
	fails   int    // how often Revoke does
	trouble string // with which
	wait    func(ctx context.Context, path string)
}

func (m *memory) Get(ctx context.Context, r broker.Request) (broker.Value, error) {
	if m.wait != nil {
		m.wait(ctx, r.Path)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.asked = append(m.asked, r)
	if err := m.errs[r.Path]; err != nil {
		return broker.Value{}, err
	}
	v, ok := m.values[r.Path]
	if !ok {
		return broker.Value{}, broker.ErrNoSecret
	}
	out := broker.Value{Bytes: []byte(v), Version: cmp.Or(m.now[r.Path], "v1")}
	if out.Version == "-" {
		out.Version = ""
	}
	if m.leases {
		out.Lease = "lease of " + r.Path
	}
	return out, nil
}

func (m *memory) Revoke(_ context.Context, id string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fails > 0 {
		m.fails--
		return errors.New(cmp.Or(m.trouble, "the source is away"))
	}
	m.ended = append(m.ended, id)
	return nil
}

// fixture is a database with one attempt of a step, at epoch 1 of session 7.
type fixture struct {
	t        *testing.T
	stop     func() // ends the broker that was started last, with all that it does by itself
	pool     *pgxpool.Pool
	schema   string
	profiles *identity.Profiles
	store    *memory
	cfg      broker.Config
	claim    *rpc.Claim
	ctx      context.Context //nolint:containedctx // of what serve starts
}

const runID = 1 << 40

var databases = testenv.Databases{
	Migrate: func(ctx context.Context, pool *pgxpool.Pool, schema string) error {
		return workflow.Migrate(ctx, pool, workflow.MigrateOptions{Schema: schema})
	},
	Spent: "EXISTS (SELECT FROM stepward.sandbox)", // engines know a schema by its name
}

func newFixture(t *testing.T, secrets ...string) *fixture {
	t.Helper()
	f := &fixture{t: t, ctx: context.Background(), store: &memory{values: map[string]string{}, now: map[string]string{}, errs: map[string]error{}}}
	f.pool, f.schema = databases.Postgres(t)
	var err error
	if f.profiles, err = identity.New(f.pool, identity.Options{Schema: f.schema, Engine: cedar.Parse}); err != nil {
		t.Fatal(err)
	}
	f.cfg = broker.Config{Pool: f.pool, Schema: f.schema, Dir: t.TempDir(), Stores: map[string]broker.Store{"mem": f.store}}
	steps, err := json.Marshal([]map[string]any{{"name": "publish", "secrets": secrets}, {"name": "drive", "tool": true, "secrets": secrets}})
	if err != nil {
		t.Fatal(err)
	}
	f.exec("INSERT INTO stepward.definition (workflow, version, requirement_id, steps) VALUES ('site', '1', 1, $1)", steps)
	f.exec("INSERT INTO stepward.run (id, tenant, workflow, input, version, requirement_id, epoch, session) VALUES ($1, 'acme', 'site', '', '1', 1, 1, 7)", int64(runID))
	f.exec("INSERT INTO stepward.worker (session, name, lease_until, lease_s, requirements, backends) VALUES (7, 'old faithful', now(), 10, '{}', '{}')")
	f.claim = f.attempt(1, 1, "publish#2")
	return f
}

// attempt begins an attempt in a sandbox of its own.
func (f *fixture) attempt(seq, number int, key string) *rpc.Claim {
	f.t.Helper()
	c := &rpc.Claim{Run: runID, Seq: int32(seq), Attempt: int32(number), Epoch: 1, Session: 7, Sandbox: fmt.Sprintf("box-%d-%d", seq, number)}
	f.exec("INSERT INTO stepward.attempt (run_id, started_at, seq, epoch, attempt, mode, key, sandbox_id) VALUES ($1, now(), $2, 1, $3, $4, $5, $6)",
		c.Run, seq, number, int(workflow.Identity), key, c.Sandbox)
	return c
}

func (f *fixture) exec(sql string, args ...any) {
	f.t.Helper()
	if _, err := f.pool.Exec(context.Background(), f.in(sql), args...); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) in(sql string) string { return strings.ReplaceAll(sql, "stepward.", f.schema+".") }

func (f *fixture) count(sql string, args ...any) (n int) {
	f.t.Helper()
	if err := f.pool.QueryRow(f.t.Context(), f.in(sql), args...).Scan(&n); err != nil {
		f.t.Fatal(err)
	}
	return n
}

// issued is how many envelopes are on record.
func (f *fixture) issued() int { return f.count("SELECT count(*)::int FROM stepward.issue") }

// events is how many events of a kind there are.
func (f *fixture) events(kind string) int {
	return f.count("SELECT count(*)::int FROM stepward.event WHERE kind = $1", kind)
}

// put makes a profile of the tenant with one key.
func (f *fixture) put(name string, k identity.Key) {
	f.t.Helper()
	p, err := f.profiles.Get(f.t.Context(), "acme", strings.ToLower(name))
	if err != nil {
		p = identity.Profile{Name: strings.ToLower(name), Scope: identity.Scope{Tenant: "acme"}}
	}
	p.Keys = map[string]identity.Key{name: k}
	if err := f.profiles.Put(f.t.Context(), p); err != nil {
		f.t.Fatal(err)
	}
	f.bind(nil)
}

// bind binds the run to what its tenant has now, and to what was said with the run.
func (f *fixture) bind(keys map[string]identity.Key) {
	f.t.Helper()
	f.exec("DELETE FROM stepward.binding")
	f.bindRun(runID, identity.Scope{Tenant: "acme", Workflow: "site"}, keys)
}

func (f *fixture) bindRun(run int64, place identity.Scope, keys map[string]identity.Key) {
	f.t.Helper()
	q, err := db.New(f.schema)
	if err != nil {
		f.t.Fatal(err)
	}
	v, err := binding.Load(f.t.Context(), f.pool, q, []identity.Scope{place}, nil, keys)
	if err != nil {
		f.t.Fatal(err)
	}
	b, err := v.BindEarly(place, keys)
	if err != nil {
		f.t.Fatal(err)
	}
	body, err := json.Marshal(b)
	if err != nil {
		f.t.Fatal(err)
	}
	f.exec("INSERT INTO stepward.binding (run_id, body) VALUES ($1, $2)", run, body)
}

// serve starts a broker on a unix socket and returns the way to it.
func (f *fixture) serve() *brokerlink.Link {
	f.t.Helper()
	dir, err := os.MkdirTemp("", "broker")
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	ln, err := net.Listen("unix", path)
	if err != nil {
		f.t.Fatal(err)
	}
	return f.serveOn(ln, "unix://"+path)
}

func (f *fixture) serveOn(ln net.Listener, address string) *brokerlink.Link {
	f.t.Helper()
	ctx, stop := context.WithCancel(f.ctx)
	done := make(chan error, 1)
	go func() { done <- broker.Serve(ctx, ln, f.cfg) }()
	f.stop = sync.OnceFunc(func() {
		stop()
		if err := <-done; err != nil {
			f.t.Error(err)
		}
	})
	f.t.Cleanup(f.stop)
	link, err := brokerlink.New(address, nil)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(link.Close)
	return link
}

// a box is what an attempt has of the other end.
type box struct {
	client rpcconnect.BrokerClient
	claim  *rpc.Claim
	key    *open.Key
}

// begin calls Begin and makes a key.
func begin(ctx context.Context, l *brokerlink.Link, c *rpc.Claim) (*box, error) {
	return beginAs(ctx, l, c, envelope.Witness{})
}

// beginAs does so in a sandbox with a witness.
func beginAs(ctx context.Context, l *brokerlink.Link, c *rpc.Claim, w envelope.Witness) (*box, error) {
	client, err := l.Client(ctx)
	if err != nil {
		return nil, err
	}
	r, err := client.Begin(ctx, connect.NewRequest(&rpc.BeginRequest{Claim: c}))
	if err != nil {
		return nil, err
	}
	facts, err := envelope.ReadFacts(r.Msg.Facts)
	if err != nil {
		return nil, err
	}
	key, err := open.NewKey(facts, r.Msg.PublicKey, w)
	return &box{client, c, key}, err
}

// ask has an envelope issued and opens it.
func (s *box) ask(ctx context.Context) (envelope.Opened, error) {
	return s.send(ctx, s.key.Hello())
}

// send does so with the hello that a worker makes of its.
func (s *box) send(ctx context.Context, hello []byte) (envelope.Opened, error) {
	r, err := s.client.Issue(ctx, connect.NewRequest(&rpc.IssueRequest{Claim: s.claim, Hello: hello}))
	if err != nil {
		return envelope.Opened{}, err
	}
	return s.key.Open(r.Msg.Envelope)
}

// get does both.
func get(ctx context.Context, l *brokerlink.Link, c *rpc.Claim) (envelope.Opened, error) {
	s, err := begin(ctx, l, c)
	if err != nil {
		return envelope.Opened{}, err
	}
	return s.ask(ctx)
}

// renew asks for a renewal of what was opened.
func renew(ctx context.Context, l *brokerlink.Link, c *rpc.Claim, o envelope.Opened) (envelope.Renewal, error) {
	client, err := l.Client(ctx)
	if err != nil {
		return envelope.Renewal{}, err
	}
	challenge := [32]byte{1, 2, 3}
	r, err := client.Renew(ctx, connect.NewRequest(&rpc.RenewRequest{Claim: c, Challenge: challenge[:]}))
	if err != nil {
		return envelope.Renewal{}, err
	}
	n, err := envelope.ReadRenewal(r.Msg.Renewal, func(id envelope.ID) []byte {
		if id != o.Head.ID {
			return nil
		}
		return o.RenewalKey
	})
	if err == nil && n.Challenge != challenge {
		err = errors.New("another challenge is answered")
	}
	return n, err
}

// reason is that of a refusal, "" of another error.
func reason(err error) string {
	if r := brokerlink.Refused(err); r != nil {
		return r.Reason
	}
	return ""
}
