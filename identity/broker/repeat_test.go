package broker_test

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/hashicorp/vault/api"

	"github.com/stepward/stepward/identity"
	"github.com/stepward/stepward/identity/broker"
	"github.com/stepward/stepward/identity/filestore"
	"github.com/stepward/stepward/identity/vault"
	"github.com/stepward/stepward/internal/brokerlink"
	"github.com/stepward/stepward/internal/rpc"
	"github.com/stepward/stepward/internal/testenv"
	"github.com/stepward/stepward/workflow"
)

// shelf is a store, and what its administrator can do.
type shelf struct {
	mu     sync.Mutex
	store  broker.Store
	down   bool
	asked  int
	ref    func(name string) string
	put    func(t *testing.T, name, value string)
	remove func(t *testing.T, name string) // the first version
	end    func(t *testing.T, name string) // the first version, for good
	redo   func(t *testing.T, name, value string)
}

func (s *shelf) Get(ctx context.Context, r broker.Request) (broker.Value, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	if s.down {
		return broker.Value{}, errors.New("it does not answer")
	}
	return s.store.Get(ctx, r)
}

// files is a shelf in a directory.
func files(t *testing.T) *shelf {
	open := func() *filestore.Store {
		fs, err := filestore.Open(filestore.Config{Dir: filepath.Join(t.TempDir(), "secrets")})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { fs.Close() })
		return fs
	}
	fs := open()
	s := &shelf{store: fs, ref: func(name string) string { return "file://" + name }}
	s.put = func(t *testing.T, name, value string) {
		if _, err := fs.Put(t.Context(), "acme", name, []byte(value)); err != nil {
			t.Fatal(err)
		}
	}
	s.remove = func(t *testing.T, name string) {
		if err := fs.Delete(t.Context(), "acme", name, "1"); err != nil {
			t.Fatal(err)
		}
	}
	s.end = func(t *testing.T, name string) {
		if err := fs.Delete(t.Context(), "acme", name); err != nil {
			t.Fatal(err)
		}
	}
	s.redo = func(t *testing.T, name, value string) { // the directory is another one
		fs = open()
		s.store = fs
		s.put(t, name, value)
	}
	return s
}

