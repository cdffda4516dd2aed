package vault_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stepward/stepward/identity/broker"
	"github.com/stepward/stepward/identity/vault"
	"github.com/stepward/stepward/internal/testenv"
)

// A database is a Postgres that Vault makes users in.
type database struct {
	mount, role, policy string
	config              *pgx.ConnConfig
}

func newDatabase(t testing.TB, b bench) database {
	t.Helper()
	config, err := pgx.ParseConfig(testenv.PostgresURL(t))
	if err != nil {
		t.Fatal(err)
	}
	d := database{mount: unique("database"), role: unique("role"), config: config}
	must(t, b.root, "sys/mounts/"+d.mount, map[string]any{"type": "database"})
	must(t, b.root, d.mount+"/config/postgres", map[string]any{
		"plugin_name": "postgresql-database-plugin", "allowed_roles": "*",
		"connection_url": fmt.Sprintf("host=%s port=%d dbname=%s user={{username}} password={{password}} sslmode=disable", config.Host, config.Port, config.Database),
		"username":       config.User, "password": config.Password,
	})
	must(t, b.root, d.mount+"/roles/acme-app", map[string]any{
		"db_name": "postgres", "default_ttl": "60s", "max_ttl": "24h",
		"creation_statements": `CREATE ROLE "{{name}}" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'`,
	})
	policy := unique("policy")
	must(t, b.root, "sys/policies/acl/"+policy, map[string]any{"policy": `
		path "` + d.mount + `/creds/*" { capabilities = ["read"] }
		path "sys/leases/renew" { capabilities = ["update"] }`})
	must(t, b.root, "auth/token/roles/"+d.role, map[string]any{"orphan": true, "renewable": false, "allowed_policies": policy, "token_no_default_policy": true})
	d.policy = `
		path "auth/token/create/` + d.role + `" { capabilities = ["update"] }
		path "auth/token/revoke-accessor" { capabilities = ["update"] }
		path "sys/leases/revoke/` + d.mount + `/*" { capabilities = ["update"] }`
	return d
}

// live reports whether a user that Vault made is there.
func (d database) live(t testing.TB, v broker.Value) bool {
	t.Helper()
	var user struct{ Username, Password string }
	if err := json.Unmarshal(v.Bytes, &user); err != nil || user.Username == "" || user.Password == "" {
		t.Fatalf("no user: %v", err)
	}
	conn, err := pgx.ConnectConfig(t.Context(), d.config)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	var n int
	if err := conn.QueryRow(t.Context(), "SELECT count(*) FROM pg_roles WHERE rolname = $1", user.Username).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n == 1
}

func (d database) store(t testing.TB, b bench, role string) (*vault.Store, *login) {
	t.Helper()
	method, _ := b.approle(t, d.policy+`
		path "auth/token/create/`+role+`" { capabilities = ["update"] }`)
	auth := &login{AuthMethod: method}
	return store(t, vault.Config{Address: b.addr, Auth: auth, TokenRole: role, Places: []vault.Place{{Mount: d.mount, Path: "creds/{tenant}-app", Dynamic: true}}}), auth
}

