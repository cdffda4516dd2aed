package vault_test

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/stepward/stepward/identity/broker"
	"github.com/stepward/stepward/identity/identitytest"
	"github.com/stepward/stepward/identity/vault"
	"github.com/stepward/stepward/internal/testenv"
)

// A bench is a Vault with what the tests of this package share.
type bench struct {
	addr string
	root *api.Client
	kv   string // mount of a key/value engine of version 2
}

var (
	benchOnce sync.Once
	shared    bench
)

func open(t testing.TB) bench {
	t.Helper()
	server := testenv.Vault(t)
	benchOnce.Do(func() {
		root := client(t, server.Address, server.Token)
		kv := unique("kv")
		must(t, root, "sys/mounts/"+kv, map[string]any{"type": "kv", "options": map[string]string{"version": "2"}})
		// A new engine is not there for a moment.
		for _, err := root.KVv2(kv).Put(t.Context(), "ready", map[string]any{"x": "y"}); err != nil; {
			_, err = root.KVv2(kv).Put(t.Context(), "ready", map[string]any{"x": "y"})
			if t.Context().Err() != nil {
				t.Fatal(err)
			}
		}
		shared = bench{server.Address, root, kv}
	})
	if shared.root == nil {
		t.Fatal("Vault could not be prepared")
	}
	return shared
}

func unique(name string) string { return name + "-" + strings.ToLower(rand.Text()[:12]) }

func client(t testing.TB, addr, token string) *api.Client {
	t.Helper()
	c, err := api.NewClient(&api.Config{Address: addr})
	if err != nil {
		t.Fatal(err)
	}
	c.ClearNamespace()
	c.SetToken(token)
	return c
}

func must(t testing.TB, c *api.Client, path string, data map[string]any) *api.Secret {
	t.Helper()
	secret, err := c.Logical().WriteWithContext(context.WithoutCancel(t.Context()), path, data)
	if err != nil {
		t.Fatal(err)
	}
	return secret
}

// A login counts, and remembers what it has got.
type login struct {
	api.AuthMethod
	mu     sync.Mutex
	tokens []string
}

func (l *login) Login(ctx context.Context, c *api.Client) (*api.Secret, error) {
	s, err := l.AuthMethod.Login(ctx, c)
	if err == nil {
		l.mu.Lock()
		l.tokens = append(l.tokens, s.Auth.ClientToken)
		l.mu.Unlock()
	}
	return s, err
}

func (l *login) last() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.tokens[len(l.tokens)-1]
}

// approle makes a role with this policy.
func (b bench) approle(t testing.TB, policy string) (method vault.AppRole, secret string) {
	t.Helper()
	mount, name := unique("approle"), unique("policy")
	must(t, b.root, "sys/auth/"+mount, map[string]any{"type": "approle"})
	must(t, b.root, "sys/policies/acl/"+name, map[string]any{"policy": policy})
	must(t, b.root, "auth/"+mount+"/role/broker", map[string]any{"token_policies": name})
	id, err := b.root.Logical().Read("auth/" + mount + "/role/broker/role-id")
	if err != nil {
		t.Fatal(err)
	}
	secret = must(t, b.root, "auth/"+mount+"/role/broker/secret-id", nil).Data["secret_id"].(string)
	return vault.AppRole{RoleID: id.Data["role_id"].(string), Mount: mount, SecretID: func(context.Context) (string, error) { return secret + "\n", nil }}, secret
}

func (b bench) reader(kv string) string {
	return fmt.Sprintf("path %q { capabilities = [\"read\"] }\npath %q { capabilities = [\"read\"] }\n", kv+"/data/*", kv+"/metadata/*")
}