// vaulted is a shelf in a Vault.
func vaulted(t *testing.T) *shelf {
	server := testenv.Vault(t)
	c, err := api.NewClient(&api.Config{Address: server.Address})
	if err != nil {
		t.Fatal(err)
	}
	c.ClearNamespace()
	c.SetToken(server.Token)
	mount := "repeat-" + strings.ToLower(rand.Text()[:12])
	must := func(t *testing.T, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(t, c.Sys().MountWithContext(t.Context(), mount, &api.MountInput{Type: "kv", Options: map[string]string{"version": "2"}}))
	kv := c.KVv2(mount)
	for ready := false; !ready; { // a new engine is not there for a moment
		_, err := kv.Put(t.Context(), "ready", map[string]any{"x": "y"})
		ready = err == nil
		must(t, t.Context().Err())
	}
	vs, err := vault.New(vault.Config{Address: server.Address, Places: []vault.Place{{Mount: mount, Path: "{tenant}/"}},
		Auth: vault.Token{Source: func(context.Context) (string, error) { return server.Token, nil }}})
	must(t, err)
	s := &shelf{store: vs, ref: func(name string) string { return "vault://" + mount + "/acme/" + name }}
	s.put = func(t *testing.T, name, value string) {
		_, err := kv.Put(t.Context(), "acme/"+name, map[string]any{"v": value})
		must(t, err)
	}
	s.remove = func(t *testing.T, name string) { must(t, kv.DeleteVersions(t.Context(), "acme/"+name, []int{1})) }
	s.end = func(t *testing.T, name string) { must(t, kv.Destroy(t.Context(), "acme/"+name, []int{1})) }
	s.redo = func(t *testing.T, name, value string) {
		must(t, kv.DeleteMetadata(t.Context(), "acme/"+name))
		s.put(t, name, value)
	}
	return s
}

// repeat is a run that was given a secret, which has another value since, and a fork that reproduces it.
type repeat struct {
	*fixture
	*shelf
	t      *testing.T
	link   *brokerlink.Link
	client *workflow.Client
	name   string // of the workflow and, in upper case, of the key
	run    int64
	fork   workflow.RunID
}

func (r *repeat) key() string { return strings.ToUpper(r.name) }

func (r *repeat) profile(k identity.Key) {
	r.t.Helper()
	have, err := r.profiles.Get(r.t.Context(), "acme", r.name)
	if err != nil && !errors.Is(err, identity.ErrNotFound) {
		r.t.Fatal(err)
	}
	err = r.profiles.Put(r.t.Context(), identity.Profile{Name: r.name, Generation: have.Generation, Scope: identity.Scope{Tenant: "acme", Workflow: r.name},
		Keys: map[string]identity.Key{r.key(): k}})
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *repeat) revoke(kind, version string, s identity.State) {
	r.t.Helper()
	err := r.profiles.Revoke(r.t.Context(), identity.Revocation{Tenant: "acme", Kind: kind, Target: r.key(), Version: version, State: s})
	if err != nil {
		r.t.Fatal(err)
	}
}

// starts begins an attempt of a step of a run.
func (r *repeat) starts(run int64, step string, number int) *rpc.Claim {
	r.t.Helper()
	c := &rpc.Claim{Run: run, Seq: 1, Attempt: int32(number), Epoch: 1, Session: 7, Sandbox: rand.Text()}
	r.exec("UPDATE stepward.run SET epoch = 1, session = 7 WHERE id = $1", run)
	r.exec("INSERT INTO stepward.attempt (run_id, started_at, seq, epoch, attempt, mode, key, sandbox_id) VALUES ($1, now(), 1, 1, $2, $3, $4, $5)",
		run, number, int(workflow.Identity), step, c.Sandbox)
	return c
}

// gets returns what an attempt gets: a value, "nothing", or why it is refused.
func (r *repeat) gets(c *rpc.Claim) string {
	o, err := get(r.t.Context(), r.link, c)
	switch {
	case err != nil:
		r.t.Log(err)
		return cmp.Or(reason(err), "later")
	case len(o.Items) == 0:
		return "nothing"
	}
	return string(o.Items[0].Value)
}

// Resume asks for no secret; a retry, and a fork, get the current version; a fork that reproduces gets the
// version that its run had, or is refused: never another value.
func TestReproduce(t *testing.T) {
	const old, current = "the first value", "the second value"
	rows := []struct {
		name   string
		secret string // how the step lists it; "" is by its name
		ref    string // scheme, other than the shelf's
		before func(r *repeat)
		after  func(r *repeat) // the fork was made, and has not started
		step   string          // other than publish
		want   string
		vault  string // where it differs
		then   func(r *repeat)
	}{
		{name: "readable", want: old, then: func(r *repeat) {
			if n := r.count("SELECT count(*)::int FROM stepward.issue WHERE run_id = $1 AND (pins -> 0 -> 'repeats')::bigint = $2", int64(r.fork), r.run); n != 1 {
				r.t.Error("it is not on record what it repeats")
			}
			if got := r.gets(r.starts(r.run, "publish", 2)); got != current {
				r.t.Errorf("a retry of the run gets %s", got)
			}
			if got := r.gets(r.starts(int64(r.fork), "publish", 2)); got != old {
				r.t.Errorf("a retry of the fork gets %s", got)
			}
			plain, err := r.client.Fork(r.t.Context(), workflow.RunID(r.run), workflow.ForkOptions{})
			if err != nil {
				r.t.Fatal(err)
			}
			if got := r.gets(r.starts(int64(plain), "publish", 1)); got != current {
				r.t.Errorf("a fork that does not reproduce gets %s", got)
			}
		}},
		{name: "resumed", want: old, then: func(r *repeat) {
			asked := r.asked
			c := r.starts(r.run, "publish", 2)
			r.exec("INSERT INTO stepward.step (run_id, started_at, input_hash, seq, epoch, done, elapsed, attempt, mode, key, output, error) VALUES ($1, now(), 0, 1, 1, 1, 0, 2, '3', 'publish', '', '')",
				r.run)
			if got := r.gets(c); got != "fenced" || r.asked != asked {
				r.t.Errorf("a step that is done gets %s", got)
			}
		}},
		{name: "again", want: old, after: func(r *repeat) { // a fork of the fork, which has not executed the step
			var err error
			if r.fork, err = r.client.Fork(r.t.Context(), r.fork, workflow.ForkOptions{Reproduce: true}); err != nil {
				r.t.Fatal(err)
			}
		}},
		{name: "deleted", want: "pin", before: func(r *repeat) { r.remove(r.t, r.name) }},
		{name: "destroyed", want: "pin", before: func(r *repeat) { r.end(r.t, r.name) }},
		{name: "redone", want: "mismatch", vault: "pin", before: func(r *repeat) { r.redo(r.t, r.name, current) }},
		{name: "soft", want: "revoked", after: func(r *repeat) { r.revoke(identity.KindKey, "", identity.Soft) }},
		{name: "hard", want: "revoked", after: func(r *repeat) { r.revoke(identity.KindKey, "", identity.Hard) }},
		{name: "version", want: "revoked", before: func(r *repeat) {
			var v string
			if err := r.pool.QueryRow(r.t.Context(), r.in("SELECT pins -> 0 ->> 'version' FROM stepward.issue WHERE run_id = $1"), r.run).Scan(&v); err != nil {
				r.t.Fatal(err)
			}
			r.revoke(identity.KindVersion, v, identity.Soft)
		}},
		{name: "down", want: "later", before: func(r *repeat) { r.down = true }, then: func(r *repeat) {
			r.down = false
			if got := r.gets(r.starts(int64(r.fork), "publish", 2)); got != old {
				r.t.Errorf("later it gets %s", got)
			}
		}},
		{name: "denied", want: "denied", after: func(r *repeat) { r.profile(identity.Key{Deny: true}) }},
		{name: "moved", want: "pin", before: func(r *repeat) { r.profile(identity.Key{Ref: r.ref("elsewhere")}) }},
		{name: "unset", secret: "UNSET?", want: "unresolved", before: func(r *repeat) { r.profile(identity.Key{Unset: true}) }},
		{name: "left_out", secret: "LEFT_OUT?", want: "revoked", after: func(r *repeat) { r.revoke(identity.KindKey, "", identity.Hard) }},
		{name: "not_executed", want: "pin", step: "publish#2"},
		{name: "child", want: "pin", after: func(r *repeat) {
			r.exec(`INSERT INTO stepward.run (id, tenant, workflow, input, version, requirement_id, parent_id)
				SELECT id + 1, tenant, workflow, input, version, requirement_id, id FROM stepward.run WHERE id = $1`, int64(r.fork))
			r.exec("INSERT INTO stepward.binding (run_id, body) SELECT run_id + 1, body FROM stepward.binding WHERE run_id = $1", int64(r.fork))
			r.fork++
		}},
		{name: "other_broker", want: "pin", before: func(r *repeat) {
			r.exec("UPDATE stepward.issue SET pins = jsonb_set(pins, '{0,fingerprint}', '\"00000000-00\"') WHERE run_id = $1", r.run)
		}},
		{name: "leased", ref: "lease://", want: current, then: func(r *repeat) {
			if n := r.count("SELECT count(*)::int FROM stepward.issue WHERE run_id = $1 AND (pins -> 0 -> 'equivalent')::bool", int64(r.fork)); n != 1 {
				r.t.Error("it is not on record that it is no more than equivalent")
			}
		}},
		{name: "unversioned", ref: "bare://", want: "pin", then: func(r *repeat) {
			r.shelf.store.(*memory).values[r.name] = old
			if got := r.gets(r.starts(int64(r.fork), "publish", 2)); got != old {
				r.t.Errorf("while the store has the same value it gets %s", got)
			}
		}},
		{name: "overwritten", ref: "one://", want: "mismatch"},
		{name: "knob", ref: "knob", want: "pin"},
	}
	for name, build := range map[string]func(*testing.T) *shelf{"file": files, "vault": vaulted} {
		t.Run(name, func(t *testing.T) {
			s := build(t)
			f := newFixture(t)
			memories := map[string]*memory{}
			for scheme, version := range map[string]string{"one": "v1", "bare": "-", "lease": "-"} {
				memories[scheme] = &memory{values: map[string]string{}, now: map[string]string{"unversioned": version, "leased": version}, leases: scheme == "lease"}
				f.cfg.Stores[scheme] = memories[scheme]
			}
			f.cfg.Stores[name] = s
			f.exec("INSERT INTO stepward.requirement (id, hash, workflow, version, modes) OVERRIDING SYSTEM VALUE VALUES (1, '', '', '', '{identity}')")
			link := f.serve()
			client, err := workflow.NewClient(workflow.ClientConfig{Pool: f.pool, Schema: f.schema})
			if err != nil {
				t.Fatal(err)
			}
			for i, row := range rows {
				t.Run(row.name, func(t *testing.T) {
					own := *f
					own.t = t
					r := &repeat{fixture: &own, shelf: s, t: t, link: link, client: client, name: row.name, run: runID + int64(i+1)<<20}
					put := func(value string) { s.put(t, row.name, value) }
					key := identity.Key{Ref: s.ref(row.name)}
					if row.ref == "knob" {
						put = func(value string) { r.profile(identity.Key{Knob: value}) }
					} else if scheme, _, other := strings.Cut(row.ref, "://"); other {
						m := memories[scheme]
						r.shelf = &shelf{store: m}
						put = func(value string) { m.values[row.name] = value }
						key.Ref = row.ref + row.name
					}
					put(old)
					if row.ref != "knob" {
						r.profile(key)
					}
					steps, err := json.Marshal([]map[string]any{{"name": "publish", "secrets": []string{cmp.Or(row.secret, r.key())}}})
					if err != nil {
						t.Fatal(err)
					}
					r.exec("INSERT INTO stepward.definition (workflow, version, requirement_id, steps) VALUES ($1, '1', 1, $2)", row.name, steps)
					r.exec("INSERT INTO stepward.run (id, tenant, workflow, input, version, requirement_id) VALUES ($1, 'acme', $2, '', '1', 1)", r.run, row.name)
					r.bindRun(r.run, identity.Scope{Tenant: "acme", Workflow: row.name}, nil)
					if got := r.gets(r.starts(r.run, "publish", 1)); got != old {
						t.Fatalf("the run was given %s", got)
					}
					put(current)
					if row.before != nil {
						row.before(r)
					}
					if r.fork, err = client.Fork(t.Context(), workflow.RunID(r.run), workflow.ForkOptions{Reproduce: true}); err != nil {
						t.Fatal(err)
					}
					if row.after != nil {
						row.after(r)
					}
					want := row.want
					if name == "vault" {
						want = cmp.Or(row.vault, want)
					}
					if got := r.gets(r.starts(int64(r.fork), cmp.Or(row.step, "publish"), 1)); got != want {
						t.Errorf("the fork gets %s, want %s", got, want)
					}
					if row.then != nil {
						row.then(r)
					}
				})
			}
		})
	}
}