// A user's name and its password, two keys of an attempt, are of one user, which lives as long
// as the attempt may take, whatever becomes of the broker's own token (case 17).
func TestLeaseOfAnAttempt(t *testing.T) {
	b := open(t)
	d := newDatabase(t, b)
	s, auth := d.store(t, b, d.role)
	path := d.mount + "/creds/acme-app"
	r := request(path+"#username", "")
	name, err := s.Get(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	r.Path = path + "#password"
	password, err := s.Get(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	r.Path = path
	all, err := s.Get(t.Context(), r)
	if err != nil || name.Lease == "" || name.Lease != password.Lease || all.Lease != name.Lease || name.Version != "" {
		t.Fatalf("leases %q, %q, %q, %v", name.Lease, password.Lease, all.Lease, err)
	}
	if !strings.Contains(string(all.Bytes), string(name.Bytes)) || !strings.Contains(string(all.Bytes), string(password.Bytes)) {
		t.Error("the keys are of two users")
	}
	if v, err := s.Get(t.Context(), request(path+"#absent", "")); !errors.Is(err, broker.ErrNoSecret) || v.Lease == "" {
		t.Errorf("a field that is not there: %v, lease %q", err, v.Lease)
	} else if err := s.Revoke(t.Context(), v.Lease); err != nil {
		t.Error(err)
	}

	accessor, lease, _ := strings.Cut(name.Lease, "/")
	token := must(t, b.root, "auth/token/lookup-accessor", map[string]any{"accessor": accessor})
	if token.Data["orphan"] != true || token.Data["renewable"] != false || fmt.Sprint(token.Data["policies"]) == "[root]" {
		t.Errorf("the token of the attempt: %v", token.Data)
	}
	if life, _ := token.Data["explicit_max_ttl"].(json.Number).Int64(); life < 3500 || life > 3600 {
		t.Errorf("it ends after %d s", life)
	}
	if ttl, _ := must(t, b.root, "sys/leases/lookup", map[string]any{"lease_id": lease}).Data["ttl"].(json.Number).Int64(); ttl < 3000 {
		t.Errorf("the user ends after %d s, and the attempt after an hour", ttl)
	}

	must(t, b.root, "auth/token/revoke", map[string]any{"token": auth.last()})
	if !d.live(t, all) {
		t.Error("the user ended with the broker's token")
	}
	// Another process may end it.
	other, _ := d.store(t, b, d.role)
	if err := other.Revoke(t.Context(), name.Lease); err != nil {
		t.Fatal(err)
	}
	if d.live(t, all) {
		t.Error("the user is still there")
	}
	if _, err := b.root.Logical().Write("auth/token/lookup-accessor", map[string]any{"accessor": accessor}); err == nil {
		t.Error("the token is still there")
	}
	if err := s.Revoke(t.Context(), name.Lease); err != nil {
		t.Errorf("revoked again: %v", err)
	}
	if again, err := s.Get(t.Context(), r); err != nil || again.Lease == name.Lease {
		t.Errorf("what was revoked was given out: %v", err)
	} else if err := s.Revoke(t.Context(), again.Lease); err != nil {
		t.Error(err)
	}
}

// A secret that could not be given leaves no token behind (case 35), and neither does one under a
// token that would end with the broker's.
func TestNoTokenIsLeft(t *testing.T) {
	b := open(t)
	d := newDatabase(t, b)
	bound := unique("role")
	must(t, b.root, "auth/token/roles/"+bound, map[string]any{"orphan": false, "allowed_policies": "default"})
	for role, want := range map[string]error{bound: broker.ErrDenied, d.role: broker.ErrNoSecret} {
		s, _ := d.store(t, b, role)
		r := request(d.mount+"/creds/globex-app", "")
		r.Tenant, r.Attempt = "globex", unique("attempt")
		v, err := s.Get(t.Context(), r)
		if !errors.Is(err, want) || v.Lease != "" {
			t.Errorf("role %s: %v, want %v", role, err, want)
		}
		for _, accessor := range list(t, b, "auth/token/accessors") {
			token, err := b.root.Logical().Write("auth/token/lookup-accessor", map[string]any{"accessor": accessor})
			if err == nil && token != nil {
				if meta, ok := token.Data["meta"].(map[string]any); ok && meta["attempt"] == r.Attempt {
					t.Errorf("role %s: a token was left", role)
				}
			}
		}
	}
}

func list(t testing.TB, b bench, path string) []any {
	t.Helper()
	secret, err := b.root.Logical().List(path)
	if err != nil {
		t.Fatal(err)
	}
	return secret.Data["keys"].([]any)
}

// A revocation that the source did not carry out is none (case 34).
func TestRevokeFails(t *testing.T) {
	b := open(t)
	d := newDatabase(t, b)
	must(t, b.root, d.mount+"/roles/acme-app", map[string]any{
		"db_name": "postgres", "default_ttl": "60s", "max_ttl": "24h",
		"creation_statements":   `CREATE ROLE "{{name}}" LOGIN PASSWORD '{{password}}'`,
		"revocation_statements": `SELECT 1/0 AS "{{name}}"`,
	})
	s, _ := d.store(t, b, d.role)
	v, err := s.Get(t.Context(), request(d.mount+"/creds/acme-app", ""))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Revoke(t.Context(), v.Lease); err == nil || strings.Contains(err.Error(), "denied") || !d.live(t, v) {
		t.Errorf("%v", err)
	}
	must(t, b.root, d.mount+"/roles/acme-app", map[string]any{
		"db_name": "postgres", "revocation_statements": `DROP ROLE "{{name}}"`,
		"creation_statements": `CREATE ROLE "{{name}}" LOGIN PASSWORD '{{password}}'`,
	})
	if err := s.Revoke(t.Context(), v.Lease); err != nil || d.live(t, v) {
		t.Errorf("after the cure: %v", err)
	}
}

func TestLeaseIsOver(t *testing.T) {
	b := open(t)
	d := newDatabase(t, b)
	s, _ := d.store(t, b, d.role)
	r := request(d.mount+"/creds/acme-app", "")
	r.Until = time.Now().Add(-time.Second)
	if _, err := s.Get(t.Context(), r); !errors.Is(err, broker.ErrDenied) {
		t.Errorf("for an attempt that is over: %v", err)
	}
	r = request(d.mount+"/creds/acme-app", "1")
	if _, err := s.Get(t.Context(), r); !errors.Is(err, broker.ErrNoVersion) {
		t.Errorf("a version of what has none: %v", err)
	}
}
