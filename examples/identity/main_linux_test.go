package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/hashicorp/vault/api"
	"github.com/jackc/pgx/v5"

	"github.com/stepward/stepward/examples/internal/app"
	"github.com/stepward/stepward/examples/internal/apptest"
	"github.com/stepward/stepward/identity/broker"
	"github.com/stepward/stepward/identity/filestore"
	"github.com/stepward/stepward/internal/testenv"
)

func TestMain(m *testing.M) {
	initialize()
	os.Exit(m.Run())
}

// output is what the example prints, with the file store.
const output = `
	acme    deployed to eu with deploy-token 1 of acme
	and its log says "PUT /site Authorization: Bearer [REDACTED:DEPLOY_TOKEN]"
	globex  deployed to us with deploy-token 1 of globex, and purged its cache
	and its log says "PUT /site Authorization: Bearer [REDACTED:DEPLOY_TOKEN]"

	In environment dev, a policy of globex keeps the token of its cache from deploys:
	globex  deployed to us with deploy-token 1 of globex
	upload DEPLOY_TOKEN: file://deploy-token of profile globex (tenant globex)
	upload REGION: us of profile globex (tenant globex); shadows profile defaults (deployment)
	upload CDN_TOKEN: not given: identity: step upload: CDN_TOKEN: denied: by the policy of profile globex (tenant globex): cdn-of-prod forbids it

	A deploy of acme waits for a review. If it started now:
	upload DEPLOY_TOKEN: file://deploy-token of profile acme (tenant acme)
	upload REGION: eu of profile defaults (deployment)
	upload CDN_TOKEN: not given: identity: step upload: CDN_TOKEN: no profile sets it
	Its token is rotated, and the deploy approved:
	acme    deployed to eu with deploy-token 2 of acme

	Its token is revoked, soft, while one deploy runs and another waits:
	acme    deployed to eu with deploy-token 2 of acme
	acme    failed as "revoked": step upload, attempt 1: broker: identity: step upload: DEPLOY_TOKEN: revoked: key DEPLOY_TOKEN, soft
	acme    enqueues in vain: workflow: enqueue deploy: identity: step upload: DEPLOY_TOKEN: revoked: key DEPLOY_TOKEN, soft
	There is another token:
	acme    deployed to eu with deploy-token 3 of acme

	The token of globex is revoked, hard, in the middle of a deploy:
	globex  failed as "revoked": step upload, attempt 1: broker: DEPLOY_TOKEN: key DEPLOY_TOKEN is revoked (hard)

	On record:
	acme    profile.put      by ops@example.com acme
	acme    envelope.issued  by broker          level L1-dev to upload: DEPLOY_TOKEN@1 REGION
	acme    key.rotated      by ops@example.com DEPLOY_TOKEN@2
	acme    envelope.issued  by broker          level L1-dev to upload: DEPLOY_TOKEN@2 REGION
	acme    envelope.issued  by broker          level L1-dev to upload: DEPLOY_TOKEN@2 REGION
	acme    identity.revoked by ops@example.com DEPLOY_TOKEN, soft: it was in a screenshot
	acme    envelope.refused by broker          broker: identity: step upload: DEPLOY_TOKEN: revoked: key DEPLOY_TOKEN, soft
	acme    key.rotated      by ops@example.com DEPLOY_TOKEN@3
	acme    envelope.issued  by broker          level L1-dev to upload: DEPLOY_TOKEN@3 REGION
	globex  profile.put      by ops@example.com globex
	globex  envelope.issued  by broker          level L1-dev to upload: DEPLOY_TOKEN@1 REGION CDN_TOKEN@1
	globex  key.withheld     by broker          identity: step upload: CDN_TOKEN: denied: by the policy of profile globex (tenant globex): cdn-of-prod forbids it
	globex  envelope.issued  by broker          level L1-dev to upload: DEPLOY_TOKEN@1 REGION
	globex  envelope.issued  by broker          level L1-dev to upload: DEPLOY_TOKEN@1 REGION CDN_TOKEN@1
	globex  identity.revoked by ops@example.com DEPLOY_TOKEN, hard: it was in a screenshot
	globex  envelope.refused by broker          broker: DEPLOY_TOKEN: key DEPLOY_TOKEN is revoked (hard)
`

// TestOutput runs the example, and then looks for every value that its store has had in all that
// it printed and logged, and in every row. That the search sees is shown by a value that the test plants
// beside them.
func TestOutput(t *testing.T) {
	t.Setenv(dirEnv, t.TempDir())
	t.Setenv(vaultEnv, "")
	logs, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
	if err != nil {
		t.Fatal(err)
	}
	defer logs.Close()
	stderr := os.Stderr
	os.Stderr = logs
	defer func() { os.Stderr = stderr }()

	var values []string
	apptest.Output(t, func(ctx context.Context, a *app.App) error {
		if err := example(ctx, a); err != nil {
			return err
		}
		if values, err = stored(ctx); err != nil {
			return err
		}
		return search(ctx, t, a, values)
	}, output) // which is compared whole
	os.Stderr = stderr
	if len(values) != 5 {
		t.Fatalf("the store had %d values, want 5", len(values))
	}
	logged, err := os.ReadFile(logs.Name())
	if err != nil {
		t.Fatal(err)
	}
	if n := hits(string(logged), values); n > 0 {
		t.Errorf("%d values were logged:\n%s", n, logged)
	}
	if hits("x"+values[0]+"y", values) != 1 {
		t.Error("a value that is there is not found")
	}
}

