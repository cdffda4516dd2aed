package awssecrets_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager/types"

	"github.com/stepward/stepward/identity/awssecrets"
	"github.com/stepward/stepward/identity/broker"
	"github.com/stepward/stepward/identity/identitytest"
)

func store(t testing.TB, e *emulation) *awssecrets.Store {
	t.Helper()
	s, err := awssecrets.New(awssecrets.Config{Client: e.client(reader, secret), Prefix: "stepward/{tenant}/", Timeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// put gives a secret a value, and returns its version.
func put(t testing.TB, c *secretsmanager.Client, name string, value []byte, binary bool) string {
	t.Helper()
	create := &secretsmanager.CreateSecretInput{Name: &name, SecretString: aws.String(string(value))}
	next := &secretsmanager.PutSecretValueInput{SecretId: &name, SecretString: create.SecretString}
	if binary {
		create.SecretString, next.SecretString = nil, nil
		create.SecretBinary, next.SecretBinary = value, value
	}
	out, err := c.CreateSecret(t.Context(), create)
	if _, there := errors.AsType[*types.ResourceExistsException](err); there {
		out, err := c.PutSecretValue(t.Context(), next)
		if err != nil {
			t.Fatal(err)
		}
		return *out.VersionId
	}
	if err != nil {
		t.Fatal(err)
	}
	return *out.VersionId
}

func remove(t testing.TB, c *secretsmanager.Client, name string, force bool) {
	t.Helper()
	if _, err := c.DeleteSecret(t.Context(), &secretsmanager.DeleteSecretInput{SecretId: &name, ForceDeleteWithoutRecovery: &force}); err != nil {
		t.Fatal(err)
	}
}

func TestStore(t *testing.T) {
	identitytest.TestStore(t, func(t *testing.T) identitytest.Fixture {
		e := emulate(t)
		root := e.client(admin, secret)
		return identitytest.Fixture{
			Store:   store(t, e),
			Binary:  true,
			Secrets: []string{secret, reader, "Signature="},
			Put: func(t testing.TB, tenant, name string, value []byte) string {
				put(t, root, "stepward/"+tenant+"/"+name, value, strings.Contains(string(value), "\x00"))
				return name
			},
			Remove: func(t testing.TB, tenant, name string) { remove(t, root, "stepward/"+tenant+"/"+name, true) },
			Break:  func(testing.TB) { e.server.Close() },
		}
	})
}

func get(t testing.TB, s *awssecrets.Store, path, version string) (string, error) {
	v, err := s.Get(t.Context(), broker.Request{Tenant: "acme", Path: path, Version: version})
	return string(v.Bytes), err
}

func TestVersions(t *testing.T) {
	e := emulate(t)
	s, root := store(t, e), e.client(admin, secret)
	const name = "stepward/acme/key"
	one := put(t, root, name, []byte("one"), false)
	two := put(t, root, name, []byte("two"), false)
	for version, want := range map[string]string{"": "two", one: "one", two: "two"} {
		if got, err := get(t, s, "key", version); err != nil || got != want {
			t.Errorf("version %q: %q, %v", version, got, err)
		}
	}
	// What has no label any more ends one day.
	e.mu.Lock()
	delete(e.secrets[name].versions, one)
	e.mu.Unlock()
	if _, err := get(t, s, "key", one); !errors.Is(err, broker.ErrNoVersion) {
		t.Errorf("%v", err)
	}
	if _, err := get(t, s, "other", one); !errors.Is(err, broker.ErrNoSecret) {
		t.Errorf("%v", err)
	}
	// Marked for deletion, and deleted.
	remove(t, root, name, false)
	if _, err := get(t, s, "key", ""); !errors.Is(err, broker.ErrNoSecret) {
		t.Errorf("%v", err)
	}
	remove(t, root, name, true)
	put(t, root, name, []byte("three"), false)
	if _, err := get(t, s, "key", two); !errors.Is(err, broker.ErrNoVersion) {
		t.Errorf("%v", err)
	}
}

func TestFields(t *testing.T) {
	e := emulate(t)
	s, root := store(t, e), e.client(admin, secret)
	put(t, root, "stepward/acme/db", []byte(`{"username":"ada","port":5432,"more":{"a": "<&>"}}`), false)
	put(t, root, "stepward/acme/plain", []byte("no object"), false)
	for path, want := range map[string]string{"db#username": "ada", "db#port": "5432", "db#more": `{"a":"<&>"}`, "plain": "no object"} {
		if got, err := get(t, s, path, ""); err != nil || got != want {
			t.Errorf("%s: %q, %v", path, got, err)
		}
	}
	for _, path := range []string{"db#absent", "plain#x"} {
		if _, err := get(t, s, path, ""); !errors.Is(err, broker.ErrNoSecret) || strings.Contains(err.Error(), "object\"") {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// What AWS refuses is told by its code. Its message may have the signature of the request.
func TestRefused(t *testing.T) {
	verdicts := []error{broker.ErrNoSecret, broker.ErrNoVersion, broker.ErrDenied, broker.ErrCorrupt}
	for code, want := range map[string]error{
		"ThrottlingException": nil, "InternalServiceError": nil, "ExpiredTokenException": nil, "UnrecognizedClientException": nil, "IncompleteSignatureException": nil,
		"AccessDeniedException": broker.ErrDenied, "DecryptionFailure": broker.ErrDenied, "InvalidRequestException": broker.ErrNoSecret,
	} {
		e := emulate(t)
		e.trouble = code
		_, err := get(t, store(t, e), "key", "")
		aws, ok := errors.AsType[*awssecrets.Error](err)
		if !ok || aws.Code != code || strings.Contains(err.Error(), reader) || strings.Contains(err.Error(), "Signature=") {
			t.Errorf("%s: %v", code, err)
		}
		for _, verdict := range verdicts {
			if errors.Is(err, verdict) != errors.Is(want, verdict) {
				t.Errorf("%s: %v", code, err)
			}
		}
	}
	e := emulate(t)
	put(t, e.client(admin, secret), "stepward/acme/key", []byte("x"), false)
	put(t, e.client(admin, secret), "stepward/acme/open", []byte("x"), false)
	e.denied[reader] = "stepward/acme/key"
	if _, err := get(t, store(t, e), "key", ""); !errors.Is(err, broker.ErrDenied) {
		t.Errorf("%v", err)
	}
	if _, err := get(t, store(t, e), "open", ""); err != nil {
		t.Error(err)
	}
	// Signed by another key.
	s, err := awssecrets.New(awssecrets.Config{Client: e.client(reader, "wrong"), Prefix: "stepward/{tenant}/"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := get(t, s, "open", ""); err == nil || errors.Is(err, broker.ErrDenied) || strings.Contains(err.Error(), "Signature=") {
		t.Errorf("%v", err)
	}
	// Slow.
	ctx, cancel := context.WithTimeout(t.Context(), time.Nanosecond)
	defer cancel()
	if _, err := store(t, e).Get(ctx, broker.Request{Tenant: "acme", Path: "open"}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
}

func TestConfig(t *testing.T) {
	client := emulate(t).client(reader, secret)
	for _, c := range []awssecrets.Config{
		{}, {Client: client, Prefix: "{tenant}"}, {Client: client, Prefix: "prod-{tenant}/"}, {Client: client, Prefix: "../{tenant}/"}, {Client: client, Prefix: "/"}, {Client: client, Timeout: -1},
	} {
		if _, err := awssecrets.New(c); err == nil {
			t.Errorf("prefix %q, timeout %v: accepted", c.Prefix, c.Timeout)
		}
	}
	if _, err := awssecrets.New(awssecrets.Config{Client: client}); err != nil {
		t.Error(err)
	}
}
