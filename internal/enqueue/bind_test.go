package enqueue_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/stepward/stepward/identity"
	"github.com/stepward/stepward/identity/explain"
	"github.com/stepward/stepward/internal/binding"
	"github.com/stepward/stepward/internal/db"
	"github.com/stepward/stepward/internal/engine"
	"github.com/stepward/stepward/internal/enqueue"
	"github.com/stepward/stepward/internal/runid"
)

// binder enqueues runs of a workflow that has a step with secrets.
type binder struct {
	testing.TB
	pool *pgxpool.Pool
	q    *db.Queries
	p    *identity.Profiles
	m    enqueue.Memory
}

func newBinder(t testing.TB) *binder {
	t.Helper()
	b := &binder{TB: t}
	b.pool, b.q = migrated(t)
	var err error
	if b.p, err = identity.New(b.pool, identity.Options{Schema: b.q.Schema}); err != nil {
		t.Fatal(err)
	}
	b.define("site", `[{"name": "publish", "mode": "identity", "secrets": ["TOKEN", "REGION?"]}]`, "identity")
	b.define("plain", `[{"name": "build", "mode": "bare"}]`, "bare")
	return b
}

func (b *binder) define(workflow, steps, mode string) {
	b.Helper()
	b.again(workflow, "1", steps, mode)
}