// stored returns all that the file store has had.
func stored(ctx context.Context) (values []string, err error) {
	s, err := openStore()
	if err != nil {
		return nil, err
	}
	files := s.(*filestore.Store)
	defer files.Close()
	for _, x := range secrets {
		versions, err := files.Versions(ctx, x.tenant, x.name)
		if err != nil {
			return nil, err
		}
		for _, v := range versions {
			got, err := files.Get(ctx, broker.Request{Tenant: x.tenant, Path: x.name, Version: v.Version})
			if err != nil {
				return nil, err
			}
			values = append(values, string(got.Bytes))
		}
	}
	return values, nil
}

// hits counts how many values a text has, as they are or as hexadecimal digits, which bytes of a row are, or in Base64.
func hits(text string, values []string) (n int) {
	for _, v := range values {
		for _, form := range []string{v, hex.EncodeToString([]byte(v)), base64.RawStdEncoding.EncodeToString([]byte(v))} {
			if strings.Contains(text, form) {
				n++
			}
		}
	}
	return n
}

// search looks for values in all rows of the example.
func search(ctx context.Context, t *testing.T, a *app.App, values []string) error {
	planted := pgx.Identifier{a.Tables, "planted"}.Sanitize()
	plain := values[0]
	if _, err := a.Pool.Exec(ctx, "CREATE TABLE "+planted+" (plain text, raw bytea, encoded jsonb)"); err != nil {
		return err
	}
	if _, err := a.Pool.Exec(ctx, "INSERT INTO "+planted+" VALUES ($1, $2, to_jsonb($3::text))", plain, []byte(plain),
		base64.StdEncoding.EncodeToString([]byte(plain))); err != nil {
		return err
	}
	rows, err := a.Pool.Query(ctx, `SELECT schemaname, tablename FROM pg_tables WHERE schemaname = ANY($1)`,
		[]string{a.Schema, a.Schema + "_river", a.Tables})
	if err != nil {
		return err
	}
	tables, err := pgx.CollectRows(rows, pgx.RowToStructByPos[struct{ Schema, Name string }])
	if err != nil {
		return err
	}
	seen := ""
	for _, table := range tables {
		name := pgx.Identifier{table.Schema, table.Name}.Sanitize()
		var all string
		if err := a.Pool.QueryRow(ctx, "SELECT coalesce(string_agg(t::text, E'\\n'), '') FROM "+name+" t").Scan(&all); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		found, want := hits(all, values), 0
		if name == planted {
			want = 3
		}
		if found != want {
			t.Errorf("%s has %d values, want %d", name, found, want)
		}
		seen += all
	}
	// What may be there is seen: the reference as text, and in the bytes of events.
	if _, of, _ := strings.Cut(reference("acme", "deploy-token"), "://"); hits(seen, []string{of}) != 2 {
		t.Errorf("the search does not see %s both ways", of)
	}
	return nil
}

// TestVault runs the example with an engine of its own in a Vault.
func TestVault(t *testing.T) {
	server := testenv.Vault(t)
	t.Setenv("VAULT_ADDR", server.Address)
	t.Setenv("VAULT_TOKEN", server.Token)
	c, err := api.NewClient(nil)
	if err != nil {
		t.Fatal(err)
	}
	mount := "kv-" + strings.ToLower(rand.Text()[:12])
	ctx := context.WithoutCancel(t.Context())
	if err := c.Sys().MountWithContext(ctx, mount, &api.MountInput{Type: "kv", Options: map[string]string{"version": "2"}}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Sys().UnmountWithContext(ctx, mount); err != nil {
			t.Error(err)
		}
	})
	for { // a new engine is not there for a moment
		if _, err = c.KVv2(mount).Put(ctx, "ready", map[string]any{"x": "y"}); err == nil || t.Context().Err() != nil {
			break
		}
	}
	t.Setenv(dirEnv, t.TempDir())
	t.Setenv(vaultEnv, mount+"/example")
	got := apptest.Printed(t, example)
	got = regexp.MustCompile(`(TOKEN@\d+)@\S+`).ReplaceAllString(got, "$1") // Vault's versions say when, too
	want := regexp.MustCompile(`file://(\S+) of profile (\w+)`).ReplaceAllStringFunc(output, func(s string) string {
		path, profile, _ := strings.Cut(strings.TrimPrefix(s, "file://"), " of profile ")
		return reference(profile, path) + " of profile " + profile
	})
	apptest.Same(t, got, want)
	left, err := c.Logical().ListWithContext(ctx, mount+"/metadata/example/acme")
	if err != nil || left != nil {
		t.Errorf("left in Vault: %v, %v", left, err)
	}
}