func store(t testing.TB, c vault.Config) *vault.Store {
	t.Helper()
	s, err := vault.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func number(t testing.TB, version string) int {
	t.Helper()
	n, _, _ := strings.Cut(version, "@")
	i, err := strconv.Atoi(n)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func TestStore(t *testing.T) {
	b := open(t)
	db := newDatabase(t, b)
	method, secretID := b.approle(t, b.reader(b.kv)+db.policy)
	auth := &login{AuthMethod: method}
	identitytest.TestStore(t, func(t *testing.T) identitytest.Fixture {
		target, err := url.Parse(b.addr)
		if err != nil {
			t.Fatal(err)
		}
		between := httptest.NewServer(httputil.NewSingleHostReverseProxy(target))
		t.Cleanup(between.Close)
		place := unique("suite") + "/"
		s := store(t, vault.Config{Address: between.URL, Auth: auth, TokenRole: db.role, Places: []vault.Place{
			{Mount: b.kv, Path: place + "{tenant}/"}, {Mount: db.mount, Path: "creds/{tenant}-app", Dynamic: true},
		}})
		kv := b.root.KVv2(b.kv)
		check := func(t testing.TB, err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		return identitytest.Fixture{
			Store: s,
			Put: func(t testing.TB, tenant, name string, value []byte) string {
				_, err := kv.Put(t.Context(), place+tenant+"/"+name, map[string]any{"value": string(value)})
				check(t, err)
				return b.kv + "/" + place + tenant + "/" + name + "#value"
			},
			Remove: func(t testing.TB, tenant, name string) {
				check(t, kv.DeleteMetadata(t.Context(), place+tenant+"/"+name))
			},
			Destroy: func(t testing.TB, tenant, name, version string) {
				check(t, kv.Destroy(t.Context(), place+tenant+"/"+name, []int{number(t, version)}))
			},
			Break:   func(testing.TB) { between.Close() },
			Lease:   func(testing.TB, string) string { return db.mount + "/creds/acme-app" },
			Live:    db.live,
			Secrets: []string{secretID, "hvs.", auth.AuthMethod.(vault.AppRole).RoleID},
		}
	})
}

func request(path, version string) broker.Request {
	return broker.Request{Path: path, Version: version, Tenant: "acme", Attempt: unique("1/2"), Until: time.Now().Add(time.Hour)}
}

// root returns a store that reads with the root token.
func (b bench) store(t testing.TB, places ...vault.Place) *vault.Store {
	if len(places) == 0 {
		places = []vault.Place{{Mount: b.kv, Path: t.Name() + "/"}}
	}
	return store(t, vault.Config{Address: b.addr, Places: places, Auth: vault.Token{Source: func(context.Context) (string, error) { return b.root.Token() + "\n", nil }}})
}

// Case 36, as far as it is the store's: what became of a version that was pinned.
func TestVersionsThatEnd(t *testing.T) {
	b := open(t)
	s := b.store(t)
	kv := b.root.KVv2(b.kv)
	path := t.Name() + "/key"
	for i := range 3 {
		if _, err := kv.Put(t.Context(), path, map[string]any{"v": fmt.Sprint("value ", i+1)}); err != nil {
			t.Fatal(err)
		}
	}
	get := func(version string) (broker.Value, error) { return s.Get(t.Context(), request(b.kv+"/"+path, version)) }
	current, err := get("")
	if err != nil || string(current.Bytes) != "value 3" {
		t.Fatal(err)
	}
	if v, err := get("2"); err != nil || string(v.Bytes) != "value 2" || !strings.HasPrefix(v.Version, "2@20") {
		t.Errorf("a version by its number alone: %+v, %v", v, err)
	}
	fails := func(version string, want error) {
		t.Helper()
		if _, err := get(version); !errors.Is(err, want) {
			t.Errorf("version %q: %v, want %v", version, err, want)
		}
	}
	if err := errors.Join(kv.DeleteVersions(t.Context(), path, []int{3}), kv.Destroy(t.Context(), path, []int{1})); err != nil {
		t.Fatal(err)
	}
	fails("", broker.ErrNoVersion)
	fails(current.Version, broker.ErrNoVersion)
	fails("1", broker.ErrNoVersion)
	fails("4", broker.ErrNoVersion)
	if err := kv.Undelete(t.Context(), path, []int{3}); err != nil {
		t.Fatal(err)
	}
	if v, err := get(current.Version); err != nil || v.Version != current.Version {
		t.Errorf("undeleted: %v", err)
	}
	// Made again with the same number: not what it was.
	if err := kv.DeleteMetadata(t.Context(), path); err != nil {
		t.Fatal(err)
	}
	fails("3", broker.ErrNoSecret)
	for range 3 {
		if _, err := kv.Put(t.Context(), path, map[string]any{"v": "value 3"}); err != nil {
			t.Fatal(err)
		}
	}
	fails(current.Version, broker.ErrNoVersion)
}

func TestFields(t *testing.T) {
	b := open(t)
	s := b.store(t)
	path := t.Name() + "/many"
	if _, err := b.root.KVv2(b.kv).Put(t.Context(), path, map[string]any{"user": "ada", "port": 5432, "more": map[string]any{"a": "<&>"}}); err != nil {
		t.Fatal(err)
	}
	for field, want := range map[string]string{"#user": "ada", "#port": "5432", "#more": `{"a":"<&>"}`} {
		if v, err := s.Get(t.Context(), request(b.kv+"/"+path+field, "")); err != nil || string(v.Bytes) != want {
			t.Errorf("%s: %q, %v", field, v.Bytes, err)
		}
	}
	for _, field := range []string{"", "#absent", "#metadata", "#User"} {
		if _, err := s.Get(t.Context(), request(b.kv+"/"+path+field, "")); !errors.Is(err, broker.ErrNoSecret) {
			t.Errorf("%q: %v", field, err)
		}
	}
}

// What is too large is given whole, for the broker to refuse (case 47).
func TestTooLarge(t *testing.T) {
	b := open(t)
	large := strings.Repeat("x", broker.MaxValue+1)
	if _, err := b.root.KVv2(b.kv).Put(t.Context(), t.Name()+"/x", map[string]any{"v": large}); err != nil {
		t.Fatal(err)
	}
	if v, err := b.store(t).Get(t.Context(), request(b.kv+"/"+t.Name()+"/x", "")); err != nil || string(v.Bytes) != large {
		t.Errorf("%d bytes, %v", len(v.Bytes), err)
	}
}

// What the broker's policy does not allow is denied, and the error says what Vault said, once.
func TestDenied(t *testing.T) {
	b := open(t)
	method, _ := b.approle(t, `path "`+b.kv+`/data/TestDenied/open" { capabilities = ["read"] }`)
	auth := &login{AuthMethod: method}
	s := store(t, vault.Config{Address: b.addr, Auth: auth, Places: []vault.Place{{Mount: b.kv, Path: t.Name() + "/"}, {Mount: "cubbyhole", Path: "x"}, {Mount: "sys", Path: "health"}}})
	for _, name := range []string{"open", "closed"} {
		if _, err := b.root.KVv2(b.kv).Put(t.Context(), t.Name()+"/"+name, map[string]any{"v": "x"}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Get(t.Context(), request(b.kv+"/"+t.Name()+"/open", "")); err != nil {
		t.Error(err)
	}
	// Its metadata may not be read, which nothing depends on.
	if _, err := s.Get(t.Context(), request(b.kv+"/"+t.Name()+"/open", "7")); !errors.Is(err, broker.ErrNoVersion) {
		t.Error(err)
	}
	_, err := s.Get(t.Context(), request(b.kv+"/"+t.Name()+"/closed", ""))
	e, ok := errors.AsType[*vault.Error](err)
	if !errors.Is(err, broker.ErrDenied) || !ok || e.Status != 403 || !strings.Contains(err.Error(), "permission denied") {
		t.Errorf("%v", err)
	}
	if len(auth.tokens) != 1 {
		t.Errorf("%d logins for a denial", len(auth.tokens))
	}
	// No key/value engine of version 2.
	for _, path := range []string{"cubbyhole/x", "sys/health"} {
		if v, err := s.Get(t.Context(), request(path, "")); !errors.Is(err, broker.ErrDenied) && !errors.Is(err, broker.ErrNoSecret) && !errors.Is(err, broker.ErrName) {
			t.Errorf("%s: %q, %v", path, v.Bytes, err)
		}
	}
}

// A token that Vault does not know any more is followed by another.
func TestTokenEnds(t *testing.T) {
	b := open(t)
	method, _ := b.approle(t, b.reader(b.kv))
	auth := &login{AuthMethod: method}
	s := store(t, vault.Config{Address: b.addr, Auth: auth, Places: []vault.Place{{Mount: b.kv, Path: t.Name() + "/"}}})
	if _, err := b.root.KVv2(b.kv).Put(t.Context(), t.Name()+"/x", map[string]any{"v": "x"}); err != nil {
		t.Fatal(err)
	}
	for want := 1; want < 4; want++ {
		if _, err := s.Get(t.Context(), request(b.kv+"/"+t.Name()+"/x", "")); err != nil {
			t.Fatal(err)
		}
		if len(auth.tokens) != want {
			t.Errorf("%d logins, want %d", len(auth.tokens), want)
		}
		must(t, b.root, "auth/token/revoke", map[string]any{"token": auth.last()})
	}
}

func TestLogin(t *testing.T) {
	b := open(t)
	for name, auth := range map[string]api.AuthMethod{
		"no token":    vault.Token{Source: func(context.Context) (string, error) { return "", nil }},
		"no source":   vault.Token{Source: func(context.Context) (string, error) { return "", errors.New("the agent is gone") }},
		"wrong role":  vault.AppRole{RoleID: "cAnArY", SecretID: func(context.Context) (string, error) { return "cAnArY", nil }},
		"wrong mount": vault.AppRole{Mount: "../sys", SecretID: func(context.Context) (string, error) { return "cAnArY", nil }},
		"no pod":      vault.Kubernetes{TokenFile: "/does/not/exist"},
	} {
		s := store(t, vault.Config{Address: b.addr, Auth: auth})
		_, err := s.Get(t.Context(), request("secret/acme/x", ""))
		if err == nil || strings.Contains(err.Error(), "cAnArY") || !strings.Contains(err.Error(), "log in") {
			t.Errorf("%s: %v", name, err)
		}
		for _, verdict := range []error{broker.ErrNoSecret, broker.ErrDenied} {
			if errors.Is(err, verdict) {
				t.Errorf("%s: %v is about the broker, and not about the secret", name, err)
			}
		}
	}
	if _, err := store(t, vault.Config{Address: b.addr, Auth: vault.Token{Source: func(context.Context) (string, error) { return "hvs.cAnArYcAnArYcAnArYcAnArY", nil }}}).Get(t.Context(), request("secret/acme/x", "")); err == nil || strings.Contains(err.Error(), "cAnArY") {
		t.Errorf("a wrong token: %v", err)
	}
}

// The pod's token is reviewed by what stands for the API server, and says so of one account only.
func TestKubernetesLogin(t *testing.T) {
	b := open(t)
	jwt := func(account string) string {
		part := func(v any) string {
			data, _ := json.Marshal(v)
			return base64.RawURLEncoding.EncodeToString(data)
		}
		return part(map[string]string{"alg": "RS256", "typ": "JWT"}) + "." + part(map[string]any{
			"iss": "kubernetes/serviceaccount", "sub": "system:serviceaccount:prod:" + account, "iat": time.Now().Unix(), "nbf": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix(),
			"kubernetes.io": map[string]any{"namespace": "prod", "serviceaccount": map[string]string{"name": account, "uid": "u-" + account}},
		}) + ".c2ln"
	}
	good := jwt("broker")
	review := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var in struct {
			Spec struct{ Token string }
		}
		_ = json.NewDecoder(r.Body).Decode(&in)
		account := "other"
		if in.Spec.Token == good {
			account = "broker"
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusCreated)
		_ = json.NewEncoder(w).Encode(map[string]any{"kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "status": map[string]any{
			"authenticated": true, "user": map[string]any{"username": "system:serviceaccount:prod:" + account, "uid": "u-" + account},
		}})
	}))
	defer review.Close()
	mount, policy := unique("kubernetes"), unique("policy")
	must(t, b.root, "sys/auth/"+mount, map[string]any{"type": "kubernetes"})
	must(t, b.root, "sys/policies/acl/"+policy, map[string]any{"policy": b.reader(b.kv)})
	must(t, b.root, "auth/"+mount+"/config", map[string]any{"kubernetes_host": review.URL, "token_reviewer_jwt": jwt("reviewer"), "disable_local_ca_jwt": true})
	must(t, b.root, "auth/"+mount+"/role/broker", map[string]any{"bound_service_account_names": "broker", "bound_service_account_namespaces": "prod", "token_policies": policy})
	if _, err := b.root.KVv2(b.kv).Put(t.Context(), t.Name()+"/x", map[string]any{"v": "x"}); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "token")
	s := store(t, vault.Config{Address: b.addr, Auth: vault.Kubernetes{Role: "broker", TokenFile: file, Mount: mount}, Places: []vault.Place{{Mount: b.kv, Path: t.Name() + "/"}}})
	for _, test := range []struct {
		token string
		ok    bool
	}{{jwt("other"), false}, {good, true}} {
		if err := os.WriteFile(file, []byte(test.token+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := s.Get(t.Context(), request(b.kv+"/"+t.Name()+"/x", ""))
		if (err == nil) != test.ok || err != nil && strings.Contains(err.Error(), test.token) {
			t.Errorf("%v", err)
		}
	}
}

// Case 57: what stands for a Vault in trouble answers with what it was sent.
func TestTroubledVault(t *testing.T) {
	const canary = "hvs.cAnArYcAnArYcAnArYcAnArY"
	hang := make(chan struct{})
	for _, test := range []struct {
		name   string
		answer http.HandlerFunc
		says   string
		status int
	}{
		{"sealed", func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, `{"errors":["Vault is sealed"]}`, http.StatusServiceUnavailable)
		}, "Vault is sealed", 503},
		{"proxy page", func(w http.ResponseWriter, r *http.Request) {
			http.Error(w, "<html>"+r.Header.Get("X-Vault-Token"), http.StatusBadGateway)
		}, "502", 502},
		{"echo", func(w http.ResponseWriter, r *http.Request) {
			http.Error(w, `{"errors":["token `+r.Header.Get("X-Vault-Token")+` is strange"]}`, http.StatusInternalServerError)
		}, "[token] is strange", 500},
		{"too many requests", func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, `{"errors":["slow down"]}`, http.StatusTooManyRequests)
		}, "429", 429},
		{"no JSON", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, canary) }, "", 0},
		{"slow", func(_ http.ResponseWriter, r *http.Request) {
			select {
			case <-hang:
			case <-r.Context().Done():
			}
		}, "deadline", 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewServer(test.answer)
			defer server.Close()
			s := store(t, vault.Config{Address: server.URL, Timeout: 2 * time.Second, Auth: vault.Token{Source: func(context.Context) (string, error) { return canary, nil }}})
			_, err := s.Get(t.Context(), request("secret/acme/x", ""))
			if err == nil || strings.Contains(fmt.Sprintf("%v %#v", err, err), "cAnArY") || !strings.Contains(err.Error(), test.says) {
				t.Errorf("%v", err)
			}
			if e, ok := errors.AsType[*vault.Error](err); !ok || e.Status != test.status {
				t.Errorf("%v is not typed, or not of status %d", err, test.status)
			}
			for _, verdict := range []error{broker.ErrNoSecret, broker.ErrNoVersion, broker.ErrName, broker.ErrDenied, broker.ErrCorrupt} {
				if errors.Is(err, verdict) {
					t.Errorf("%v is no failure that passes", err)
				}
			}
		})
	}
	t.Cleanup(func() { close(hang) })
}

// Nothing is taken from the environment of the broker's process.
func TestEnvironment(t *testing.T) {
	b := open(t)
	t.Setenv("VAULT_TOKEN", "wrong")
	t.Setenv("VAULT_NAMESPACE", "wrong")
	t.Setenv("VAULT_ADDR", "http://127.0.0.1:1")
	s := b.store(t)
	if _, err := b.root.KVv2(b.kv).Put(t.Context(), t.Name()+"/x", map[string]any{"v": "x"}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(t.Context(), request(b.kv+"/"+t.Name()+"/x", "")); err != nil {
		t.Error(err)
	}
}