// again defines a version.
func (b *binder) again(workflow, version, steps, mode string) {
	b.Helper()
	err := pgx.BeginFunc(b.Context(), b.pool, func(tx pgx.Tx) error {
		ids, err := enqueue.Requirements(b.Context(), tx, b.q, []enqueue.Need{{Workflow: workflow, Version: version, Modes: []string{mode}}})
		if err == nil {
			_, err = tx.Exec(b.Context(), b.q.DefinitionInsert, workflow, version, ids[0], []byte(steps), 0)
		}
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
}

func (b *binder) put(name string, s identity.Scope, keys map[string]identity.Key) {
	b.Helper()
	have, err := b.p.Get(b.Context(), s.Tenant, name)
	if err != nil && !errors.Is(err, identity.ErrNotFound) {
		b.Fatal(err)
	}
	if err := b.p.Put(b.Context(), identity.Profile{Name: name, Scope: s, Keys: keys, Generation: have.Generation}); err != nil {
		b.Fatal(err)
	}
}

func (b *binder) add(items ...enqueue.Item) []enqueue.Result {
	b.Helper()
	var results []enqueue.Result
	err := pgx.BeginFunc(b.Context(), b.pool, func(tx pgx.Tx) (err error) {
		for i := range items {
			items[i].Input = []byte("1")
		}
		results, err = b.m.Insert(b.Context(), tx, b.q, items)
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	return results
}

// bound returns what a run was bound to; ok is false when it has no binding.
func (b *binder) bound(run int64) (v binding.Binding, ok bool) {
	b.Helper()
	var body []byte
	err := b.pool.QueryRow(b.Context(), b.q.BindingGet, run, "").Scan(&body, nil, nil)
	if err == nil && body == nil {
		return v, false
	}
	if err == nil {
		err = json.Unmarshal(body, &v)
	}
	if err != nil {
		b.Fatal(err)
	}
	return v, true
}

// names are those of a binding, each with its reference and where that is from.
func names(v binding.Binding) (out []string) {
	for _, n := range v.Names {
		out = append(out, fmt.Sprintf("%s/%s=%s@%s", n.Step, n.Name, n.Ref, n.From.Breadth))
	}
	return out
}

var (
	acme = identity.Scope{Tenant: "acme"}
	prod = identity.Scope{Tenant: "acme", Environment: "prod"}
)

func key(ref string) identity.Key { return identity.Key{Ref: "file://" + ref} }

func TestBind(t *testing.T) {
	b := newBinder(t)
	b.put("acme", acme, map[string]identity.Key{"TOKEN": key("t"), "OTHER": key("o"), "REGION": {Knob: "eu"}})
	b.put("prod", prod, map[string]identity.Key{"TOKEN": key("p")})
	b.put("step", identity.Scope{Tenant: "acme", Step: "deploy"}, map[string]identity.Key{"KEY": key("k")})
	raw := func(keys map[string]identity.Key) json.RawMessage {
		text, err := json.Marshal(keys)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	results := b.add(
		enqueue.Item{Tenant: "acme", Workflow: "site"},
		enqueue.Item{Tenant: "acme", Workflow: "site", Identity: engine.Identity{Environment: "prod"}},
		enqueue.Item{Tenant: "acme", Workflow: "plain"},
		enqueue.Item{Tenant: "acme", Workflow: "plain", Identity: engine.Identity{Environment: "prod"}},
		enqueue.Item{Tenant: "other", Workflow: "site"},
		enqueue.Item{Tenant: "acme", Workflow: "unknown"},
		enqueue.Item{Tenant: "other", Workflow: "unknown"},
		enqueue.Item{Tenant: "acme", Workflow: "site", Identity: engine.Identity{Keys: raw(map[string]identity.Key{"REGION": {Unset: true}, "TOKEN": key("o")})}},
		enqueue.Item{Tenant: "acme", Workflow: "site", Identity: engine.Identity{Keys: raw(map[string]identity.Key{"TOKEN": {Unset: true}})}},
		enqueue.Item{Tenant: "acme", Workflow: "site", Identity: engine.Identity{Keys: raw(map[string]identity.Key{"TOKEN": key("elsewhere")})}},
	)
	for i, want := range []string{
		"[publish/TOKEN=file://t@tenant publish/REGION=@tenant]",
		"[publish/TOKEN=file://p@environment publish/REGION=@tenant]",
		"", "[]",
		"refused",
		"[/OTHER=file://o@tenant /REGION=@tenant /TOKEN=file://t@tenant deploy/KEY=file://k@step deploy/OTHER=file://o@tenant deploy/REGION=@tenant deploy/TOKEN=file://t@tenant]",
		"",
		"[publish/TOKEN=file://o@run]",
		"refused", "refused",
	} {
		r := results[i]
		v, ok := b.bound(r.Run)
		got := ""
		if ok {
			got = fmt.Sprint(names(v))
		}
		if e, refused := errors.AsType[*identity.KeyError](r.Err); refused {
			got = "refused"
			if e.Step != "publish" || e.Key != "TOKEN" || !errors.Is(e, identity.ErrMissing) || r.Run != 0 {
				t.Errorf("%d: got %v", i, r)
			}
		}
		if got != want {
			t.Errorf("%d: got %s, %v; want %s", i, got, r.Err, want)
		}
	}
	if v, _ := b.bound(results[5].Run); !v.Early {
		t.Error("it does not say that nobody had defined the workflow")
	}

	// Children and forks: the place and the keys of their kin; a fork has nothing that
	// the other run has not.
	b.put("prod", prod, map[string]identity.Key{"TOKEN": key("p2"), "REGION": {Deny: true}})
	kin := b.add(
		enqueue.Item{Tenant: "acme", Workflow: "site", Kin: results[3].Run}, // bound to no name, but to a place
		enqueue.Item{Tenant: "acme", Workflow: "site", Kin: results[7].Run},
		enqueue.Item{Tenant: "acme", Workflow: "site", Kin: results[1].Run, Identity: engine.Identity{Environment: "test"}},
		enqueue.Item{Tenant: "acme", Workflow: "site", Kin: results[7].Run, Fork: true, Pin: 1, Version: "1"},
		enqueue.Item{Tenant: "acme", Workflow: "site", Kin: results[3].Run, Fork: true, Pin: 1, Version: "1"},
	)
	for i, want := range []string{
		"[publish/TOKEN=file://p2@environment]",
		"[publish/TOKEN=file://o@run]",
		"[publish/TOKEN=file://t@tenant publish/REGION=@tenant]",
		"[publish/TOKEN=file://o@run]",
		"[]",
	} {
		if v, ok := b.bound(kin[i].Run); !ok || fmt.Sprint(names(v)) != want || kin[i].Err != nil {
			t.Errorf("%d: got %v, %v; want %s", i, v, kin[i].Err, want)
		}
	}
	// What is bound to nothing has forks that are: what its tenant was given since is not theirs.
	bare := b.add(enqueue.Item{Tenant: "acme", Workflow: "plain"})[0].Run
	if _, ok := b.bound(bare); ok {
		t.Fatal("a run without secrets is bound")
	}
	fork := b.add(enqueue.Item{Tenant: "acme", Workflow: "site", Kin: bare, Fork: true, Pin: 1, Version: "1"})[0]
	if v, ok := b.bound(fork.Run); !ok || len(v.Names) > 0 || fork.Err != nil {
		t.Errorf("got %v, %v", v, fork.Err)
	}
	// A child of a child that has no binding of its own.
	between := b.add(enqueue.Item{Tenant: "acme", Workflow: "plain", Kin: results[7].Run})[0].Run
	if _, err := b.pool.Exec(t.Context(), b.q.ChildParent, between, results[7].Run); err != nil {
		t.Fatal(err)
	}
	fork = b.add(enqueue.Item{Tenant: "acme", Workflow: "site", Kin: between, Fork: true, Pin: 1, Version: "1"})[0]
	if v, ok := b.bound(fork.Run); !ok || len(v.Names) > 0 || fork.Err != nil {
		t.Errorf("got %v, %v", v, fork.Err)
	}
	below := b.add(enqueue.Item{Tenant: "acme", Workflow: "site", Kin: between})[0]
	if v, ok := b.bound(below.Run); !ok || fmt.Sprint(names(v)) != "[publish/TOKEN=file://o@run]" {
		t.Errorf("got %v, %v", v, below.Err)
	}
}

// What is revoked is refused, and only that; so is everything with secrets when what is
// revoked cannot be read.
func TestBindRevoked(t *testing.T) {
	b := newBinder(t)
	b.put("acme", acme, map[string]identity.Key{"TOKEN": key("t"), "REGION": {Knob: "eu"}})
	b.put("other", identity.Scope{Tenant: "other"}, map[string]identity.Key{"TOKEN": key("t")})
	revoke := func(r identity.Revocation) {
		t.Helper()
		if err := b.p.Revoke(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	site := enqueue.Item{Tenant: "acme", Workflow: "site"}
	refused := func(want bool) {
		t.Helper()
		if r := b.add(site)[0]; errors.Is(r.Err, identity.ErrRevoked) != want || !want && r.Err != nil {
			t.Errorf("got %+v, want it refused: %v", r, want)
		}
	}
	revoke(identity.Revocation{Tenant: "acme", Kind: identity.KindKey, Target: "TOKEN", State: identity.Deprecated})
	revoke(identity.Revocation{Tenant: "acme", Kind: identity.KindKey, Target: "REGION", State: identity.Hard})
	refused(false)
	r := b.add(site)[0]
	if v, _ := b.bound(r.Run); fmt.Sprint(names(v)) != "[publish/TOKEN=file://t@tenant]" || v.Epoch["acme"] != 2 {
		t.Errorf("got %+v", v)
	}
	revoke(identity.Revocation{Tenant: "acme", Kind: identity.KindKey, Target: "TOKEN", State: identity.Soft})
	refused(true)
	if err := b.p.Rotate(t.Context(), "acme", "TOKEN", "2"); err != nil {
		t.Fatal(err)
	}
	refused(false)
	revoke(identity.Revocation{Tenant: "acme", Kind: identity.KindProfile, Target: "acme", State: identity.Hard})
	refused(true)
	if r := b.add(enqueue.Item{Tenant: "other", Workflow: "site"}, enqueue.Item{Tenant: "acme", Workflow: "plain"}); r[0].Err != nil || r[1].Err != nil {
		t.Errorf("got %+v", r)
	}
	revoke(identity.Revocation{Kind: identity.KindWorkflow, Target: "site", State: identity.Soft})
	if r := b.add(enqueue.Item{Tenant: "other", Workflow: "site"})[0]; !errors.Is(r.Err, identity.ErrRevoked) {
		t.Errorf("got %+v", r)
	}
	if _, err := b.pool.Exec(t.Context(), "ALTER TABLE "+b.q.Schema+".revocation RENAME TO away"); err != nil {
		t.Fatal(err)
	}
	for workflow, want := range map[string]bool{"site": true, "plain": false} {
		err := pgx.BeginFunc(t.Context(), b.pool, func(tx pgx.Tx) error {
			_, err := b.m.Insert(t.Context(), tx, b.q, []enqueue.Item{{Tenant: "other", Workflow: workflow, Input: []byte("1")}})
			return err
		})
		if (err != nil) != want {
			t.Errorf("%s: got %v", workflow, err)
		}
	}
}

// Of a thousand enqueues in parallel with a revocation, none that begins after Revoke
// has returned adds a run, and none commits later than that without having seen it.
func TestBindRacesRevoke(t *testing.T) {
	b := newBinder(t)
	b.put("acme", acme, map[string]identity.Key{"TOKEN": key("t")})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var begun, late atomic.Int64
	var revoked atomic.Bool
	var wg sync.WaitGroup
	added := make(chan struct{}, 1000)
	for range 8 {
		wg.Go(func() {
			for begun.Add(1) <= 1000 && ctx.Err() == nil {
				after := revoked.Load() // Revoke had returned
				err := pgx.BeginFunc(ctx, b.pool, func(tx pgx.Tx) error {
					r, err := b.m.Insert(ctx, tx, b.q, []enqueue.Item{{Tenant: "acme", Workflow: "site", Input: []byte("1")}})
					if err != nil {
						return err
					}
					if revoked.Load() && r[0].Err == nil { // it returned while this one had looked already
						late.Add(1)
					}
					return r[0].Err
				})
				switch {
				case err == nil && after:
					t.Error("a run was added after the revocation")
				case err == nil:
					added <- struct{}{}
				case !errors.Is(err, identity.ErrRevoked):
					t.Error(err)
				}
			}
		})
	}
	go func() { wg.Wait(); close(added) }()
	if _, ok := <-added; !ok {
		t.Fatal("no run was added")
	}
	if err := b.p.Revoke(ctx, identity.Revocation{Tenant: "acme", Kind: identity.KindKey, Target: "TOKEN", State: identity.Hard}); err != nil {
		t.Fatal(err)
	}
	revoked.Store(true)
	wg.Wait()
	if late.Load() > 0 {
		t.Errorf("%d had looked, and were not waited for", late.Load())
	}
}

// However many tenants one transaction enqueues for, it takes few of Postgres' locks, which are there for everybody.
func TestBindManyTenants(t *testing.T) {
	t.Parallel()
	b := newBinder(t)
	err := pgx.BeginFunc(t.Context(), b.pool, func(tx pgx.Tx) error {
		for n := range 2 {
			var items []enqueue.Item
			for i := range 500 {
				items = append(items, enqueue.Item{Tenant: fmt.Sprintf("tenant %d of %d", i, n), Workflow: "undefined", Input: []byte("1")})
			}
			if _, err := b.m.Insert(t.Context(), tx, b.q, items); err != nil {
				return err
			}
		}
		var locks int
		err := tx.QueryRow(t.Context(), "SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory'").Scan(&locks)
		if locks < 10 || locks > 65 { // of 1,000 tenants, and of all
			t.Errorf("%d locks", locks)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// Two transactions that enqueue for two tenants, each for another one first, and the revocations of both that wait for them
// in between, end.
func TestBindCrossesRevoke(t *testing.T) {
	t.Parallel()
	b := newBinder(t)
	b.put("acme", acme, map[string]identity.Key{"TOKEN": key("t")})
	b.put("other", identity.Scope{Tenant: "other"}, map[string]identity.Key{"TOKEN": key("t")})
	tenants := [...]string{"acme", "other"}
	var txs [2]pgx.Tx
	bind := func(i int, tenant string) {
		r, err := b.m.Insert(t.Context(), txs[i], b.q, []enqueue.Item{{Tenant: tenant, Workflow: "site", Input: []byte("1")}})
		if err != nil || r[0].Err != nil && !errors.Is(r[0].Err, identity.ErrRevoked) {
			t.Errorf("%d for %s: %v, %v", i, tenant, r, err)
		}
	}
	var revoking, crossing sync.WaitGroup
	for i, tenant := range tenants {
		tx, err := b.pool.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer tx.Rollback(context.WithoutCancel(t.Context()))
		txs[i] = tx
		bind(i, tenant)
	}
	for _, tenant := range tenants {
		revoking.Go(func() {
			if err := b.p.Revoke(t.Context(), identity.Revocation{Tenant: tenant, Kind: identity.KindTenant, State: identity.Soft}); err != nil {
				t.Error(err)
			}
		})
	}
	waits := func(tx pgx.Tx) (n int) {
		if err := tx.QueryRow(t.Context(), "SELECT count(*) FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY (pg_blocking_pids(pid))").Scan(&n); err != nil {
			t.Error(err)
		}
		return n
	}
	given := make(chan struct{})
	go func() { revoking.Wait(); close(given) }()
	for waiting := true; waiting && (waits(txs[0]) == 0 || waits(txs[1]) == 0); {
		select {
		case <-given: // they wait two seconds at most, and this machine may be slower
			waiting = false
		default:
		}
	}
	for i := range txs {
		crossing.Go(func() {
			bind(i, tenants[1-i])
			if err := txs[i].Commit(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	crossing.Wait()
	revoking.Wait()
}

// Each name that a run's steps list is explained: what it was bound to, what counts
// now, and whether a start would give it.
func TestExplain(t *testing.T) {
	b := newBinder(t)
	b.put("defaults", identity.Scope{}, map[string]identity.Key{"TOKEN": key("d"), "REGION": {Knob: "eu"}})
	b.put("acme", acme, map[string]identity.Key{"TOKEN": key("t")})
	run := b.add(enqueue.Item{Tenant: "acme", Workflow: "site", Identity: engine.Identity{Environment: "prod"}})[0].Run
	says := func(want string) explain.Result {
		t.Helper()
		e, err := explain.Run(t.Context(), b.pool, runid.Text(run), identity.Options{Schema: b.q.Schema})
		if err != nil || e.String() != want {
			t.Errorf("got\n%s%v, want\n%s", e, err, want)
		}
		return e
	}
	e := says("publish TOKEN: file://t of profile acme (tenant acme); shadows profile defaults (deployment)\n" +
		"publish REGION: eu of profile defaults (deployment)\n")
	if e.Place.Environment != "prod" || len(e.Keys) != 2 || !e.Keys[1].Optional || e.Keys[0].Bound == nil || e.Keys[0].Bound.Ref != "file://t" {
		t.Errorf("got %+v", e)
	}
	b.put("prod", prod, map[string]identity.Key{"TOKEN": key("p")})
	b.put("acme", acme, map[string]identity.Key{"TOKEN": key("t"), "REGION": {Deny: true}})
	says("publish TOKEN: not given: identity: step publish: TOKEN: it refers to something else than when the run was enqueued; shadows profile defaults (deployment); shadows profile acme (tenant acme)\n" +
		"publish REGION: not given: identity: step publish: REGION: denied: by profile acme (tenant acme)\n")
	if err := b.p.Revoke(t.Context(), identity.Revocation{Tenant: "acme", Kind: identity.KindRun, Target: fmt.Sprint(run), State: identity.Hard}); err != nil {
		t.Fatal(err)
	}
	if e, err := explain.Run(t.Context(), b.pool, runid.Text(run), identity.Options{Schema: b.q.Schema}); err != nil || !errors.Is(e.Keys[0].Err, identity.ErrRevoked) || e.Keys[0].State != identity.Hard || e.Keys[0].Why.Target != runid.Text(run) || strings.Count(strings.SplitN(e.String(), "\n", 2)[0], "hard") != 1 {
		t.Errorf("got %+v, %v", e, err)
	}
	for _, none := range []string{"1", "order-1", "run_"} {
		if _, err := explain.Run(t.Context(), b.pool, none, identity.Options{Schema: b.q.Schema}); !errors.Is(err, identity.ErrNotFound) {
			t.Errorf("%s: got %v", none, err)
		}
	}
	if _, err := explain.Run(t.Context(), nil, runid.Text(run), identity.Options{Schema: b.q.Schema}); err == nil {
		t.Error("explained without a pool")
	}
	plain := b.add(enqueue.Item{Tenant: "acme", Workflow: "plain"})[0].Run
	if e, err := explain.Run(t.Context(), b.pool, fmt.Sprint(plain), identity.Options{Schema: b.q.Schema}); err != nil || len(e.Keys) != 0 || e.String() != "no step of plain, version 1, lists a name\n" {
		t.Errorf("got %v, %v", e, err)
	}
	early := b.add(enqueue.Item{Tenant: "acme", Workflow: "early"})[0].Run // before any worker
	if e, err := explain.Run(t.Context(), b.pool, fmt.Sprint(early), identity.Options{Schema: b.q.Schema}); err != nil || !strings.Contains(e.String(), "no worker has had its definition yet") {
		t.Errorf("got %v, %v", e, err)
	}
}
