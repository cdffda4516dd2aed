//go:build unix

package sops_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/stepward/stepward/identity/broker"
	"github.com/stepward/stepward/identity/identitytest"
	"github.com/stepward/stepward/identity/sops"
	"github.com/stepward/stepward/internal/testenv"
)

// A bench is a directory of encrypted files, and the key to them.
type bench struct {
	program, dir, key, recipient string
	config                       sops.Config
}

func open(t testing.TB) bench {
	t.Helper()
	b := bench{program: testenv.Sops(t), dir: t.TempDir(), key: filepath.Join(t.TempDir(), "age")}
	id, err := age.GenerateX25519Identity()
	if err == nil {
		err = os.WriteFile(b.key, []byte(id.String()+"\n"), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	b.recipient = id.Recipient().String()
	b.config = sops.Config{Dir: b.dir, Program: b.program, Env: []string{"SOPS_AGE_KEY_FILE=" + b.key}}
	return b
}

func (b bench) store(t testing.TB) *sops.Store {
	t.Helper()
	s, err := sops.New(b.config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// put encrypts a file, of the format that its name says.
func (b bench) put(t testing.TB, file, format, content string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), b.program, "--disable-version-check", "encrypt", "--age", b.recipient, "--input-type", format, "--output-type", format, "--filename-override", "x")
	cmd.Dir = b.dir
	cmd.Stdin = strings.NewReader(content)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, stderr.Bytes())
	}
	path := filepath.Join(b.dir, file)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, out, 0o600)); err != nil {
		t.Fatal(err)
	}
}

func get(t testing.TB, s *sops.Store, path, version string) (string, error) {
	v, err := s.Get(t.Context(), broker.Request{Tenant: "acme", Path: path, Version: version})
	return string(v.Bytes), err
}

func TestStore(t *testing.T) {
	identitytest.TestStore(t, func(t *testing.T) identitytest.Fixture {
		b := open(t)
		key, err := os.ReadFile(b.key)
		if err != nil {
			t.Fatal(err)
		}
		return identitytest.Fixture{
			Store:   b.store(t),
			Secrets: []string{string(bytes.TrimSpace(key))},
			Put: func(t testing.TB, tenant, name string, value []byte) string {
				content, err := json.Marshal(map[string]string{"value": string(value)})
				if err != nil {
					t.Fatal(err)
				}
				b.put(t, tenant+"/"+name+".json", "json", string(content))
				return name + ".json#value"
			},
			Remove: func(t testing.TB, tenant, name string) {
				if err := os.Remove(filepath.Join(b.dir, tenant, name+".json")); err != nil {
					t.Fatal(err)
				}
			},
			// Without its key there is no reading a file, and with it there is again.
			Break: func(t testing.TB) {
				if err := os.Rename(b.key, b.key+".away"); err != nil {
					t.Fatal(err)
				}
			},
		}
	})
}

func TestFormats(t *testing.T) {
	b := open(t)
	s := b.store(t)
	b.put(t, "acme/app.yaml", "yaml", "database:\n  password: hunter2\n  port: 5432\nlist: [1, 2]\nempty: \"\"\n")
	b.put(t, "acme/app.env", "dotenv", "TOKEN=hunter2\nOTHER=a=b\n")
	b.put(t, "acme/app.ini", "ini", "[section]\ntoken = hunter2\n")
	b.put(t, "acme/dir/cert.pem", "binary", "-----BEGIN\x00\xff\n")
	for path, want := range map[string]string{
		"app.yaml#database.password": "hunter2", "app.yaml#database.port": "5432", "app.yaml#list": "[1,2]", "app.yaml#database": `{"password":"hunter2","port":5432}`, "app.yaml#empty": "",
		"app.env#TOKEN": "hunter2", "app.env#OTHER": "a=b", "app.ini#section.token": "hunter2", "dir/cert.pem": "-----BEGIN\x00\xff\n",
	} {
		if got, err := get(t, s, path, ""); err != nil || got != want {
			t.Errorf("%s: %q, %v, want %q", path, got, err, want)
		}
	}
	for _, path := range []string{"app.yaml#absent", "app.yaml#database.absent", "app.yaml#database.password.x", "app.yaml#sops", "app.env#token", "absent.yaml#x", "dir", "app.yaml"} {
		if got, err := get(t, s, path, ""); !errors.Is(err, broker.ErrNoSecret) && !errors.Is(err, broker.ErrName) {
			t.Errorf("%s: %q, %v", path, got, err)
		}
	}
}

// A file that was changed has the version of before no more.
func TestVersion(t *testing.T) {
	b := open(t)
	s := b.store(t)
	b.put(t, "acme/x.json", "json", `{"v":"one"}`)
	v, err := s.Get(t.Context(), broker.Request{Tenant: "acme", Path: "x.json#v"})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := get(t, s, "x.json#v", v.Version); err != nil || got != "one" {
		t.Errorf("%q, %v", got, err)
	}
	b.put(t, "acme/x.json", "json", `{"v":"one"}`)
	if _, err := get(t, s, "x.json#v", v.Version); !errors.Is(err, broker.ErrNoVersion) {
		t.Errorf("%v", err)
	}
}

func TestDamage(t *testing.T) {
	b := open(t)
	s := b.store(t)
	path := filepath.Join(b.dir, "acme", "x.json")
	for name, change := range map[string]func(string) string{
		"plain":   func(string) string { return `{"v":"canary"}` },
		"empty":   func(string) string { return "" },
		"cut":     func(s string) string { return s[:len(s)/2] },
		"changed": func(s string) string { return strings.Replace(s, `"w": "ENC`, `"u": "ENC`, 1) },
		"removed": func(s string) string {
			before, after, _ := strings.Cut(s, `"w"`)
			_, after, _ = strings.Cut(after, `"sops"`)
			return before + `"sops"` + after
		},
	} {
		b.put(t, "acme/x.json", "json", `{"v":"canary","w":"more"}`)
		data, err := os.ReadFile(path)
		if err == nil {
			err = os.WriteFile(path, []byte(change(string(data))), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		if got, err := get(t, s, "x.json#v", ""); !errors.Is(err, broker.ErrCorrupt) || strings.Contains(err.Error(), "canary") || !strings.Contains(err.Error(), "acme/x.json") {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	// A link leads nowhere out of the directory.
	outside := filepath.Join(t.TempDir(), "x.json")
	b.put(t, "acme/x.json", "json", `{"v":"canary"}`)
	if err := errors.Join(os.Rename(path, outside), os.Symlink(outside, path)); err != nil {
		t.Fatal(err)
	}
	if got, err := get(t, s, "x.json#v", ""); err == nil {
		t.Errorf("through a link: %q", got)
	}
}

func TestProgram(t *testing.T) {
	b := open(t)
	b.put(t, "acme/x.json", "json", `{"v":"x"}`)
	for _, bad := range []sops.Config{{}, {Dir: b.dir, Program: "/does/not/exist"}, {Dir: b.dir + "/absent", Program: b.program}, {Dir: b.dir, Program: b.program, Timeout: -1}} {
		if _, err := sops.New(bad); err == nil {
			t.Errorf("%+v was accepted", bad)
		}
	}
	// The broker's own environment is not the program's.
	t.Setenv("SOPS_AGE_KEY_FILE", b.key)
	c := b.config
	c.Env = nil
	b.config = c
	_, err := get(t, b.store(t), "x.json#v", "")
	if e, ok := errors.AsType[*sops.Error](err); !ok || e.Status != 128 {
		t.Errorf("without a key: %v", err)
	}
	// One that hangs, and one that talks.
	script := filepath.Join(t.TempDir(), "sops")
	if err := os.WriteFile(script, []byte("#!/bin/sh\nexec /bin/sleep 600\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	b.config.Program, b.config.Timeout = script, 50*time.Millisecond
	if _, err := get(t, b.store(t), "x.json#v", ""); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	if err := os.WriteFile(script, []byte("#!/bin/sh\necho canary; echo canary >&2; exit 7\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	b.config.Timeout = 0
	if got, err := get(t, b.store(t), "x.json#v", ""); err == nil || strings.Contains(got+err.Error(), "canary") {
		t.Errorf("%q, %v", got, err)
	}
}
